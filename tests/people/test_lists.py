"""Device lists between two servers: told in order, and fetched where something was missed."""

from __future__ import annotations

import pytest

from bridge.errors import BadInput, NotFound, Refused
from bridge.ids import DeviceId
from bridge.people.lists import DeviceListUpdates
from bridge.storage import device_lists, devices
from tests.people.conftest import LAPTOP, PHONE, Scene, device_keys, signing_key


async def follow(scene: Scene) -> None:
    """bob has a device, so his server follows alice's list; it has it now."""
    await scene.theirs.people.devices.put(scene.bob, PHONE)
    await scene.ours.people.devices.put(scene.alice, PHONE, "phone")
    await scene.carry()
    await scene.fetch()


async def with_keys(scene: Scene, device: DeviceId, note: str = "") -> None:
    await scene.ours.people.devices.put(scene.alice, device, device.lower())
    keys = device_keys(scene.alice, device, note)
    await scene.ours.people.keys.put_device_keys(scene.alice, device, keys)


async def test_who_follows_is_told_of_each_change_in_order(scene: Scene) -> None:
    await follow(scene)
    await with_keys(scene, PHONE)
    await with_keys(scene, LAPTOP)
    told = await scene.contents(scene.ours, scene.theirs, "m.device_list_update")
    # One update each: the phone's keys; the laptop, and its keys.
    assert [(one["device_id"], "keys" in one) for one in told] == [
        ("PHONE", True),
        ("LAPTOP", False),
        ("LAPTOP", True),
    ]
    assert [one["prev_id"] for one in told[1:]] == [[one["stream_id"]] for one in told[:-1]]
    before = len(scene.network.requests)
    await scene.carry()
    assert await scene.names(scene.theirs, scene.alice) == {"PHONE": "phone", "LAPTOP": "laptop"}
    known = await scene.list_of(scene.theirs, scene.alice)
    assert known is not None
    assert not known.stale
    assert len(scene.network.requests) == before  # Nothing had to be asked.


async def test_an_update_twice_is_one_change(scene: Scene) -> None:
    await follow(scene)
    await with_keys(scene, LAPTOP)
    told = await scene.contents(scene.ours, scene.theirs, "m.device_list_update")
    await scene.carry()
    position = await scene.theirs.people.devices.changed_since(0, 100)
    for one in told:
        await scene.hand_over(scene.ours, scene.theirs, "m.device_list_update", one)
    assert await scene.theirs.people.devices.changed_since(0, 100) == position
    known = await scene.list_of(scene.theirs, scene.alice)
    assert known is not None
    assert not known.stale


async def test_a_missed_update_makes_the_list_be_fetched(scene: Scene) -> None:
    await follow(scene)
    scene.lost.add(scene.theirs.name)
    await with_keys(scene, LAPTOP)
    await scene.carry()
    scene.lost.clear()
    await scene.ours.people.devices.put(scene.alice, PHONE, "new phone")
    await scene.carry()
    known = await scene.list_of(scene.theirs, scene.alice)
    assert known is not None
    assert known.stale
    # Not before the pause since the last fetch is over.
    await scene.fetch()
    assert await scene.names(scene.theirs, scene.alice) == {}
    scene.clock.shift(10.0)
    await scene.fetch()
    # What has no keys is not in the answer to that question.
    assert await scene.names(scene.theirs, scene.alice) == {"LAPTOP": "laptop"}
    await with_keys(scene, PHONE)
    await scene.carry()
    assert await scene.names(scene.theirs, scene.alice) == {"LAPTOP": "laptop", "PHONE": "phone"}


async def test_a_gone_device_goes_everywhere(scene: Scene) -> None:
    await follow(scene)
    await with_keys(scene, PHONE)
    await with_keys(scene, LAPTOP)
    await scene.carry()
    await scene.ours.people.devices.remove(scene.alice, [PHONE, DeviceId("NONE")])
    [told] = await scene.contents(scene.ours, scene.theirs, "m.device_list_update")
    assert (told["device_id"], told["deleted"]) == ("PHONE", True)
    await scene.carry()
    assert await scene.names(scene.theirs, scene.alice) == {"LAPTOP": "laptop"}
    with pytest.raises(NotFound):
        await scene.ours.people.devices.get(scene.alice, PHONE)


async def test_an_answer_older_than_what_was_heard_meanwhile_does_not_settle(scene: Scene) -> None:
    await follow(scene)
    await with_keys(scene, PHONE)
    scene.lost.add(scene.theirs.name)
    await scene.carry()
    scene.lost.clear()
    scene.clock.shift(10.0)

    async def heard_meanwhile(endpoint: str) -> None:
        if endpoint == "user_devices":
            scene.network.after_answer = None
            await with_keys(scene, LAPTOP)
            await scene.carry()

    await with_keys(scene, PHONE, "2")
    await scene.carry()
    scene.network.after_answer = heard_meanwhile
    await scene.fetch()
    known = await scene.list_of(scene.theirs, scene.alice)
    assert known is not None
    assert known.stale
    scene.clock.shift(10.0)
    await scene.fetch()
    assert set(await scene.names(scene.theirs, scene.alice)) == {"PHONE", "LAPTOP"}
    known = await scene.list_of(scene.theirs, scene.alice)
    assert known is not None
    assert not known.stale


async def test_a_server_that_is_down_is_asked_later_and_not_more_often(scene: Scene) -> None:
    await scene.theirs.people.devices.put(scene.bob, PHONE)
    await with_keys(scene, PHONE)
    await scene.carry()
    scene.ours.down = True
    for _ in range(5):
        await scene.fetch()
    asked = ("user_devices", scene.theirs.name, scene.ours.name)
    assert scene.network.requests.count(asked) == 1
    scene.ours.down = False
    scene.clock.shift(10.0)
    await scene.fetch()
    assert await scene.names(scene.theirs, scene.alice) == {"PHONE": "phone"}


async def test_where_only_ghosts_are_nothing_is_kept(scene: Scene) -> None:
    await with_keys(scene, PHONE)
    await scene.carry()
    assert await scene.list_of(scene.theirs, scene.alice) is None
    assert not [one for one in scene.network.requests if one[0] == "user_devices"]


async def test_cross_signing_keys_travel(scene: Scene) -> None:
    await follow(scene)
    keys = scene.ours.people.keys
    master = signing_key(scene.alice, "master", "MASTER")
    own = signing_key(scene.alice, "self_signing", "SELF")
    await keys.put_cross_signing(
        scene.alice,
        master=master,
        self_signing=own,
        user_signing=signing_key(scene.alice, "user_signing", "USER"),
    )
    [told] = await scene.contents(scene.ours, scene.theirs, "m.signing_key_update")
    assert told == {"user_id": scene.alice, "master_key": master, "self_signing_key": own}
    await scene.carry()
    answer = await scene.theirs.people.keys.query(scene.bob, scene.ours.name, {scene.alice: []})
    assert answer["master_keys"] == {scene.alice: master}
    assert answer["self_signing_keys"] == {scene.alice: own}
    assert "user_signing_keys" not in answer
    # The same again is no change.
    await keys.put_cross_signing(scene.alice, master=master)
    assert await scene.carry() == []


async def test_a_server_speaks_for_its_own_users_only(scene: Scene) -> None:
    takers = scene.theirs.people.takers
    update = {"user_id": scene.bob, "device_id": "X", "stream_id": 1, "prev_id": []}
    for edu_type in ("m.device_list_update", "m.signing_key_update"):
        with pytest.raises(Refused):
            await takers[edu_type].take(scene.ours.name, update)
    with pytest.raises(Refused):
        await takers["m.direct_to_device"].take(
            scene.ours.name,
            {"sender": scene.bob, "type": "x", "message_id": "1", "messages": {}},
        )


@pytest.mark.parametrize(
    "broken",
    [
        {"device_id": 5},
        {"device_id": "*"},
        {"stream_id": "x"},
        {"stream_id": -1},
        {"stream_id": True},
        {"prev_id": 5},
        {"prev_id": ["x"]},
        {"prev_id": list(range(200))},
        {"keys": []},
        {"keys": {"user_id": "@mallory:ours.example", "device_id": "PHONE"}},
        {"keys": {"user_id": "@alice:ours.example", "device_id": "OTHER"}},
    ],
)
async def test_an_update_that_makes_no_sense_changes_nothing(
    scene: Scene, broken: dict[str, object]
) -> None:
    await follow(scene)
    known = await scene.list_of(scene.theirs, scene.alice)
    assert known is not None
    good = {
        "user_id": scene.alice,
        "device_id": "PHONE",
        "stream_id": 90,
        "prev_id": [known.stream_id],
        "keys": device_keys(scene.alice, "PHONE"),
    }
    taker = DeviceListUpdates(database=scene.theirs.database, clock=scene.clock)
    with pytest.raises(BadInput):
        await taker.take(scene.ours.name, {**good, **broken})
    assert await scene.list_of(scene.theirs, scene.alice) == known
    await taker.take(scene.ours.name, good)
    assert await scene.names(scene.theirs, scene.alice) == {"PHONE": None}


async def test_a_fetched_list_of_somebody_else_is_not_believed(scene: Scene) -> None:
    await scene.theirs.people.devices.put(scene.bob, PHONE)
    await with_keys(scene, PHONE)
    await scene.carry()
    scene.network.tamper = lambda endpoint, answer: (
        {**answer, "user_id": "@mallory:ours.example"} if endpoint == "user_devices" else answer
    )
    await scene.fetch()
    assert await scene.names(scene.theirs, scene.alice) == {}
    known = await scene.list_of(scene.theirs, scene.alice)
    assert known is not None
    assert known.stale


async def test_of_a_fetched_list_keys_of_others_are_left_out(scene: Scene) -> None:
    await scene.theirs.people.devices.put(scene.bob, PHONE)
    await with_keys(scene, PHONE)
    await with_keys(scene, LAPTOP)
    await scene.carry()

    def tamper(endpoint: str, answer: dict[str, object]) -> dict[str, object]:
        if endpoint == "user_devices" and answer["user_id"] == scene.alice:
            listed = answer["devices"]
            assert isinstance(listed, list)
            listed[0]["keys"]["user_id"] = "@mallory:ours.example"
            answer["master_key"] = signing_key(scene.bob, "master", "M")
        return answer

    scene.network.tamper = tamper
    await scene.fetch()
    assert await scene.names(scene.theirs, scene.alice) == {"LAPTOP": "laptop"}


async def test_a_device_that_changes_often_is_told_to_everybody_once_each(scene: Scene) -> None:
    third = await scene.network.add("third.example")
    await scene.join(scene.room, third.user("carol"))
    await scene.look()
    for number in range(5):
        await scene.ours.people.devices.put(scene.alice, PHONE, f"phone {number}")
    for peer in (scene.theirs, third):
        told = await scene.contents(scene.ours, peer, "m.device_list_update")
        assert [one["device_display_name"] for one in told] == [f"phone {n}" for n in range(5)]
        assert len({one["stream_id"] for one in told}) == 5


async def test_changes_are_a_stream_of_the_newest_of_each(scene: Scene) -> None:
    await follow(scene)
    await with_keys(scene, LAPTOP)
    await scene.carry()
    changed = await scene.theirs.people.devices.changed_since(0, 100)
    assert sorted(user for _, user in changed) == [scene.alice, scene.bob]
    last = changed[-1][0]
    assert await scene.theirs.people.devices.changed_since(last, 100) == []
    assert await scene.theirs.database.read(lambda tx: devices.is_with_a_device(tx, scene.alice))


async def test_a_server_cannot_fill_a_list_without_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_lists, "MAX_DEVICES", 3)
    await follow(scene)
    known = await scene.list_of(scene.theirs, scene.alice)
    assert known is not None
    before = known.stream_id or 0
    taker = scene.theirs.people.takers["m.device_list_update"]

    async def told(stream: int, device_id: str, name: str) -> None:
        content = {
            "user_id": scene.alice,
            "device_id": device_id,
            "stream_id": before + stream,
            "prev_id": [before + stream - 1],
            "device_display_name": name,
        }
        await taker.take(scene.ours.name, content)

    for number in (1, 2, 3):
        await told(number, f"D{number}", "new")
    await told(4, "D3", "renamed")
    full = {"D1": "new", "D2": "new", "D3": "renamed"}
    assert await scene.names(scene.theirs, scene.alice) == full
    for number in (5, 6):
        await told(number, f"D{number}", "too many")
    assert await scene.names(scene.theirs, scene.alice) == full
    after = await scene.list_of(scene.theirs, scene.alice)
    assert after is not None
    assert after.stale
