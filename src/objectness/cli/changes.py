"""Options that are named one by one, and change what something else decides: the weights, or a preset.

A dataclass of options on the command line is built as soon as one of its fields is named, with defaults for all others;
then nobody can tell what was asked for. So the command line gets a copy of the dataclass in which a field that was not
named is None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field, make_dataclass
from typing import Annotated, Any, get_type_hints

from cyclopts import Parameter


def make_changes(kind: type, prefix: str = "") -> type:
    """A copy of a dataclass of options, nested ones included, in which every field may be None, and is by default.

    Args:
        kind: the dataclass; its documentation is the help of its options.
        prefix: what the names of its options begin with.
    """
    fields = []
    for name, hint in get_type_hints(kind).items():
        option = prefix + name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            hint = make_changes(hint, f"{option}.")  # type: ignore[arg-type]  # no instance: a type hint
        hint |= None
        if hint == bool | None:  # what weights switch on, a command can switch off
            hint = Annotated[hint, Parameter(negative=f"--{prefix}no-{name.replace('_', '-')}")]
        fields.append((name, hint, field(default=None)))
    changes = make_dataclass(f"{kind.__name__}Changes", fields, frozen=True)
    changes.__doc__ = kind.__doc__
    changes.__module__ = kind.__module__  # cyclopts takes no options from a class of the standard library's `types`
    return changes


def list_changes(changes: object | None) -> dict[str, Any]:
    """What was named, as nested mappings; empty where nothing was."""
    if changes is None:
        return {}
    values = {each.name: getattr(changes, each.name) for each in dataclasses.fields(changes)}  # type: ignore[arg-type]
    named = {name: list_changes(value) if dataclasses.is_dataclass(value) else value for name, value in values.items()}
    return {name: value for name, value in named.items() if value is not None and value != {}}


def apply_changes(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings with some of their values replaced."""
    changed = dict(values)
    for name, value in changes.items():
        changed[name] = apply_changes(values[name], value) if isinstance(value, Mapping) else value
    return changed


def list_options(changes: Mapping[str, Any], prefix: str = "--") -> list[str]:
    """The options that were named, as one types them."""
    options = []
    for name, value in changes.items():
        option = prefix + name.replace("_", "-")
        options += list_options(value, f"{option}.") if isinstance(value, Mapping) else [option]
    return options
