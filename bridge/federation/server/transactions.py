"""Transactions in: stored before they are understood. Spec: S2S, transactions, EDUs.

EDUs are taken before the PDUs, in order, each by whoever takes its type. One that makes no sense,
that nobody takes or that may not be is counted and skipped. A transaction that comes again brings
its EDUs again: whoever takes what must not come twice knows it by an ID of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from bridge.clock import Clock, SystemClock
from bridge.engine.canonical import JsonObject, encode_canonical
from bridge.engine.edu import MAX_EDU_TYPE_BYTES
from bridge.errors import BadInput, IsthmusError, NotFound, Refused
from bridge.ids import EventId, ServerName, parse_user_id
from bridge.policy.house import House
from bridge.policy.limits import Limits
from bridge.policy.rules import Scope
from bridge.rooms.network import EduTaker
from bridge.telemetry import metrics
from bridge.telemetry.log import get_logger
from bridge.web.routing import Request, Response

log = get_logger("federation")

MAX_PDUS = 50
MAX_EDUS = 100
MAX_BODY_BYTES = 8 << 20
"""50 PDUs of 65,536 bytes, 100 EDUs, and room for an origin that escapes every character."""

MAX_EDU_BYTES = 1 << 20
"""Of one EDU's content. The specification names no limit; established servers keep to 65,536 bytes
by now, and did not always when messages went to many devices."""
MAX_EDU_DEPTH = 20

MAX_TRANSACTION_ID = 1_000
"""Characters. The specification names no limit; what is longer is no server's counter."""


class PduTaker(Protocol):
    """What is used of `rooms.receive.Receiver`."""

    async def take(
        self, origin: ServerName, transaction_id: str, pdus: Sequence[object]
    ) -> Mapping[EventId, Mapping[str, str]]: ...


class Transactions:
    """`takers`: of EDUs, by type."""

    def __init__(
        self,
        *,
        receiver: PduTaker,
        house: House | None = None,
        takers: Mapping[str, EduTaker] | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._receiver = receiver
        self._house = house
        self._takers = {} if takers is None else takers
        self._limits = limits or Limits()
        self._clock = clock or SystemClock()

    async def send(self, request: Request, origin: ServerName) -> Response:
        body = request.json_object()
        pdus = _listed(body, "pdus", MAX_PDUS)
        edus = _listed(body, "edus", MAX_EDUS)
        if body.get("origin", origin) != origin:
            raise BadInput("the transaction names another origin", errcode="M_INVALID_PARAM")
        txn_id = request.params["txn_id"]
        if "\0" in txn_id or len(txn_id) > MAX_TRANSACTION_ID:
            raise BadInput("not a transaction ID", errcode="M_INVALID_PARAM")
        if edus:
            self._limits.check_edus(origin, len(edus), self._clock.monotonic_s())
        for edu in edus:
            await self._take(origin, edu)
        verdicts = await self._receiver.take(origin, txn_id, pdus)
        return Response(json={"pdus": {key: dict(value) for key, value in verdicts.items()}})

    async def _take(self, origin: ServerName, edu: object) -> None:
        """Raises `Unavailable`: then it must come again, and all of the transaction with it."""
        label, outcome, reason = "unknown", "taken", ""
        try:
            edu_type, content = _read(edu)
            taker = self._takers.get(edu_type)
            if taker is None:
                outcome = "unknown"
            else:
                label = edu_type
                if self._house is not None:
                    self._house.check_server(origin, Scope.EDUS, door="edu")
                    self._check_user(self._house, content)
                _check_bounds(content)
                await taker.take(origin, content)
        except BadInput as exc:
            outcome, reason = "bad", exc.reason
        except (Refused, NotFound) as exc:
            outcome, reason = "refused", exc.reason
        except IsthmusError:
            raise
        except Exception:
            # A mistake of ours: the events beside it must not come again for ever for that.
            outcome = "failed"
            log.exception("edu failed", peer=origin, edu_type=label)
        metrics.EDUS.labels(label, outcome).inc()
        if reason:
            log.debug("edu skipped", peer=origin, edu_type=label, outcome=outcome, reason=reason)

    def _check_user(self, house: House, content: JsonObject) -> None:
        """Where an EDU is one user's. Whose the others are, their takers know. Raises Refused."""
        said = content.get("sender", content.get("user_id"))
        if isinstance(said, str):
            house.check_user(parse_user_id(said), Scope.EDUS, door="edu")


def _read(edu: object) -> tuple[str, JsonObject]:
    if not isinstance(edu, dict):
        raise BadInput("an EDU is a JSON object")
    edu_type, content = edu.get("edu_type"), edu.get("content")
    if not isinstance(edu_type, str) or len(edu_type.encode()) > MAX_EDU_TYPE_BYTES:
        raise BadInput("an EDU has a type")
    if not isinstance(content, dict):
        raise BadInput("the content of an EDU is an object")
    return edu_type, content


def _check_bounds(content: JsonObject) -> None:
    level: list[object] = [content]
    for _ in range(MAX_EDU_DEPTH):
        if not level:
            break
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise BadInput(f"an EDU nested deeper than {MAX_EDU_DEPTH}")
    if len(encode_canonical(content)) > MAX_EDU_BYTES:
        raise BadInput(f"an EDU over {MAX_EDU_BYTES} bytes")


def _listed(body: JsonObject, name: str, at_most: int) -> list[object]:
    value = body.get(name, [])
    if not isinstance(value, list):
        raise BadInput(f"{name} is not a list")
    if len(value) > at_most:
        raise BadInput(f"more than {at_most} {name}")
    return value
