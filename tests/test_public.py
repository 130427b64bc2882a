"""The names that people import."""

import ast
import inspect
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import objectness

PACKAGE = Path(objectness.__file__)


def list_type_checking_imports() -> list[tuple[str, str, str | None]]:
    """(module, name, name it is given) of each import that only type checkers see."""
    tree = ast.parse(PACKAGE.read_text())
    (block,) = (
        node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"
    )
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(block.body)
    assert all(node.level == 1 for node in imports)
    return [(str(node.module), alias.name, alias.asname) for node in imports for alias in node.names]


def test_type_checkers_see_the_same_names() -> None:
    seen = list_type_checking_imports()
    assert all(name == alias for _, name, alias in seen)  # `x as x` exports it
    assert [(home, name) for home, name, _ in seen] == [
        (home, name) for home, names in objectness._HOMES.items() for name in names
    ]


def test_all_names_are_there_and_none_is_named_twice() -> None:
    assert objectness.__all__ == sorted(set(objectness.__all__))
    assert len(objectness.__all__) == sum(len(names) for names in objectness._HOMES.values())
    assert set(objectness.__all__) <= set(dir(objectness))
    for home, names in objectness._HOMES.items():
        for name in names:
            assert getattr(objectness, name) is getattr(import_module(f"objectness.{home}"), name)
    namespace: dict[str, object] = {}
    exec("from objectness import *", namespace)
    assert set(objectness.__all__) <= set(namespace)


@pytest.mark.parametrize("name", objectness.__all__)
def test_every_name_is_explained(name: str) -> None:
    value = getattr(objectness, name)
    if not callable(value):
        assert isinstance(value, dict)  # BACKBONES
        return
    assert inspect.getdoc(value)
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")  # the one that dataclass writes itself
    if inspect.isclass(value):
        for member, method in vars(value).items():
            if not member.startswith("_") and callable(method):
                assert inspect.getdoc(method), f"{name}.{member}"
    else:
        assert "return" in inspect.get_annotations(value)


def test_the_version_is_that_of_the_project() -> None:
    project = PACKAGE.parents[2] / "pyproject.toml"
    if not project.is_file():
        pytest.skip("the package is installed apart from its project")
    assert objectness.__version__ == tomllib.loads(project.read_text())["project"]["version"]


def test_importing_costs_nothing() -> None:
    script = "import objectness, sys; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules); dir(objectness)"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'objectness' has no attribute 'nonsense'"):
        _ = objectness.nonsense  # type: ignore[attr-defined]
    assert not hasattr(objectness, "__wrapped__")


@pytest.mark.slow
def test_the_functions_named_like_modules_are_functions_after_their_modules_were_imported() -> None:
    script = (
        "import objectness, objectness.geometry.nms, objectness.training.loop\n"
        "assert objectness.train.__name__ == 'train', objectness.train\n"
        "assert objectness.nms.__name__ == 'nms', objectness.nms\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
