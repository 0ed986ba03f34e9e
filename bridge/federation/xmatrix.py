"""The `Authorization: X-Matrix` header: build, parse, sign, verify.

What is signed is the request as it travels: `target` is the request target byte by byte, and the
server names are those before any delegation. Spec: S2S, request authentication.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge.engine.canonical import JsonObject
from bridge.engine.keys import ALGORITHM, Signer
from bridge.engine.signing import check_json_signature, sign_json, signature_of
from bridge.errors import BadInput, Refused
from bridge.ids import KeyId, ServerName, parse_server_name

MAX_HEADER_CHARACTERS = 4096
_SCHEME = re.compile(r"x-matrix +", re.IGNORECASE)
# A parameter: a token, `=`, and a quoted string or a value without quotes. Colons and other marks
# in values without quotes are from older servers.
_PARAMETER = re.compile(
    r"""(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*"""
    r"""(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s",]+))"""
)
_SEPARATOR = re.compile(r"[ \t]*(?:,[ \t]*)+")
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class XMatrix:
    """The header's parameters. `destination` is None from servers that do not send it."""

    origin: ServerName
    destination: ServerName | None
    key_id: KeyId
    signature: str

    def header(self) -> str:
        """The header's value in the form that older servers read too. None of it needs escaping."""
        destination = f'destination="{self.destination}",' if self.destination is not None else ""
        return (
            f'X-Matrix origin="{self.origin}",{destination}'
            f'key="{self.key_id}",sig="{self.signature}"'
        )


def parse_xmatrix(header: str) -> XMatrix:
    """Raises `Refused` M_UNAUTHORIZED (rule `xmatrix`): whoever cannot say who it is, is nobody."""
    parameters = _parse_parameters(header)
    missing = [name for name in ("origin", "key", "sig") if name not in parameters]
    if missing:
        raise _refused(f"no {' and no '.join(missing)} in the Authorization header")
    key_id = parameters["key"]
    if not key_id.startswith(f"{ALGORITHM}:"):
        raise _refused("the key is not of a known algorithm")
    try:
        destination = parameters.get("destination")
        return XMatrix(
            origin=parse_server_name(parameters["origin"]),
            destination=None if destination is None else parse_server_name(destination),
            key_id=KeyId(key_id),
            signature=parameters["sig"],
        )
    except BadInput as exc:
        raise _refused(exc.reason) from exc


def _parse_parameters(header: str) -> Mapping[str, str]:
    """By name in lower case. A name that comes twice is refused: which one was meant?"""
    scheme = _SCHEME.match(header)
    if scheme is None or len(header) > MAX_HEADER_CHARACTERS:
        raise _refused("no X-Matrix Authorization header")
    found: dict[str, str] = {}
    position = scheme.end()
    while position < len(header):
        parameter = _PARAMETER.match(header, position)
        if parameter is None:
            raise _refused("the Authorization header cannot be read")
        name = parameter["name"].lower()
        if name in found:
            raise _refused(f"{name} comes twice in the Authorization header")
        quoted = parameter["quoted"]
        found[name] = parameter["bare"] if quoted is None else _ESCAPED.sub(r"\1", quoted)
        position = parameter.end()
        separator = _SEPARATOR.match(header, position)
        if separator is not None:
            position = separator.end()
        elif header[position:].strip(" \t"):
            raise _refused("the Authorization header cannot be read")
        else:
            break
    return found


def _request_object(
    method: str, target: str, origin: ServerName, destination: ServerName, content: Any
) -> JsonObject:
    request: JsonObject = {
        "method": method,
        "uri": target,
        "origin": origin,
        "destination": destination,
    }
    if content is not None:
        request["content"] = content
    return request


def sign_request(
    *,
    method: str,
    target: str,
    origin: ServerName,
    destination: ServerName,
    content: JsonObject | None,
    key: Signer,
) -> XMatrix:
    """`content` is the parsed body, None when there is none; it must have a canonical form."""
    request = _request_object(method, target, origin, destination, content)
    signature = signature_of(sign_json(request, server=origin, key=key), origin, key.key_id)
    assert signature is not None
    return XMatrix(origin=origin, destination=destination, key_id=key.key_id, signature=signature)


def verify_request(
    xmatrix: XMatrix,
    *,
    method: str,
    target: str,
    own_name: ServerName,
    content: Any,
    verify_key: str,
    strict: bool = True,
) -> None:
    """Raise `Refused` M_UNAUTHORIZED unless the request is for us and signed with that key.

    `content` is the parsed body, None when the request has none. Not `strict`: it has no canonical
    form, as may be with events of old room versions.
    """
    check_destination(xmatrix, own_name)
    request = _request_object(method, target, xmatrix.origin, own_name, content)
    request["signatures"] = {xmatrix.origin: {xmatrix.key_id: xmatrix.signature}}
    if not check_json_signature(
        request,
        server=xmatrix.origin,
        key_id=xmatrix.key_id,
        verify_key=verify_key,
        strict=strict,
    ):
        raise _refused("the request's signature does not verify", rule="xmatrix_signature")


def check_destination(xmatrix: XMatrix, own_name: ServerName) -> None:
    """Raise `Refused` when the request names another destination. Before any key is fetched."""
    if xmatrix.destination is not None and xmatrix.destination != own_name:
        raise _refused("the request is for another server", rule="xmatrix_destination")


def _refused(reason: str, *, rule: str = "xmatrix") -> Refused:
    return Refused(reason, errcode="M_UNAUTHORIZED", rule=rule)
