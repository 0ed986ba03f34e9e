"""Messages to devices: each reaches its device once, in order; what is for nobody is dropped."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from bridge.errors import BadInput
from bridge.ids import UserId
from bridge.people import to_device
from bridge.storage import edus
from bridge.storage import to_device as rows
from bridge.storage.schema import journal, to_device_received
from tests.people.conftest import LAPTOP, PHONE, Scene

DIRECT = "m.direct_to_device"


@pytest.fixture
async def ready(scene: Scene) -> Scene:
    """bob has two devices, alice one."""
    for device in (PHONE, LAPTOP):
        await scene.theirs.people.devices.put(scene.bob, device)
    await scene.ours.people.devices.put(scene.alice, PHONE)
    await scene.carry()
    return scene


async def send(scene: Scene, messages: dict[UserId, dict[str, Any]], txn: str = "t1") -> None:
    await scene.ours.people.to_device.send(
        sender=scene.alice, type="m.test", messages=messages, txn=txn
    )


async def journal_of(scene: Scene) -> list[str]:
    return list(
        await scene.theirs.database.read(
            lambda tx: (
                tx.execute(select(journal.c.detail).where(journal.c.step == "to-device"))
                .scalars()
                .all()
            )
        )
    )


async def test_it_reaches_the_named_device_and_no_other(ready: Scene) -> None:
    await send(ready, {ready.bob: {PHONE: {"n": 1}}})
    assert await ready.carry() == [DIRECT]
    assert await ready.inbox(ready.theirs, ready.bob, PHONE) == [(ready.alice, "m.test", {"n": 1})]
    assert await ready.inbox(ready.theirs, ready.bob, LAPTOP) == []


async def test_a_star_is_every_device(ready: Scene) -> None:
    await send(ready, {ready.bob: {"*": {"n": 1}}, ready.alice: {"*": {"n": 2}}})
    await ready.carry()
    for device in (PHONE, LAPTOP):
        assert len(await ready.inbox(ready.theirs, ready.bob, device)) == 1
    assert await ready.inbox(ready.ours, ready.alice, PHONE) == [(ready.alice, "m.test", {"n": 2})]


async def test_the_same_transaction_again_sends_nothing_more(ready: Scene) -> None:
    messages: dict[UserId, dict[str, Any]] = {
        ready.bob: {PHONE: {"n": 1}},
        ready.alice: {PHONE: {"n": 2}},
    }
    await send(ready, messages)
    await ready.carry()
    await send(ready, messages)
    assert await ready.carry() == []
    assert len(await ready.inbox(ready.ours, ready.alice, PHONE)) == 1
    assert len(await ready.inbox(ready.theirs, ready.bob, PHONE)) == 1


async def test_an_edu_that_comes_again_is_stored_once(ready: Scene) -> None:
    await send(ready, {ready.bob: {PHONE: {"n": 1}}})
    [content] = await ready.contents(ready.ours, ready.theirs, DIRECT)
    assert len(content["message_id"]) == 32
    for _ in range(3):
        await ready.hand_over(ready.ours, ready.theirs, DIRECT, content)
    assert len(await ready.inbox(ready.theirs, ready.bob, PHONE)) == 1
    # Another sender may use the same ID.
    other = UserId("@eve:ours.example")
    await ready.hand_over(ready.ours, ready.theirs, DIRECT, {**content, "sender": other})
    assert len(await ready.inbox(ready.theirs, ready.bob, PHONE)) == 2


async def test_what_is_for_nobody_is_dropped_and_noted_without_an_error(ready: Scene) -> None:
    ghost, stranger = UserId("@ghost:theirs.example"), UserId("@x:elsewhere.example")
    content = {
        "sender": ready.alice,
        "type": "m.test",
        "message_id": "m1",
        "messages": {
            ghost: {"*": {"secret": 1}, "ABC": {"secret": 1}},
            stranger: {"*": {"secret": 1}},
            ready.bob: {PHONE: {"n": 1}, "GONE": {"secret": 1}, LAPTOP: "no object"},
        },
    }
    await ready.theirs.people.takers[DIRECT].take(ready.ours.name, content)
    assert len(await ready.inbox(ready.theirs, ready.bob, PHONE)) == 1
    [noted] = await journal_of(ready)
    assert noted == f"m.test of {ready.alice}, message m1: 1 bad, 3 no_device, 1 not_ours"
    # A repetition is not noted again.
    await ready.theirs.people.takers[DIRECT].take(ready.ours.name, content)
    assert len(await journal_of(ready)) == 1


async def test_a_flood_to_ghosts_fills_no_table(
    ready: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_device, "MAX_NOTED", 2)
    ghost = UserId("@ghost:theirs.example")
    for number in range(3):
        content = {
            "sender": ready.alice,
            "type": "m.test",
            "message_id": f"m{number}",
            "messages": {ghost: {"*": {"secret": 1}}},
        }
        await ready.theirs.people.takers[DIRECT].take(ready.ours.name, content)
    head = f"m.test of {ready.alice}, message"
    assert await journal_of(ready) == [f"{head} m{n}: 1 no_device" for n in (0, 1)]
    taken = select(func.count()).select_from(to_device_received)
    assert await ready.theirs.database.read(lambda tx: tx.execute(taken).scalar_one()) == 0


async def test_a_full_device_takes_no_more_and_others_still_do(
    ready: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_WAITING", 3)
    for number in range(5):
        await send(ready, {ready.bob: {PHONE: {"n": number}}}, txn=f"t{number}")
    await send(ready, {ready.bob: {LAPTOP: {"n": 9}}}, txn="other")
    await ready.carry()
    kept = await ready.inbox(ready.theirs, ready.bob, PHONE)
    assert [content["n"] for _, _, content in kept] == [0, 1, 2]
    assert len(await ready.inbox(ready.theirs, ready.bob, LAPTOP)) == 1
    assert any("1 full" in noted for noted in await journal_of(ready))


async def test_what_a_device_has_seen_goes_and_the_rest_stays(ready: Scene) -> None:
    for number in range(3):
        await send(ready, {ready.bob: {PHONE: {"n": number}}}, txn=f"t{number}")
    await ready.carry()
    devices = ready.theirs.people.devices
    first, second, _ = await devices.inbox(ready.bob, PHONE, 0, 10)
    await devices.forget_inbox(ready.bob, PHONE, second.position)
    assert [one.content for one in await devices.inbox(ready.bob, PHONE, 0, 10)] == ['{"n":2}']
    assert first.position < second.position


async def test_order_is_kept_while_the_other_server_is_down(ready: Scene) -> None:
    ready.theirs.down = True
    for number in range(10):
        await send(ready, {ready.bob: {PHONE: {"n": number}}}, txn=f"t{number}")
        assert await ready.carry() == []
    ready.theirs.down = False
    await ready.carry()
    kept = await ready.inbox(ready.theirs, ready.bob, PHONE)
    assert [content["n"] for _, _, content in kept] == list(range(10))


async def test_many_messages_are_cut_into_edus_of_bounded_size(ready: Scene) -> None:
    big = {"text": "x" * 20_000}
    messages = {ready.bob: {f"D{number}": big for number in range(8)}}
    await send(ready, messages)
    contents = await ready.contents(ready.ours, ready.theirs, DIRECT)
    assert len({one["message_id"] for one in contents}) == len(contents) == 4
    named = [device for one in contents for device in one["messages"][ready.bob]]
    assert sorted(named) == [f"D{number}" for number in range(8)]


async def test_a_star_stands_alone_in_its_edu(ready: Scene) -> None:
    await send(ready, {ready.bob: {"A": {"n": 1}, "*": {"n": 2}, "B": {"n": 3}, "C": {"n": 4}}})
    contents = await ready.contents(ready.ours, ready.theirs, DIRECT)
    assert [list(one["messages"][ready.bob]) for one in contents] == [["A"], ["*"], ["B", "C"]]


async def test_too_much_for_one_server_does_not_stop_the_others(
    ready: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edus, "MAX_WAITING", 2)
    elsewhere = UserId("@x:elsewhere.example")
    for number in range(4):
        await send(ready, {elsewhere: {"*": {"n": number}}}, txn=f"t{number}")
    await send(ready, {elsewhere: {"*": {}}, ready.bob: {PHONE: {"n": 9}}}, txn="last")
    await ready.carry()
    assert len(await ready.inbox(ready.theirs, ready.bob, PHONE)) == 1


@pytest.mark.parametrize(
    "broken",
    [
        {"type": 5},
        {"type": ""},
        {"message_id": None},
        {"message_id": "x" * 300},
        {"messages": []},
        {"messages": {"@bob:theirs.example": []}},
        {"messages": {"nobody": {"*": {}}}},
        {"messages": {"@bob:theirs.example": {str(n): {} for n in range(1_001)}}},
        {"sender": "alice"},
    ],
)
async def test_an_edu_that_makes_no_sense_is_bad(ready: Scene, broken: dict[str, Any]) -> None:
    good = {
        "sender": ready.alice,
        "type": "m.test",
        "message_id": "m1",
        "messages": {ready.bob: {PHONE: {"n": 1}}},
    }
    taker = ready.theirs.people.takers[DIRECT]
    with pytest.raises(BadInput):
        await taker.take(ready.ours.name, {**good, **broken})
    assert await ready.inbox(ready.theirs, ready.bob, PHONE) == []
    await taker.take(ready.ours.name, good)
    assert len(await ready.inbox(ready.theirs, ready.bob, PHONE)) == 1


async def test_with_a_device_goes_what_waits_for_it(ready: Scene) -> None:
    await send(ready, {ready.bob: {PHONE: {"n": 1}}})
    await ready.carry()
    await ready.theirs.people.devices.remove(ready.bob, [PHONE])
    await ready.theirs.people.devices.put(ready.bob, PHONE)
    assert await ready.inbox(ready.theirs, ready.bob, PHONE) == []


async def test_whoever_sends_is_ours(ready: Scene) -> None:
    with pytest.raises(BadInput):
        await ready.ours.people.to_device.send(
            sender=ready.bob, type="m.test", messages={}, txn="t"
        )
