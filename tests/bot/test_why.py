"""`why`: the whole way of a message, for those whose message it is."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from bridge.adapters.loopback import LoopbackChat
from bridge.bot.commands.why import UNKNOWN
from bridge.bot.dispatch import Dispatch
from bridge.bot.journal import MessageJournal
from bridge.bot.queues import QueueDesk
from bridge.errors import Refused, Unavailable
from bridge.identity import localparts
from bridge.ids import EventId, RoomAlias, RoomId, ServerName, UserId
from bridge.policy.rights import Rights
from bridge.ports.chat import DirectMessage
from bridge.ports.command import Caller
from bridge.storage import schema
from tests.support.bot import NoRooms
from tests.support.world import ALICE, BOB, GATEWAY, HOME, JULIET, ROMEO, World

ADMIN = UserId(f"@admin:{HOME}")


class Bot:
    """The table over a world, and who asks it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._table = Dispatch(
            rooms=NoRooms(),
            rights=Rights({str(ADMIN): "admin"}, own_server=ServerName(GATEWAY)),
            address_of=self._address_of,
            journal=MessageJournal(database=world.database),
            queues=QueueDesk(
                database=world.database,
                clock=world.clock,
                tell_inbox=world.from_chat.on_parked,
                tell_outbox=world.notices.on_parked,
            ),
        )

    def _address_of(self, user_id: UserId) -> str | None:
        return localparts.address_for(user_id, ServerName(GATEWAY))

    async def why(self, who: UserId | str, message: str) -> str:
        return await self.tell(who, f"why {message}")

    async def tell(self, who: UserId | str, line: str) -> str:
        user_id = UserId(who) if who.startswith("@") else self._world.ghost(who)
        return await self._table.run(Caller(user_id=user_id), line)


@pytest.fixture
def bot(world: World) -> Bot:
    return Bot(world)


async def written_by_alice(world: World) -> tuple[RoomId, EventId]:
    room_id = await world.direct_room(JULIET)
    await world.settle()
    event_id = await world.say(room_id, "hello")
    await world.settle()
    return room_id, event_id


async def test_a_message_of_matrix_is_told_from_step_to_step(world: World, bot: Bot) -> None:
    room_id, event_id = await written_by_alice(world)
    (outbox_id,) = [
        one.outbox_id for one in world.chat.delivered if isinstance(one.delivery, DirectMessage)
    ]
    for name in (
        event_id,
        f"https://matrix.to/#/{room_id}/{event_id}?via={HOME}",
        f"outbox {outbox_id}",
        f"{world.database.epoch}.out.{outbox_id}",
    ):
        lines = (await bot.why(ALICE, name)).splitlines()
        assert f"event {event_id} in {room_id}" in lines[1]
        assert lines[2].endswith(f"to chat: stored (outbox {outbox_id})")
        assert lines[3:] == [f"outbox {outbox_id} is done", "Nothing more happens to it."]


async def test_a_message_of_the_chat_side_is_told_up_to_the_others_server(
    world: World, bot: Bot
) -> None:
    await written_by_alice(world)
    await world.chat.say(JULIET, "hi", to=ALICE, stanza_id="s-1")
    await world.settle()
    answer = await bot.why(JULIET, "s-1")
    assert "accept: stored (inbox 1)" in answer
    assert "bridge: sent ($" in answer
    assert f"Taken by {HOME}" in answer
    assert answer.endswith("Nothing more happens to it.")
    event_id = answer.partition("sent (")[2].partition(")")[0]
    assert await bot.why(JULIET, event_id) != UNKNOWN
    assert "accept: stored" in await bot.why(JULIET, event_id)
    assert "accept: stored" in await bot.why(JULIET, "inbox 1")


async def test_what_waits_says_for_what_and_when_it_is_tried_next(world: World, bot: Bot) -> None:
    room_id, _ = await written_by_alice(world)
    world.chat.refuse_next(Unavailable("their server is down"))
    event_id = await world.say(room_id, "again")
    await world.settle()
    answer = await bot.why(ALICE, event_id)
    assert "waits: their server is down (1 try, next " in answer
    assert "Nothing more" not in answer
    assert "waits: their server is down" in await bot.tell(ADMIN, "queues")


async def test_what_is_parked_tells_why_and_the_admin_decides(world: World, bot: Bot) -> None:
    room_id, _ = await written_by_alice(world)
    world.chat.refuse_next(Refused("she has left"))
    event_id = await world.say(room_id, "again")
    await world.settle()
    told = await bot.why(ALICE, event_id)
    assert "is set aside until the operator decides: she has left" in told
    assert "retry" not in told
    told = await bot.why(ADMIN, event_id)
    row = told.partition("`retry ")[2].partition("`")[0]
    assert "tried again now" in await bot.tell(ADMIN, f"retry {row}")
    await world.settle()
    assert [text for _, text in world.heard()] == ["hello", "again"]
    told = await bot.why(ALICE, event_id)
    assert f"operator: tried again ({row}, by {ADMIN})" in told
    assert f"{row} is done" in told


async def test_a_dropped_message_is_told_to_its_author(world: World, bot: Bot) -> None:
    room_id, _ = await written_by_alice(world)
    world.chat.refuse_next(Unavailable("their server is down"))
    event_id = await world.say(room_id, "again")
    await world.settle()
    row = next(
        word for line in (await bot.why(ADMIN, event_id)).splitlines() if " waits" in line
        for word in [line.partition(" waits")[0]]
    )  # fmt: skip
    assert "given up" in await bot.tell(ADMIN, f"drop {row}")
    await world.later(3600)
    assert [text for _, text in world.heard()] == ["hello"]
    assert any("could not be delivered" in text for text in await world.bodies(room_id))
    assert f"{row} was given up" in await bot.why(ALICE, event_id)


async def test_the_refusal_of_the_others_server_is_told(world: World, bot: Bot) -> None:
    await written_by_alice(world)
    world.refused_by_peer = {"hi": "not in my house"}
    await world.chat.say(JULIET, "hi", to=ALICE, stanza_id="s-1")
    await world.settle()
    assert f"Refused by {HOME}: not in my house" in await bot.why(JULIET, "s-1")


async def test_author_and_recipient_may_ask_and_nobody_else_learns_that_it_exists(
    world: World, bot: Bot
) -> None:
    _, event_id = await written_by_alice(world)
    for who in (ALICE, JULIET, ADMIN):
        assert "to chat: stored" in await bot.why(who, event_id)
    for who in (BOB, ROMEO):
        for name in (event_id, "outbox 1", "$nothing", "no-such-stanza", "outbox 999"):
            assert UNKNOWN in await bot.why(who, name)
            assert await bot.why(who, name) == await bot.why(who, "$nothing")


async def test_the_address_of_a_chat_does_not_speak_for_the_people_in_it(
    world: World, bot: Bot
) -> None:
    tea = "tea@muc.example"
    world.chat.open_chat(LoopbackChat(address=tea, hides=True, people={JULIET: "Juliet"}))
    alias = RoomAlias(f"#tea=40muc.example:{GATEWAY}")
    room_id, _ = await world.home.backend.resolve_alias(alias)
    await world.join(room_id)
    await world.settle()
    await world.chat.say_in_chat(tea, JULIET, "among us")
    await world.settle()
    rows = await world.database.read(
        lambda tx: tx.execute(select(schema.inbox.c.inbox_id, schema.inbox.c.payload)).all()
    )
    (row,) = [row.inbox_id for row in rows if "among us" in row.payload]
    assert "accept: stored" in await bot.why(ADMIN, f"inbox {row}")
    assert UNKNOWN in await bot.why(tea, f"inbox {row}")


async def test_a_stanza_id_that_two_people_used_shows_each_their_own(
    world: World, bot: Bot
) -> None:
    await written_by_alice(world)
    for address in (JULIET, ROMEO):
        await world.chat.say(address, f"from {address}", to=ALICE, stanza_id="same")
    await world.settle()
    assert (await bot.why(JULIET, "same")).count("accept: stored") == 1
    assert (await bot.why(ROMEO, "same")).count("accept: stored") == 1
    assert await bot.why(JULIET, "same") != await bot.why(ROMEO, "same")
    assert (await bot.why(ADMIN, "same")).count("accept: stored") == 2
