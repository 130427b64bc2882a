"""The configuration text in mmdetection's checkpoints: Python source, taken apart and never run.

Version 3 stores the whole configuration as `name = value` lines; version 2 that, or all files it was made from, each
after a line with its path, a later one changing an earlier. Values are literals, `dict(...)`, arithmetic of numbers and
names of earlier values; what is anything else counts as unknown.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...errors import CheckpointError

MOST_CHARACTERS = 2_000_000
BASE = "_base_"  # the files that a configuration changes
DELETE = "_delete_"  # in a dict: take it as it is, not as changes

OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Unknown:
    """A value that only running the text would give."""


def parse_config(text: str, origin: str) -> dict[str, Any]:
    """The values of a configuration text by name; nested dicts, lists, tuples and plain values.

    Args:
        text: Python source.
        origin: where it stands, for messages.

    Raises:
        CheckpointError: no Python, or changes to files that it does not hold.
    """
    lines = text.splitlines()
    paths = [line for line in lines if _is_path(line)]
    source = "\n".join("" if _is_path(line) else line for line in lines)
    try:
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"{len(text)} characters")
        values = _evaluate_all(ast.parse(source).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{origin}: its configuration text is no Python ({error})") from error
    if BASE in values and len(paths) < 2:
        raise CheckpointError(
            f"{origin}: its configuration text changes files that are not in it ({values[BASE]!r}), so that its "
            f"settings are not known"
        )
    return values


def find_dicts(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every dict in a value, outer before inner, in the order of the text."""
    if isinstance(value, Mapping):
        yield value
        children = list(value.values())
    else:
        children = list(value) if isinstance(value, (list, tuple)) else []
    for child in children:
        yield from find_dicts(child)


def name_type(value: Mapping[str, Any]) -> str:
    """What a dict builds, its "type" without the package that it stands in; "" where it has none."""
    return str(value.get("type", "")).rsplit(".", 1)[-1]


def _is_path(line: str) -> bool:
    return line.rstrip().endswith(".py") and not set(line) & set("=#'\"(")


def _evaluate_all(statements: Sequence[ast.stmt]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Name):
                values[target.id] = _merge(values.get(target.id), _evaluate(statement.value, values))
    return values


def _evaluate(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The value of an expression, `Unknown` where it is more than a value."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Tuple():
            return tuple(_evaluate(each, names) for each in node.elts)
        case ast.List() | ast.Set():
            return [_evaluate(each, names) for each in node.elts]
        case ast.Dict():
            keys = [None if key is None else str(_evaluate(key, names)) for key in node.keys]
            return _make_dict(zip(keys, node.values, strict=True), names)
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            return _make_dict(((each.arg, each.value) for each in node.keywords), names)
        case ast.Name():
            return names.get(node.id, Unknown)
        case ast.UnaryOp(op=ast.USub()):
            value = _evaluate(node.operand, names)
            return -value if isinstance(value, (int, float)) else Unknown
        case ast.BinOp():
            sides = [_evaluate(node.left, names), _evaluate(node.right, names)]
            known = all(isinstance(side, (int, float)) for side in sides) and type(node.op) in OPERATORS
            return OPERATORS[type(node.op)](*sides) if known and sides[1] != 0 else Unknown
        case _:
            return Unknown


def _make_dict(items: Iterable[tuple[str | None, ast.expr]], names: Mapping[str, Any]) -> Any:
    """A dict from keys and values; without a key (`**value`) all that the value holds."""
    made: dict[str, Any] = {}
    for key, node in items:
        value = _evaluate(node, names)
        if key is None and not isinstance(value, Mapping):
            return Unknown
        made |= value if key is None else {key: value}
    return made


def _merge(old: Any, new: Any) -> Any:
    """A value after a change, as mmdetection merges files: dicts key by key, all else replaced."""
    if not isinstance(new, dict):
        return new
    if not isinstance(old, dict) or new.get(DELETE):
        return {key: value for key, value in new.items() if key != DELETE}
    return {**old, **{key: _merge(old.get(key), value) for key, value in new.items()}}
