"""EDUs of a transaction: each to whoever takes its type, and none spoils the others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.federation.server.transactions import MAX_EDU_BYTES, MAX_EDU_DEPTH, Transactions
from bridge.ids import EventId, ServerName
from bridge.policy.house import House, Refusal
from bridge.policy.limits import Buckets, Limits, Rate
from bridge.policy.rules import Action, RuleTable, read_rule
from bridge.telemetry import metrics
from bridge.web.routing import Request
from tests.support.clock import FakeClock

US, PEER = ServerName("us.example"), ServerName("peer.example")


class Taker:
    def __init__(self) -> None:
        self.taken: list[tuple[str, Any]] = []
        self.problem: Exception | None = None

    async def take(self, origin: ServerName, content: Any) -> None:
        if self.problem is not None:
            raise self.problem
        self.taken.append((origin, content))


class Receiver:
    """PDUs are somebody else's business; when they came is not."""

    def __init__(self, taker: Taker) -> None:
        self.taker = taker
        self.edus_before: list[int] = []

    async def take(
        self, origin: ServerName, transaction_id: str, pdus: Sequence[object]
    ) -> Mapping[EventId, Mapping[str, str]]:
        self.edus_before.append(len(self.taker.taken))
        return {}


class Door:
    def __init__(self, limits: Limits | None = None) -> None:
        self.refusals: list[Refusal] = []
        self.house = House(own_name=US, on_refusal=self.refusals.append)
        self.taker = Taker()
        self.receiver = Receiver(self.taker)
        self.transactions = Transactions(
            receiver=self.receiver,
            house=self.house,
            takers={"m.x": self.taker},
            limits=limits,
            clock=FakeClock(),
        )

    async def send(self, *edus: Any) -> None:
        body = {"origin": PEER, "pdus": [], "edus": list(edus)}
        request = Request(
            method="PUT",
            target="/_matrix/federation/v1/send/1",
            params={"txn_id": "1"},
            body=json.dumps(body).encode(),
        )
        answer = await self.transactions.send(request, PEER)
        assert (answer.status, answer.json) == (200, {"pdus": {}})


def edu(**content: Any) -> Any:
    return {"edu_type": "m.x", "content": content}


def counted(edu_type: str, outcome: str) -> float:
    return float(metrics.EDUS.labels(edu_type, outcome)._value.get())


async def test_edus_are_taken_in_order_before_the_events() -> None:
    door = Door()
    await door.send(edu(a=1), edu(a=2))
    assert door.taker.taken == [(PEER, {"a": 1}), (PEER, {"a": 2})]
    assert door.receiver.edus_before == [2]


@pytest.mark.parametrize(
    "junk",
    [
        None,
        7,
        "m.x",
        [],
        {},
        {"edu_type": "m.x"},
        {"edu_type": "m.x", "content": []},
        {"edu_type": 7, "content": {}},
        {"edu_type": "x" * 256, "content": {}},
        edu(text="x" * MAX_EDU_BYTES),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_no_edu_is_skipped_and_the_others_are_taken(junk: Any) -> None:
    door = Door()
    await door.send(edu(a=1), junk, edu(a=2))
    assert [content for _, content in door.taker.taken] == [{"a": 1}, {"a": 2}]
    assert door.receiver.edus_before == [2]


async def test_an_edu_nested_too_deep_is_skipped() -> None:
    def nested(depth: int) -> Any:
        value: Any = 1
        for number in range(depth):
            value = {"a": value} if number % 2 else [value]
        return value

    door = Door()
    await door.send(edu(a=nested(MAX_EDU_DEPTH - 2)), edu(a=nested(MAX_EDU_DEPTH)))
    assert len(door.taker.taken) == 1


async def test_a_type_that_nobody_takes_is_counted_and_skipped() -> None:
    door = Door()
    before = counted("unknown", "unknown")
    await door.send({"edu_type": "org.example.new", "content": {}}, edu(a=1))
    assert counted("unknown", "unknown") == before + 1
    assert len(door.taker.taken) == 1


@pytest.mark.parametrize("problem", [BadInput("no"), Refused("no"), NotFound("no")])
async def test_an_edu_that_is_refused_spoils_nothing(problem: Exception) -> None:
    door = Door()
    door.taker.problem = problem
    await door.send(edu(a=1))
    assert door.receiver.edus_before == [0]


async def test_an_edu_that_cannot_be_stored_now_fails_the_transaction() -> None:
    door = Door()
    door.taker.problem = Unavailable("later")
    with pytest.raises(Unavailable):
        await door.send(edu(a=1))
    assert door.receiver.edus_before == []


async def test_a_rule_may_deny_a_server_its_edus_alone() -> None:
    door = Door()
    rule = read_rule(["server", PEER, "edus"], action=Action.DENY, rule_id=3)
    door.house.replace(RuleTable.of([rule]))
    await door.send(edu(a=1))
    assert door.taker.taken == []
    assert door.receiver.edus_before == [0]
    assert [(one.door, one.what) for one in door.refusals] == [("edu", PEER)]


@pytest.mark.parametrize("name", ["sender", "user_id"])
async def test_a_rule_may_deny_one_user_their_edus(name: str) -> None:
    door = Door()
    rule = read_rule(["user", f"@eve:{PEER}", "edus"], action=Action.DENY, rule_id=3)
    door.house.replace(RuleTable.of([rule]))
    await door.send(edu(**{name: f"@eve:{PEER}"}), edu(**{name: f"@bob:{PEER}"}))
    assert len(door.taker.taken) == 1
    assert [(one.door, one.what) for one in door.refusals] == [("edu", f"@eve:{PEER}")]


async def test_over_its_rate_a_server_is_told_when_to_come_again_and_nothing_is_taken() -> None:
    door = Door(Limits(server_edus=Buckets(Rate(per_s=1, burst=3))))
    await door.send(edu(a=1), edu(a=2))
    with pytest.raises(Unavailable) as caught:
        await door.send(edu(a=3), edu(a=4))
    assert (caught.value.errcode, caught.value.retry_after_s) == ("M_LIMIT_EXCEEDED", 1.0)
    assert len(door.taker.taken) == 2
    await door.send()  # without EDUs nothing is counted
    await door.send(edu(a=3))
