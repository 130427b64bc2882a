"""Packages of others that only some calls need."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from .errors import ObjectnessError


def require(
    what: str,
    packages: str | Sequence[str],
    extra: str | None = None,
    *,
    error: type[ObjectnessError] = ObjectnessError,
) -> None:
    """Raise unless packages are installed.

    Args:
        what: what needs them, as a sentence begins: "Parquet".
        packages: the names under which they are imported.
        extra: the extra of this package that brings them; None if none does.
        error: what is raised.

    Raises:
        ObjectnessError: one is not; the message says what to install.
    """
    if missing := find_missing([packages] if isinstance(packages, str) else packages):
        remedy = " ".join(missing) if extra is None else f"'objectness[{extra}]'"
        raise error(f"{what} needs {' and '.join(missing)}: pip install {remedy}")


def find_missing(packages: Sequence[str]) -> list[str]:
    """Those of some packages that are not installed; nothing is imported."""
    return [package for package in packages if not is_installed(package)]


def is_installed(package: str) -> bool:
    """Whether a top-level package can be found; it is not imported."""
    try:
        return find_spec(package) is not None
    except ValueError:  # it was imported, but has no spec
        return True
