"""Transactions in: stored before they are understood. Spec: S2S, transactions."""

from __future__ import annotations

from bridge.engine.canonical import JsonObject
from bridge.errors import BadInput
from bridge.ids import ServerName
from bridge.rooms.receive import Receiver
from bridge.web.routing import Request, Response

MAX_PDUS = 50
MAX_EDUS = 100
MAX_BODY_BYTES = 8 << 20
"""50 PDUs of 65,536 bytes, 100 EDUs, and room for an origin that escapes every character."""

MAX_TRANSACTION_ID = 1_000
"""Characters. The specification names no limit; what is longer is no server's counter."""


class Transactions:
    def __init__(self, *, receiver: Receiver) -> None:
        self._receiver = receiver

    async def send(self, request: Request, origin: ServerName) -> Response:
        body = request.json_object()
        pdus = _listed(body, "pdus", MAX_PDUS)
        _listed(body, "edus", MAX_EDUS)
        if body.get("origin", origin) != origin:
            raise BadInput("the transaction names another origin", errcode="M_INVALID_PARAM")
        txn_id = request.params["txn_id"]
        if "\0" in txn_id or len(txn_id) > MAX_TRANSACTION_ID:
            raise BadInput("not a transaction ID", errcode="M_INVALID_PARAM")
        verdicts = await self._receiver.take(origin, txn_id, pdus)
        return Response(json={"pdus": {key: dict(value) for key, value in verdicts.items()}})


def _listed(body: JsonObject, name: str, at_most: int) -> list[object]:
    value = body.get(name, [])
    if not isinstance(value, list):
        raise BadInput(f"{name} is not a list")
    if len(value) > at_most:
        raise BadInput(f"more than {at_most} {name}")
    return value
