"""Answers held against the specification's own OpenAPI files (`tests/vectors/openapi`).

A small part of JSON Schema, as much as those files use for the answers of a server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[1] / "vectors" / "openapi"
ERROR = FOLDER / "client-server" / "definitions" / "errors" / "error.yaml"
# The files ask for a field that events no longer have.
GONE = frozenset({"origin"})
_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


@cache
def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


@cache
def operations() -> Mapping[tuple[str, str], tuple[Path, Any]]:
    """By method and path template, `{}` for each parameter: the file and the operation."""
    found: dict[tuple[str, str], tuple[Path, Any]] = {}
    for path in sorted(FOLDER.glob("*/*.yaml")):
        document = _load(path)
        base = document["servers"][0]["variables"]["basePath"]["default"]
        for template, methods in document["paths"].items():
            for method, operation in methods.items():
                found[method.upper(), anonymous(base + template)] = (path, operation)
    return found


def anonymous(template: str) -> str:
    """The template without the names of its parameters."""
    return re.sub(r"\{[^}]*\}", "{}", template)


def complaints(method: str, template: str, status: int, body: Any) -> list[str]:
    """What is wrong with this answer, as the specification sees it; empty: nothing."""
    path, operation = operations()[method, anonymous(template)]
    response = operation["responses"].get(str(status))
    if response is None and status >= 400:
        return list(_check(body, {"$ref": str(ERROR)}, path, "body"))
    if response is None:
        return [f"status {status} is not foreseen"]
    return list(_check(body, response["content"]["application/json"]["schema"], path, "body"))


def edu_complaints(edu: Any) -> list[str]:
    """The same for an EDU that we send, whose type the specification knows."""
    folder = FOLDER / "server-server" / "definitions" / "event-schemas"
    path = folder / f"{edu['edu_type']}.yaml"
    return list(_check(edu, _load(path), path, "edu"))


def _check(value: Any, schema: Mapping[str, Any], path: Path, where: str) -> Iterator[str]:
    if "$ref" in schema:
        target = (path.parent / schema["$ref"]).resolve()
        yield from _check(value, _load(target), target, where)
        return
    for part in schema.get("allOf", ()):
        yield from _check(value, part, path, where)
    kinds = schema.get("type")
    allowed = [kinds] if isinstance(kinds, str) else kinds or []
    if allowed and not any(_is(value, kind) for kind in allowed):
        yield f"{where} is no {' or '.join(allowed)}: {value!r}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} is none of {schema['enum']}: {value!r}"
    if isinstance(value, dict):
        yield from _check_object(value, schema, path, where)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{where} has {len(value)} items"
        for index, item in enumerate(value):
            yield from _check(item, schema.get("items", {}), path, f"{where}[{index}]")


def _check_object(
    value: dict[str, Any], schema: Mapping[str, Any], path: Path, where: str
) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value and name not in GONE:
            yield f"{where} has no {name}"
    properties = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    more = schema.get("additionalProperties")
    for name, item in value.items():
        matching = [part for pattern, part in patterns.items() if re.search(pattern, name)]
        if name in properties:
            matching.append(properties[name])
        if not matching and isinstance(more, dict):
            matching.append(more)
        for part in matching:
            yield from _check(item, part, path, f"{where}.{name}")


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])
