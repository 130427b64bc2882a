"""The house keeps its picture: imports point down, and folders are the rules.

Every import counts: at the top of a file, inside a function, and for type checking alone. Only whether a command starts
quickly is asked of those at the top. The package's own `__init__`, the front door with all public names, is no room.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

import objectness

PACKAGE = Path(__file__).parents[1] / "src" / "objectness"

# From the ground up. A room imports from its own files and from the floors below, never from its own floor.
FLOORS: tuple[set[str], ...] = (
    {"errors", "lines", "version", "threads"},
    {"config", "device", "files", "packages", "pickles"},
    {"structures"},
    {"kernels", "images", "evaluation"},  # evaluation: counting and reporting; measuring a network is above
    {"geometry", "model", "data"},
    {"network", "proposal_files", "proposals"},
    {"weights", "runtimes", "torchvision"},
    {"predict"},
    {"evaluation.measure"},
    {"training", "bulk"},
    {"cli", "page", "serve"},
    {"__main__"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

NETWORK = {"kernels", "geometry", "model", "network"}
WITHOUT_NETWORK = {"images", "data", "proposals", "proposal_files", "evaluation", "bulk"}
FOR_ANYBODY = "geometry.nms"  # what people do with boxes of their own, and what it stands on: no part of a network
TOP = {"cli", "page", "serve"}  # what uses public names, and reaches into no part of the network

# (from, to): why it stands for now
KNOWN_EXCEPTIONS = {("cli.propose", "network"): "the type of the network whose weights it hashes"}

When = Literal["at once", "late", "types"]  # at the top of a file, inside a function, under TYPE_CHECKING


class Import(NamedTuple):
    """One import statement's meaning."""

    target: str  # "geometry.boxes" or "" (the front door) for our own, "torch" with its root for others
    own: bool
    name: str | None  # what is taken out of it
    when: When


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}
ROOMS = {name.split(".")[0] for name in FILES} - {""}
MODULES = [name for name in FILES if name]


@cache
def read_imports(module: str) -> tuple[Import, ...]:
    found: list[Import] = []

    def visit(node: ast.AST, when: When) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test).removeprefix("typing.") == "TYPE_CHECKING":
            when = "types"
        if isinstance(node, ast.Import):
            found.extend(make_import(alias.name, 0, None, when, module) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.extend(make_import(node.module or "", node.level, alias.name, when, module) for alias in node.names)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            when = "late"
        for child in ast.iter_child_nodes(node):
            visit(child, when)

    visit(ast.parse(FILES[module].read_text(encoding="utf-8")), "at once")
    return tuple(found)


def make_import(path: str, level: int, name: str | None, when: When, module: str) -> Import:
    if level:
        parts = module.split(".") if module else []
        is_package = FILES[module].name == "__init__.py"
        base = parts[: len(parts) - level + is_package]
        target = ".".join([*base, *filter(None, [path])])
    elif path.split(".")[0] == "objectness":
        target = path.removeprefix("objectness").lstrip(".")
    else:
        return Import(path.split(".")[0], False, name, when)
    inner = f"{target}.{name}".lstrip(".")
    if inner in FILES:  # "from ..geometry import boxes" takes a module out of a room
        return Import(inner, True, None, when)
    return Import(target, True, name, when)


def find_direct(module: str, *, late: bool = True) -> set[str]:
    """What a module imports of ours; without `late` only what is imported with it."""
    return {each.target for each in read_imports(module) if each.own and (late or each.when == "at once")} - {module}


def find_all(module: str, *, late: bool = True) -> set[str]:
    """What a module imports, directly or through others."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        for target in find_direct(waiting.pop(), late=late) - seen:
            seen.add(target)
            waiting.append(target)
    return seen


def find_others(modules: set[str], *, late: bool = True) -> set[str]:
    """The packages of others that some modules import."""
    return {
        each.target
        for module in modules
        for each in read_imports(module)
        if not each.own and (late or each.when == "at once")
    }


def room_of(module: str) -> str:
    """The room of a module; a file of a room may have a floor of its own."""
    return module if module in FLOOR_OF else module.split(".")[0]


def modules_of(rooms: set[str]) -> list[str]:
    return [name for name in MODULES if room_of(name) in rooms]


def list_arrows() -> Iterator[tuple[str, str]]:
    """(from, to) of every import from one room into another."""
    for module in MODULES:
        for target in find_direct(module):
            if room_of(target) != room_of(module):
                yield module, target


def test_this_file_can_read_imports() -> None:
    assert {"geometry.boxes", "config", "structures", "kernels.cpu.matching"} <= find_direct("geometry.matching")
    assert {"data.records", "evaluation.recall"} <= find_direct("evaluation.measure")
    assert {"weights.hub", "weights.checkpoint"} <= find_direct("predict")
    assert "torch" in find_others({"geometry.boxes"})
    by_when = {(each.target, each.when) for name in ("bulk.run", "cli.propose") for each in read_imports(name)}
    assert {("proposals", "types"), ("bulk.run", "late"), ("threads", "at once")} <= by_when
    assert "predict" not in find_direct("cli.propose", late=False)
    assert "predict" in find_direct("cli.propose")


def test_every_room_has_its_floor() -> None:
    assert {name for name in MODULES if room_of(name) not in FLOOR_OF} == set()
    assert set(FLOOR_OF) <= {*MODULES, "page", "serve"}  # the last two are to come
    assert len(FLOOR_OF) == sum(map(len, FLOORS))


def test_no_arrow_points_up() -> None:
    wrong = {(a, b) for a, b in list_arrows() if FLOOR_OF[room_of(a)] <= FLOOR_OF.get(room_of(b), len(FLOORS))}
    assert wrong == set()


def test_there_is_no_circle() -> None:
    assert [module for module in MODULES if module in find_all(module)] == []


def test_nobody_goes_through_the_front_door() -> None:
    assert [module for module in MODULES if "" in find_direct(module)] == []


def test_rooms_import_nothing_by_themselves() -> None:
    doors = {name for name in MODULES if FILES[name].name == "__init__.py"} - {"cli"}
    assert {name for name in doors if read_imports(name)} == set()


def test_only_the_network_knows_geometry_and_modules() -> None:
    rooms = {module: {room_of(target) for target in find_direct(module)} for module in MODULES}
    assert {module for module, known in rooms.items() if {"geometry", "model"} <= known} == {"network"}


def test_kernels_are_known_to_the_plain_functions_alone() -> None:
    knowing = {a for a, b in list_arrows() if room_of(b) == "kernels"}
    assert {room_of(name) for name in knowing} <= {"geometry", *TOP}  # the top says which of them run


@pytest.mark.parametrize("module", modules_of(WITHOUT_NETWORK))
def test_images_data_files_and_recall_do_not_know_the_network(module: str) -> None:
    known = {name for name in find_all(module) if room_of(name) in NETWORK}
    if room_of(module) in {"proposals", "bulk"}:
        known -= {FOR_ANYBODY, *find_all(FOR_ANYBODY)}
    assert known == set()


def test_recall_knows_neither_torch_nor_drawing() -> None:
    known = {"evaluation.recall", "evaluation.report"} | find_all("evaluation.recall") | find_all("evaluation.report")
    assert not find_others(known) & {"torch", "PIL"}
    assert {name for name in known if room_of(name) not in {"evaluation", "errors", "files", "packages"}} == set()


def test_data_knows_torch_for_decoding_alone() -> None:
    assert {name for name in modules_of({"data"}) if "torch" in find_others({name})} == {"data.decode"}


def test_the_top_does_not_reach_into_the_network() -> None:
    inner = {(a, b) for a, b in list_arrows() if room_of(a) in TOP and room_of(b) in NETWORK - {"kernels"}}
    assert inner == set(KNOWN_EXCEPTIONS)


def test_private_names_stay_private() -> None:
    taken = {
        (module, each.name) for module in FILES for each in read_imports(module)
        if each.own and each.name and each.name.startswith("_") and not each.name.endswith("__")
    }  # fmt: skip
    assert not taken


def test_help_needs_no_torch() -> None:
    """What the command line and the package import at once is light."""
    for start in ("cli", ""):
        heavy = find_others({start} | find_all(start, late=False), late=False)
        assert not heavy & {"torch", "numpy", "PIL", "safetensors"}


def test_neither_torchvision_nor_timm_is_needed() -> None:
    assert not find_others(set(FILES) - {"torchvision"}) & {"torchvision", "timm"}


def test_no_module_takes_the_place_of_a_public_name() -> None:
    assert not set(objectness.__all__) & ROOMS


def test_tests_stand_in_the_same_rooms() -> None:
    tests = Path(__file__).parent
    files = list(tests.rglob("test_*.py"))
    folders = {file.relative_to(tests).parts[0] for file in files if file.parent != tests}
    assert folders <= ROOMS | {"peer"}
    assert [name for name, count in Counter(file.name for file in files).items() if count > 1] == []
