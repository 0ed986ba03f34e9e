"""Keys: uploaded, asked for by other servers and by our users, claimed; opaque to us."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.errors import BadInput, NotFound, Unavailable
from bridge.ids import DeviceId, UserId
from bridge.people import keys as rules
from bridge.people.checks import MAX_KEYS_BYTES
from bridge.storage.device_keys import SignatureRow
from tests.people.conftest import LAPTOP, PHONE, Scene, device_keys, signing_key

CURVE = "signed_curve25519"


def one_time(number: int) -> dict[str, Any]:
    return {"key": f"k{number}", "signatures": {}}


@pytest.fixture
async def phone(scene: Scene) -> Scene:
    """alice's phone, with its keys."""
    await scene.ours.people.devices.put(scene.alice, PHONE, "my phone")
    keys = device_keys(scene.alice, PHONE)
    await scene.ours.people.keys.put_device_keys(scene.alice, PHONE, keys)
    return scene


async def query(scene: Scene, devices: list[DeviceId] | None = None) -> dict[str, Any]:
    return await scene.theirs.people.keys.query(
        scene.bob, scene.ours.name, {scene.alice: devices or []}
    )


async def claim(scene: Scene, device: DeviceId = PHONE, algorithm: str = CURVE) -> dict[str, Any]:
    answer = await scene.theirs.people.keys.claim(
        scene.ours.name, {scene.alice: {device: algorithm}}
    )
    found: dict[str, Any] = answer["one_time_keys"].get(scene.alice, {}).get(device, {})
    return found


async def test_another_server_is_told_the_keys_as_they_were_uploaded(phone: Scene) -> None:
    answer = await query(phone)
    keys = answer["device_keys"][phone.alice][PHONE]
    assert keys.pop("unsigned", {}) in ({}, {"device_display_name": "my phone"})
    assert keys == device_keys(phone.alice, PHONE)


async def test_asked_devices_only(phone: Scene) -> None:
    await phone.ours.people.devices.put(phone.alice, LAPTOP)
    await phone.ours.people.keys.put_device_keys(
        phone.alice, LAPTOP, device_keys(phone.alice, LAPTOP)
    )
    answer = await query(phone, [LAPTOP, DeviceId("NONE")])
    assert set(answer["device_keys"][phone.alice]) == {LAPTOP}


async def test_a_list_that_is_followed_answers_by_itself(phone: Scene) -> None:
    assert set((await query(phone))["device_keys"][phone.alice]) == {PHONE}
    await phone.fetch()
    before = len(phone.network.requests)
    answer = await query(phone)
    assert answer["device_keys"][phone.alice][PHONE]["unsigned"] == {
        "device_display_name": "my phone"
    }
    assert len(phone.network.requests) == before


async def test_while_it_is_stale_their_server_is_asked(phone: Scene) -> None:
    await query(phone)
    phone.ours.down = True
    with pytest.raises(Unavailable):
        await query(phone)


async def test_nobody_learns_who_exists(phone: Scene) -> None:
    nobody = UserId("@nobody:ours.example")
    people = phone.ours.people
    assert await people.keys.answer_query({nobody: [], phone.bob: []}) == {
        "device_keys": {nobody: {}},
        "master_keys": {},
        "self_signing_keys": {},
    }
    assert await people.keys.answer_claim({nobody: {"X": CURVE}, phone.bob: {"X": CURVE}}) == {
        "one_time_keys": {}
    }
    assert await people.devices.answer(nobody) == {
        "user_id": nobody,
        "stream_id": 1,
        "devices": [],
    }
    with pytest.raises(BadInput):
        await people.devices.answer(phone.bob)


async def test_one_time_keys_are_given_out_in_order_and_once(phone: Scene) -> None:
    keys = phone.ours.people.keys
    for number in range(3):
        await keys.add_one_time_keys(phone.alice, PHONE, {f"{CURVE}:{number}": one_time(number)})
    assert await keys.counts(phone.alice, PHONE) == ({CURVE: 3}, [])
    given = [await claim(phone) for _ in range(4)]
    assert given == [
        {f"{CURVE}:0": one_time(0)},
        {f"{CURVE}:1": one_time(1)},
        {f"{CURVE}:2": one_time(2)},
        {},
    ]
    # An upload that is repeated, since its answer was lost, brings no key back.
    await keys.add_one_time_keys(phone.alice, PHONE, {f"{CURVE}:0": one_time(0)})
    assert await claim(phone) == {}
    assert await keys.counts(phone.alice, PHONE) == ({}, [])


async def test_another_key_under_a_used_id_is_refused_with_all_of_its_upload(phone: Scene) -> None:
    keys = phone.ours.people.keys
    await keys.add_one_time_keys(phone.alice, PHONE, {f"{CURVE}:A": one_time(1)})
    with pytest.raises(BadInput):
        await keys.add_one_time_keys(
            phone.alice, PHONE, {f"{CURVE}:A": one_time(2), f"{CURVE}:B": one_time(3)}
        )
    assert (await keys.counts(phone.alice, PHONE))[0] == {CURVE: 1}


async def test_no_more_one_time_keys_are_kept_than_the_bound(
    phone: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MAX_ONE_TIME_KEYS_KEPT", 2)
    keys = phone.ours.people.keys
    await keys.add_one_time_keys(phone.alice, PHONE, {f"{CURVE}:{n}": {} for n in range(2)})
    with pytest.raises(BadInput):
        await keys.add_one_time_keys(phone.alice, PHONE, {f"{CURVE}:X": {}})
    await claim(phone)
    await keys.add_one_time_keys(phone.alice, PHONE, {f"{CURVE}:X": {}})
    assert (await keys.counts(phone.alice, PHONE))[0] == {CURVE: 2}


async def test_the_fallback_key_is_given_when_there_is_no_other_and_stays(phone: Scene) -> None:
    keys = phone.ours.people.keys
    await keys.put_fallback_keys(phone.alice, PHONE, {f"{CURVE}:F": one_time(0)})
    await keys.add_one_time_keys(phone.alice, PHONE, {f"{CURVE}:A": one_time(1)})
    assert (await keys.counts(phone.alice, PHONE))[1] == [CURVE]
    assert [list(await claim(phone)) for _ in range(3)] == [
        [f"{CURVE}:A"],
        [f"{CURVE}:F"],
        [f"{CURVE}:F"],
    ]
    assert (await keys.counts(phone.alice, PHONE))[1] == []
    # The same again is still used; another is fresh.
    await keys.put_fallback_keys(phone.alice, PHONE, {f"{CURVE}:F": one_time(0)})
    assert (await keys.counts(phone.alice, PHONE))[1] == []
    await keys.put_fallback_keys(phone.alice, PHONE, {f"{CURVE}:G": one_time(2)})
    assert (await keys.counts(phone.alice, PHONE))[1] == [CURVE]
    assert list(await claim(phone)) == [f"{CURVE}:G"]


async def test_another_algorithm_is_another_key(phone: Scene) -> None:
    keys = phone.ours.people.keys
    await keys.add_one_time_keys(phone.alice, PHONE, {"curve25519:A": "text", f"{CURVE}:A": {}})
    assert await claim(phone, algorithm="curve25519") == {"curve25519:A": "text"}
    assert await claim(phone, algorithm="nothing") == {}
    assert await claim(phone, DeviceId("NONE")) == {}


async def test_keys_need_a_device_and_name_it(phone: Scene) -> None:
    keys = phone.ours.people.keys
    with pytest.raises(NotFound):
        await keys.put_device_keys(phone.alice, LAPTOP, device_keys(phone.alice, LAPTOP))
    with pytest.raises(NotFound):
        await keys.add_one_time_keys(phone.alice, LAPTOP, {f"{CURVE}:A": {}})
    for wrong in (
        device_keys(phone.bob, PHONE),
        device_keys(phone.alice, LAPTOP),
        {**device_keys(phone.alice, PHONE), "keys": []},
        {**device_keys(phone.alice, PHONE), "more": "x" * MAX_KEYS_BYTES},
        {**device_keys(phone.alice, PHONE), "more": 1.5},
    ):
        with pytest.raises(BadInput):
            await keys.put_device_keys(phone.alice, PHONE, wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"user_id": "@bob:theirs.example"},
        {"usage": ["self_signing"]},
        {"usage": "master"},
        {"keys": {}},
        {"keys": {"ed25519:A": "A", "ed25519:B": "B"}},
        {"keys": {"nothing": "A"}},
        {"signatures": []},
    ],
)
async def test_a_signing_key_says_whose_and_what_it_is(phone: Scene, wrong: dict[str, Any]) -> None:
    key = {**signing_key(phone.alice, "master", "M"), **wrong}
    with pytest.raises(BadInput):
        await phone.ours.people.keys.put_cross_signing(phone.alice, master=key)


async def test_own_signatures_are_for_all_and_those_on_others_for_their_maker(
    phone: Scene,
) -> None:
    keys = phone.ours.people.keys
    eve = phone.ours.user("eve")
    await keys.put_cross_signing(phone.alice, master=signing_key(phone.alice, "master", "M"))

    def on(key: str, signer: UserId) -> SignatureRow:
        return SignatureRow(
            target_user=phone.alice,
            target_key=key,
            signer=signer,
            signing_key="ed25519:S",
            signature=f"by {signer}",
        )

    await keys.put_signatures(phone.alice, [on(PHONE, phone.alice), on("M", phone.alice)])
    await keys.put_signatures(eve, [on("M", eve)])
    with pytest.raises(BadInput):
        await keys.put_signatures(eve, [on("M", phone.alice)])
    for viewer, seen in ((None, False), (phone.alice, False), (eve, True)):
        answer = await keys.answer_query({phone.alice: []}, viewer)
        master = answer["master_keys"][phone.alice]["signatures"]
        assert master[phone.alice]["ed25519:S"] == f"by {phone.alice}"
        assert (eve in master) is seen
        of_phone = answer["device_keys"][phone.alice][PHONE]["signatures"][phone.alice]
        assert of_phone == {f"ed25519:{PHONE}": "sig", "ed25519:S": f"by {phone.alice}"}
    listed = await phone.ours.people.devices.answer(phone.alice)
    assert listed["devices"][0]["keys"]["signatures"][phone.alice]["ed25519:S"]
    updates = await phone.contents(phone.ours, phone.theirs, "m.device_list_update")
    assert updates[-1]["keys"]["signatures"][phone.alice]["ed25519:S"]
    signing = await phone.contents(phone.ours, phone.theirs, "m.signing_key_update")
    assert signing[-1]["master_key"]["signatures"][phone.alice]["ed25519:S"]


async def test_what_a_user_puts_on_keys_of_another_server_is_for_that_user(phone: Scene) -> None:
    keys, eve = phone.theirs.people.keys, phone.theirs.user("eve")
    await phone.ours.people.keys.put_cross_signing(
        phone.alice, master=signing_key(phone.alice, "master", "M")
    )
    mine = [
        SignatureRow(
            target_user=phone.alice,
            target_key=target,
            signer=phone.bob,
            signing_key="ed25519:U",
            signature="s",
        )
        for target in ("M", PHONE)
    ]
    await keys.put_signatures(phone.bob, mine)
    # Asked of their server, and out of the list that is kept.
    for _ in range(2):
        for viewer, seen in ((phone.bob, True), (eve, False)):
            answer = await keys.query(viewer, phone.ours.name, {phone.alice: []})
            master = answer["master_keys"][phone.alice]
            of_phone = answer["device_keys"][phone.alice][PHONE]
            for signed in (master, of_phone):
                assert (phone.bob in signed["signatures"]) is seen
        await phone.fetch()


async def test_a_users_own_query_has_the_user_signing_key(phone: Scene) -> None:
    keys = phone.ours.people.keys
    key = signing_key(phone.alice, "user_signing", "U")
    await keys.put_cross_signing(phone.alice, user_signing=key)
    own = await keys.query(phone.alice, phone.ours.name, {phone.alice: []})
    assert own["user_signing_keys"] == {phone.alice: key}
    assert "user_signing_keys" not in await keys.answer_query({phone.alice: []})
    # It is nobody else's business.
    assert await phone.contents(phone.ours, phone.theirs, "m.signing_key_update") == []


async def test_what_another_server_should_not_say_is_left_out(phone: Scene) -> None:
    def tamper(endpoint: str, answer: dict[str, Any]) -> dict[str, Any]:
        if endpoint == "query_user_keys":
            of_alice = answer["device_keys"][phone.alice]
            of_alice["LAPTOP"] = device_keys(phone.bob, LAPTOP)
            answer["device_keys"]["@mallory:theirs.example"] = {}
            answer["master_keys"] = {phone.alice: signing_key(phone.bob, "master", "M")}
        return answer

    phone.network.tamper = tamper
    answer = await query(phone)
    assert {user: set(of) for user, of in answer["device_keys"].items()} == {phone.alice: {PHONE}}
    assert not answer.get("master_keys", {}).get(phone.alice)


@pytest.mark.parametrize(
    "wanted",
    [
        None,
        [],
        {"nobody": []},
        {"@a:ours.example": "x"},
        {"@a:ours.example": [1]},
        {f"@{number}:ours.example": [] for number in range(1_001)},
        {"@a:ours.example": ["x"] * 1_001},
    ],
)
async def test_a_query_that_makes_no_sense_is_bad(scene: Scene, wanted: Any) -> None:
    with pytest.raises(BadInput):
        await scene.ours.people.keys.answer_query(wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        None,
        {"@a:ours.example": []},
        {"@a:ours.example": {"X": 5}},
        {"@a:ours.example": {"": CURVE}},
        {"@a:ours.example": {str(number): CURVE for number in range(1_001)}},
    ],
)
async def test_a_claim_that_makes_no_sense_is_bad(scene: Scene, wanted: Any) -> None:
    with pytest.raises(BadInput):
        await scene.ours.people.keys.answer_claim(wanted)


@pytest.mark.parametrize("name", ["nothing", ":x", "x:", "a:" + "b" * 300, "a:\0"])
async def test_a_one_time_key_without_a_name_is_refused(phone: Scene, name: str) -> None:
    with pytest.raises(BadInput):
        await phone.ours.people.keys.add_one_time_keys(phone.alice, PHONE, {name: {}})
