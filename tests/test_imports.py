"""The house keeps its picture: imports point one way.

Geometry and nn.Modules know nothing of each other; `network` joins them; data, evaluation and drawing do not know the
network; `train` joins; the command line and the page stand on top.
"""

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "objectness"

GEOMETRY = {
    "geometry.boxes",
    "geometry.anchors",
    "geometry.matching",
    "geometry.losses",
    "geometry.selection",
    "geometry.nms",
    "geometry.roi_align",
}
KERNELS = {"kernels"}  # the same functions as some of geometry's, in C
MODULES = {"model.norm", "model.resnet", "model.efficientnet", "model.backbone", "model.pyramid", "model.head"}
GROUND = {"structures", "config", "errors", "version"}
WITHOUT_NETWORK = {
    "images",
    "proposals",
    "images.reading",
    "images.drawing",
    "evaluation.recall",
    "evaluation.report",
    "proposal_files.record",
    "bulk.run",
    "threads",
    "bulk.resume",
    "images.network_input",
}
WITHOUT_NETWORK |= {"proposal_files.convert", "pickles", "weights.hub"}
NETWORK_AND_ABOVE = {"network", "weights.checkpoint", "weights.opening", "predict", "training.loop"}
TOP = {"cli", "page"}


class Import(NamedTuple):
    """One import statement's meaning."""

    target: str  # "geometry.boxes", "data.records" or "" (the package) for our own, "torch" with its root for others
    own: bool
    name: str | None  # what is taken out of it
    late: bool  # inside a function


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


@cache
def read_imports(module: str) -> tuple[Import, ...]:
    """Every import of a module but those for type checking alone."""
    found: list[Import] = []

    def visit(node: ast.AST, late: bool) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.extend(make_import(alias.name, 0, None, late, module) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.extend(make_import(node.module or "", node.level, alias.name, late, module) for alias in node.names)
        inside = late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(FILES[module].read_text(encoding="utf-8")), late=False)
    return tuple(found)


def make_import(path: str, level: int, name: str | None, late: bool, module: str) -> Import:
    if level:
        parts = module.split(".") if module else []
        is_package = FILES[module].name == "__init__.py"
        base = parts[: len(parts) - level + is_package]
        target = ".".join([*base, *filter(None, [path])])
    elif path.split(".")[0] == "objectness":
        target = path.removeprefix("objectness").lstrip(".")
    else:
        return Import(path.split(".")[0], False, name, late)
    inner = f"{target}.{name}".lstrip(".")
    if inner in FILES:  # "from . import boxes" takes a module out of the package
        return Import(inner, True, None, late)
    return Import(target, True, name, late)


def find_direct(module: str, *, late: bool = True) -> set[str]:
    return {each.target for each in read_imports(module) if each.own and (late or not each.late)} - {""}


def find_all(module: str, *, late: bool = True) -> set[str]:
    """What a module imports, directly or through others."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        for target in find_direct(waiting.pop(), late=late) - seen:
            seen.add(target)
            waiting.append(target)
    return seen


def is_in(module: str, group: set[str]) -> bool:
    return module in group or module.split(".")[0] in group


def test_the_picture_names_what_is_there() -> None:
    named = GEOMETRY | MODULES | GROUND | WITHOUT_NETWORK | NETWORK_AND_ABOVE | {"cli", "data"}
    assert {module.split(".")[0] for module in named} <= {module.split(".")[0] for module in FILES}
    # and this file can read: some imports that are known to be there
    assert {"geometry.boxes", "config", "structures"} <= find_direct("geometry.matching")
    assert {"data.records", "evaluation.recall"} <= find_direct("evaluation.measure")
    assert {"data.records", "errors", "structures"} <= find_direct("training.loader")
    assert "torch" in {each.target for each in read_imports("geometry.boxes") if not each.own}
    assert "predict" not in find_direct("cli.propose", late=False)
    assert "predict" in find_direct("cli.propose")


@pytest.mark.parametrize("module", sorted(GEOMETRY))
def test_geometry_stands_on_the_ground(module: str) -> None:
    others = {name for name in find_direct(module) if not is_in(name, KERNELS)}
    assert others <= GEOMETRY | GROUND


@pytest.mark.parametrize("module", [name for name in FILES if is_in(name, KERNELS)])
def test_kernels_stand_on_the_ground(module: str) -> None:
    assert {name for name in find_direct(module) if not is_in(name, KERNELS)} <= GROUND


def test_kernels_are_known_to_the_plain_functions_alone() -> None:
    knowing = {name for name in FILES if any(is_in(target, KERNELS) for target in find_direct(name))}
    assert {name for name in knowing if not is_in(name, GEOMETRY | KERNELS | TOP)} == set()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_stand_on_the_ground(module: str) -> None:
    assert find_direct(module) <= MODULES | GROUND


def test_only_the_network_knows_both() -> None:
    """But for conversion, which takes other programs' anchors and backbones for what they are."""
    both = {name for name in FILES if find_direct(name) & GEOMETRY and find_direct(name) & MODULES}
    assert {name for name in both if not is_in(name, {"weights"})} == {"network"}


@pytest.mark.parametrize("module", [name for name in FILES if is_in(name, WITHOUT_NETWORK | GROUND | {"data"})])
def test_data_evaluation_and_drawing_do_not_know_the_network(module: str) -> None:
    beyond = {name for name in find_all(module) if is_in(name, MODULES | NETWORK_AND_ABOVE | TOP)}
    assert not beyond


def test_training_is_known_to_the_top_alone() -> None:
    assert {name for name in FILES if "training.loop" in find_direct(name)} <= {"cli.train"}


@pytest.mark.parametrize("module", [name for name in FILES if is_in(name, TOP)])
def test_top_does_not_reach_into_the_network(module: str) -> None:
    assert not find_direct(module) & (GEOMETRY | MODULES | {"network"})


def test_nothing_knows_the_top() -> None:
    below = [name for name in FILES if not is_in(name, TOP | {"__main__"})]
    assert not {name for name in below if any(is_in(target, TOP) for target in find_direct(name))}


def test_private_names_stay_private() -> None:
    taken = {
        (module, each.name) for module in FILES for each in read_imports(module)
        if each.own and each.name and each.name.startswith("_") and not each.name.endswith("__")
    }  # fmt: skip
    assert not taken


def test_no_cycles() -> None:
    for module in FILES:
        assert module not in find_all(module, late=False), f"{module} imports itself in the end"


def test_help_needs_no_torch() -> None:
    """What the command line and the package import at once is light."""
    for start in ("cli", ""):
        for module in {start} | find_all(start, late=False):
            heavy = {each.target for each in read_imports(module) if not each.own and not each.late}
            assert not heavy & {"torch", "numpy", "PIL", "safetensors"}, module


def test_neither_torchvision_nor_timm_is_needed() -> None:
    for module in FILES:
        taken = {each.target for each in read_imports(module) if not each.own}
        assert module == "torchvision" or not taken & {"torchvision", "timm"}, module
