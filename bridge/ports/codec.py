"""Frozen dataclasses to JSON objects and back, for rows that outlive the process.

Handles what our values are made of: str, int, float, bool, None, tuples and sequences, string-keyed
mappings, nested dataclasses, and unions of these with None. A tagged union carries `kind`, the
class' name. Unknown keys are ignored and missing ones take their default, so that a row
written by the version before can still be read.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from bridge.errors import BadInput

T = TypeVar("T")


def to_json(value: object) -> Any:
    """A JSON value; dataclasses become objects without a tag."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    return value


def from_json(cls: type[T], data: object) -> T:
    """The dataclass that `to_json` wrote."""
    if not dataclasses.is_dataclass(cls) or not isinstance(data, Mapping):
        raise BadInput(f"not a stored {cls.__name__}")
    try:
        return cls(
            **{
                name: _read(hint, data[name])
                for name, hint in _fields_of(cls).items()
                if name in data
            }
        )
    except (TypeError, ValueError) as exc:
        raise BadInput(f"not a stored {cls.__name__}: {exc}") from exc


@cache
def _fields_of(cls: type) -> Mapping[str, Any]:
    """Names and types; the types are spelt as text in the source, and reading that is slow."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def to_tagged(value: object) -> dict[str, Any]:
    """As `to_json`, with the class' name in `kind`."""
    return {"kind": type(value).__name__, **to_json(value)}


def from_tagged(classes: Sequence[type[T]], data: Mapping[str, Any]) -> T:
    """The one of `classes` that `kind` names."""
    for cls in classes:
        if cls.__name__ == data.get("kind"):
            return from_json(cls, data)
    raise BadInput(f"stored row of an unknown kind: {data.get('kind')!r}")


def _read(hint: Any, value: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _read(next(a for a in get_args(hint) if a is not type(None)), value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value)
    if isinstance(value, list):
        args = get_args(hint)
        if origin is tuple and len(args) > 1 and args[1] is not Ellipsis:
            return tuple(_read(a, v) for a, v in zip(args, value, strict=True))
        item = args[0] if args else Any
        return tuple(_read(item, v) for v in value)
    if isinstance(hint, type) and issubclass(hint, str) and isinstance(value, str):
        return hint(value)  # an enumeration
    return value
