"""Whatever JSON another server says or asks, it is refused or taken; nothing falls over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.errors import BadInput, NotFound, Refused
from tests.people.conftest import LAPTOP, PHONE, Scene, device_keys, signing_key

SETTINGS = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ALICE, BOB = "@alice:ours.example", "@bob:theirs.example"
texts = st.text(max_size=8) | st.sampled_from(
    ["", "\0", "*", "PHONE", ALICE, BOB, "@:x", "ed25519:A", "master", "x" * 300]
)
junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
Wait = Callable[[Awaitable[Any]], Any]


def spoilt(good: dict[str, Any]) -> st.SearchStrategy[Any]:
    """The good one, with one thing in it, at any depth, that is something else."""
    paths: list[tuple[str, ...]] = []

    def walk(value: Any, path: tuple[str, ...]) -> None:
        for key, inner in value.items() if isinstance(value, dict) else ():
            paths.append((*path, key))
            walk(inner, (*path, key))

    walk(good, ())

    def put(value: Any, path: tuple[str, ...], other: Any) -> Any:
        return {**value, path[0]: put(value[path[0]], path[1:], other)} if path else other

    return st.tuples(st.sampled_from(paths), junk).map(lambda one: put(good, one[0], one[1]))


async def examples(example: Callable[[Wait], None]) -> None:
    """A property that needs the loop lives in a thread; its questions come back here."""
    loop = asyncio.get_running_loop()

    def wait(question: Awaitable[Any]) -> Any:
        coroutine = cast(Any, question)
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=30)

    await asyncio.to_thread(example, wait)


UPDATE = {
    "user_id": ALICE,
    "device_id": "PHONE",
    "stream_id": 7,
    "prev_id": [6],
    "device_display_name": "phone",
    "deleted": False,
    "keys": device_keys(cast(Any, ALICE), "PHONE"),
}
SIGNING = {
    "user_id": ALICE,
    "master_key": signing_key(cast(Any, ALICE), "master", "M"),
    "self_signing_key": signing_key(cast(Any, ALICE), "self_signing", "S"),
}
DIRECT = {
    "sender": ALICE,
    "type": "m.test",
    "message_id": "1",
    "messages": {BOB: {"PHONE": {"n": 1}, "*": {}}},
}


@pytest.mark.parametrize(
    ("edu_type", "good"),
    [
        ("m.device_list_update", UPDATE),
        ("m.signing_key_update", SIGNING),
        ("org.matrix.signing_key_update", SIGNING),
        ("m.direct_to_device", DIRECT),
    ],
)
async def test_no_edu_makes_its_taker_fall_over(
    scene: Scene, edu_type: str, good: dict[str, Any]
) -> None:
    await scene.theirs.people.devices.put(scene.bob, PHONE)
    taker = scene.theirs.people.takers[edu_type]
    # Every taker of the table is here.
    assert set(scene.theirs.people.takers) == {
        "m.device_list_update",
        "m.signing_key_update",
        "org.matrix.signing_key_update",
        "m.direct_to_device",
    }

    async def take(content: Any) -> None:
        try:
            await taker.take(scene.ours.name, content)
        except (BadInput, Refused, NotFound):
            return

    def example(wait: Wait) -> None:
        @SETTINGS
        @given(spoilt(good) | st.dictionaries(texts, junk, max_size=4))
        def every_content(content: Any) -> None:
            wait(take(content))

        every_content()

    await examples(example)
    await scene.fetch()
    answer = await scene.theirs.people.keys.query(scene.bob, scene.theirs.name, {scene.bob: []})
    assert answer["device_keys"] == {scene.bob: {}}


async def test_no_question_makes_an_answer_fall_over(scene: Scene) -> None:
    keys = scene.ours.people.keys

    async def ask(wanted: Any) -> None:
        for answer in (keys.answer_query, keys.answer_claim):
            try:
                assert isinstance(await answer(wanted), dict)
            except (BadInput, Refused, NotFound):
                continue

    def example(wait: Wait) -> None:
        @SETTINGS
        @given(junk | spoilt({ALICE: {"PHONE": "signed_curve25519"}}) | spoilt({ALICE: []}))
        def every_question(wanted: Any) -> None:
            wait(ask(wanted))

        every_question()

    await examples(example)


async def test_no_answer_of_another_server_makes_us_fall_over(scene: Scene) -> None:
    await scene.ours.people.devices.put(scene.alice, PHONE)
    await scene.ours.people.devices.put(scene.alice, LAPTOP)
    device = {"device_id": "PHONE", "keys": device_keys(scene.alice, "PHONE")}
    listed = {
        "user_id": ALICE,
        "stream_id": 9,
        "devices": [device],
        "master_key": SIGNING["master_key"],
    }
    queried = {
        "device_keys": {ALICE: {"PHONE": device_keys(scene.alice, "PHONE")}},
        "master_keys": {ALICE: SIGNING["master_key"]},
    }
    claimed: dict[str, Any] = {"one_time_keys": {ALICE: {"PHONE": {"signed_curve25519:A": {}}}}}
    people = scene.theirs.people

    async def ask(answer: Any) -> None:
        scene.network.tamper = lambda endpoint, _: answer
        for question in (
            people.keys.query(scene.bob, scene.ours.name, {scene.alice: []}),
            people.keys.claim(scene.ours.name, {scene.alice: {PHONE: "signed_curve25519"}}),
        ):
            try:
                assert isinstance(await question, dict)
            except (BadInput, Refused, NotFound):
                continue
        scene.clock.shift(100_000.0)
        await people.resync.serve(scene.ours.name)
        known = await scene.list_of(scene.theirs, scene.alice)
        if known is not None and not known.stale:
            await scene.hand_over(scene.ours, scene.theirs, "m.device_list_update", UPDATE)

    def example(wait: Wait) -> None:
        @SETTINGS
        @given(
            st.one_of(
                spoilt(listed),
                spoilt(queried),
                spoilt(claimed),
                st.lists(spoilt(device), max_size=2).map(
                    lambda devices: {**listed, "devices": devices}
                ),
                st.dictionaries(texts, junk, max_size=3),
            )
        )
        def every_answer(answer: Any) -> None:
            wait(ask(answer))

        every_answer()

    await examples(example)
