"""JSON in and out: a bounded parser and canonical JSON. The only place of the engine with orjson.

The strict check runs over the parsed value: integers in range, no floats, string keys, bounded
depth. orjson itself refuses NaN, infinities and lone surrogates; integers beyond 64 bits come out
of it as floats, which the check refuses; of duplicate keys the last wins.
Events of room versions before 6 need not be canonical: `strict=False` takes floats and integers of
64 bits, and writes them as the specification's own example and the established servers do.
Spec: appendices, canonical JSON; rooms/v3 and rooms/v6, canonical JSON.
"""

from __future__ import annotations

import json
import math
from typing import Any, TypeAlias

import orjson

from bridge.errors import BadInput

JsonObject: TypeAlias = dict[str, Any]
"""A parsed JSON object. Shared and never changed in place; copy before changing."""

MAX_INTEGER = 2**53 - 1
MAX_LENIENT_INTEGER = 2**63 - 1
"""Of `depth` and times, in room versions that do not enforce canonical JSON; in contents there may
be more. Spec: PDU schema of rooms/v3, depth."""
MAX_DEPTH = 100
"""Nesting of objects and arrays. orjson stops at 1024; nothing real is near either."""


def parse_json(data: bytes, *, max_bytes: int) -> Any:
    """Any JSON value, floats included. Raises `BadInput` when too large or not JSON."""
    if len(data) > max_bytes:
        raise BadInput(f"JSON over {max_bytes} bytes", errcode="M_TOO_LARGE")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise BadInput(f"not JSON: {exc}", errcode="M_NOT_JSON") from exc


def check_canonical(value: object, *, strict: bool = True) -> None:
    """Raise `BadInput` unless the value has a canonical form. `bool` is no integer.

    Not `strict`: floats that are finite and integers of 64 bits, signed or not, pass as well.
    """
    smallest, largest = (-MAX_INTEGER, MAX_INTEGER) if strict else (-(2**63), 2**64 - 1)
    # An explicit stack: the input chooses its depth, and must not choose ours. Only objects and
    # arrays are put on it: this runs over everything that comes in.
    stack: list[tuple[Any, int]] = [((value,), -1)]
    while stack:
        container, depth = stack.pop()
        if depth >= MAX_DEPTH:
            raise BadInput(f"JSON nested deeper than {MAX_DEPTH}")
        inner = container
        if type(container) is dict:
            inner = container.values()
            for key in container:
                if type(key) is not str:
                    raise BadInput("object key is not a string")
                if not key.isascii():
                    _check_text(key)
        for item in inner:
            kind = type(item)
            if kind is str:
                if not item.isascii():
                    _check_text(item)
            elif kind is dict or kind is list:
                stack.append((item, depth + 1))
            elif kind is int:
                if not smallest <= item <= largest:
                    raise BadInput("integer out of the range of canonical JSON")
            elif kind is float:
                if strict or not math.isfinite(item):
                    raise BadInput("numbers with fraction or exponent are not canonical JSON")
            elif item is not None and kind is not bool:
                raise BadInput(f"{kind.__name__} is no JSON value")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise BadInput("lone surrogate in a string") from exc


def encode_canonical(value: object, *, strict: bool = True) -> bytes:
    """Shortest UTF-8 form, keys sorted by code point. Does not run `check_canonical`.

    orjson sorts keys by their UTF-8 bytes, which is the order of code points. Not `strict`: what is
    not canonical may be there, and is written so that hashes and signatures agree.
    """
    if not strict:
        # orjson writes 1e-07 as 1e-7. The specification's example is this very call.
        try:
            text = json.dumps(
                value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
            )
            return text.encode()
        except ValueError as exc:  # no finite number, or a lone surrogate
            raise BadInput(f"no canonical JSON: {exc}") from exc
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as exc:
        raise BadInput(f"no canonical JSON: {exc}") from exc
