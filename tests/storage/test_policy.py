"""The rows of the rules of the house, on both databases."""

from __future__ import annotations

from functools import partial

import pytest

from bridge.errors import NotFound
from bridge.ids import RoomId, UserId
from bridge.storage import policy
from bridge.storage.database import Database
from bridge.storage.policy import RuleRow

ADMIN = UserId("@admin:matrix.example")
LIST = RoomId("!list:matrix.example")


def row(glob: str, *, source: str = "bot", key: str = "") -> RuleRow:
    return RuleRow(
        source=source,
        source_key=key,
        action="deny",
        subject="server",
        glob=glob,
        scopes=("invites", "joins"),
        reason="spam",
        made_by=ADMIN,
        made_ms=5,
    )


async def globs(database: Database) -> list[str]:
    return [one.glob for one in await database.read(partial(policy.rules, limit=100))]


async def test_a_rule_comes_and_goes(database: Database) -> None:
    number = await database.write(lambda tx: policy.add(tx, row("a.example")))
    [stored] = await database.read(partial(policy.rules, limit=100))
    assert stored.rule_id == number
    assert (stored.glob, stored.scopes, stored.reason) == (
        "a.example",
        ("invites", "joins"),
        "spam",
    )
    assert await database.read(lambda tx: policy.find_same(tx, row("a.example"))) == number
    assert await database.read(lambda tx: policy.find_same(tx, row("b.example"))) is None
    await database.write(lambda tx: policy.remove(tx, number))
    assert await globs(database) == []
    with pytest.raises(NotFound):
        await database.write(lambda tx: policy.remove(tx, number))


async def test_a_number_is_never_given_twice(database: Database) -> None:
    first = await database.write(lambda tx: policy.add(tx, row("a.example")))
    await database.write(lambda tx: policy.remove(tx, first))
    assert await database.write(lambda tx: policy.add(tx, row("a.example"))) > first


async def test_the_rules_of_a_policy_room_are_what_it_says_now(database: Database) -> None:
    def says(*names: str) -> list[RuleRow]:
        return [row(name, source=LIST, key=f"m.policy.rule.server {name}") for name in names]

    await database.write(lambda tx: policy.add(tx, row("own.example")))
    await database.write(lambda tx: policy.subscribe(tx, LIST, made_by=ADMIN, now_ms=1))
    await database.write(lambda tx: policy.replace_source(tx, LIST, says("a", "b")))
    assert await globs(database) == ["own.example", "a", "b"]
    await database.write(lambda tx: policy.replace_source(tx, LIST, says("b", "c")))
    assert await globs(database) == ["own.example", "b", "c"]
    await database.write(lambda tx: policy.unsubscribe(tx, LIST))
    assert await globs(database) == ["own.example"]
    assert await database.read(policy.rooms) == []
    with pytest.raises(NotFound):
        await database.write(lambda tx: policy.unsubscribe(tx, LIST))
