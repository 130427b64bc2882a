"""Packages of others that only some calls need."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from .errors import ObjectnessError


def require(
    what: str, packages: str | Sequence[str], extra: str, *, error: type[ObjectnessError] = ObjectnessError
) -> None:
    """Raise unless packages are installed.

    Args:
        what: what needs them, as a sentence begins: "Parquet".
        packages: the names under which they are imported.
        extra: the extra of this package that brings them.
        error: what is raised.

    Raises:
        ObjectnessError: one is not; the message names the extra.
    """
    if missing := find_missing([packages] if isinstance(packages, str) else packages):
        raise error(f"{what} needs {' and '.join(missing)}: pip install 'objectness[{extra}]'")


def find_missing(packages: Sequence[str]) -> list[str]:
    """Those of some packages that are not installed; nothing is imported."""
    return [package for package in packages if not is_installed(package)]


def is_installed(package: str) -> bool:
    """Whether a top-level package can be found; it is not imported."""
    return find_spec(package) is not None
