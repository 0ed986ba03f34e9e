"""The worked example of the chat port."""

from __future__ import annotations

import pytest

from bridge.adapters.loopback import LoopbackAdapter, LoopbackAddresses
from bridge.errors import Unavailable
from bridge.ids import ServerName, TraceId, UserId
from bridge.ports.chat import BotNotice
from tests.support.listener import ScriptedListener

ALICE = UserId("@alice:m.example")
NOTICE = BotNotice(to="juliet@capulet.lit", text="hello")


async def test_what_somebody_says_is_accepted_once_per_id() -> None:
    listener = ScriptedListener()
    loopback = LoopbackAdapter(listener=listener)
    await loopback.say("juliet@capulet.lit", "hello", to=ALICE, stanza_id="s1")
    message = listener.accepted.get_nowait()
    assert (message.to_user, message.stanza_id, message.message.text) == (ALICE, "s1", "hello")


async def test_a_delivery_that_is_handed_over_twice_arrives_once() -> None:
    loopback = LoopbackAdapter(listener=ScriptedListener())
    for _ in range(2):
        await loopback.deliver(NOTICE, outbox_id=1, trace=TraceId("t"))
    assert [d.delivery for d in loopback.delivered] == [NOTICE]


async def test_the_next_delivery_fails_as_told() -> None:
    loopback = LoopbackAdapter(listener=ScriptedListener())
    loopback.refuse_next(Unavailable("down"))
    with pytest.raises(Unavailable):
        await loopback.deliver(NOTICE, outbox_id=1, trace=TraceId("t"))
    await loopback.deliver(NOTICE, outbox_id=1, trace=TraceId("t"))
    assert (loopback.attempts, len(loopback.delivered)) == (2, 1)


def test_addresses_are_mapped_there_and_back() -> None:
    addresses = LoopbackAddresses(server_name=ServerName("gw.example"))
    user_id = addresses.user_of("juliet@capulet.lit")
    assert user_id == "@juliet=40capulet.lit:gw.example"
    assert addresses.address_of(user_id) == "juliet@capulet.lit"
    assert addresses.address_of(ALICE) is None
    assert addresses.default_name("juliet@capulet.lit") == "juliet"
