"""Files among other messages: in order, once, and nothing lost over them."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.adapters.loopback import LoopbackChat
from bridge.ids import RoomAlias, RoomId
from bridge.policy.rules import Action, RuleTable, read_rule
from bridge.ports.chat import ChatPost, DirectMessage, RoomMessage
from tests.support.world import ALICE, GATEWAY, JULIET, WebFile, World

URL = "https://x.example/a.png"
TEA = "tea@muc.example"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x05\0\0\0\x07\x08\0\0\0\0" + b"x" * 500


async def chat_of_two(world: World) -> RoomId:
    room_id = await world.direct_room()
    await world.settle()
    return room_id


async def served_room(world: World) -> RoomId:
    """A room on Matrix that Juliet is in."""
    alias = RoomAlias("#garden:matrix.example")
    room_id = await world.home.backend.create_room(
        creator=ALICE, txn="served", public=True, alias=alias
    )
    await world.chat.enter(JULIET, alias)
    await world.settle()
    return room_id


async def contents(world: World, room_id: RoomId) -> list[dict[str, Any]]:
    """Of the messages, as the other server has them."""
    return [
        dict(one.pdu.content)
        for one in await world.home.timeline(room_id)
        if one.pdu.type in ("m.room.message", "m.image", "m.message")
    ]


async def test_a_shared_picture_is_one_in_the_room(world: World) -> None:
    room_id = await chat_of_two(world)
    world.web.files[URL] = WebFile(data=PNG)
    await world.chat.say(JULIET, URL, to=ALICE, is_file=True)
    await world.settle()
    [content] = await contents(world, room_id)
    assert (content["msgtype"], content["body"]) == ("m.image", "a.png")
    assert content["info"] == {"mimetype": "image/png", "size": len(PNG), "w": 5, "h": 7}
    stored = await world.home.backend.media(content["url"])
    assert stored.size_bytes == len(PNG)


async def test_what_is_said_after_a_slow_file_stands_after_it(world: World) -> None:
    room_id = await chat_of_two(world)
    await world.chat.say(JULIET, URL, to=ALICE, is_file=True)
    await world.chat.say(JULIET, "after it", to=ALICE)
    await world.settle()
    assert await world.bodies(room_id) == []
    world.web.files[URL] = WebFile(data=PNG)
    await world.later(60)
    assert await world.bodies(room_id) == ["a.png", "after it"]
    await world.tell_again()
    assert await world.bodies(room_id) == ["a.png", "after it"]


async def test_a_file_that_never_comes_holds_nobody_up_for_long(world: World) -> None:
    room_id = await chat_of_two(world)
    await world.chat.say(JULIET, URL, to=ALICE, is_file=True)
    await world.chat.say(JULIET, "after it", to=ALICE)
    for _ in range(5):
        await world.later(60)
    assert await world.bodies(room_id) == [URL, "after it"]
    assert len(world.web.asked) == 4


async def test_a_crash_after_fetching_fetches_and_says_nothing_twice(world: World) -> None:
    room_id = await chat_of_two(world)
    world.web.files[URL] = WebFile(data=PNG)
    await world.chat.say(JULIET, URL, to=ALICE, is_file=True)
    backend = world.gateway.backend
    send = backend.send

    async def send_and_fall(**more: Any) -> Any:
        await send(**more)
        raise RuntimeError("kill -9")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "send", send_and_fall)
        await world.work_off()
    world.web.files[URL] = WebFile(data=b"other bytes")
    await world.crash()
    await world.later(600)
    assert await world.bodies(room_id) == ["a.png"]
    assert world.web.asked == [URL]


async def test_a_picture_on_matrix_is_a_link_in_each_kind_of_chat(world: World) -> None:
    room_id = await chat_of_two(world)
    served = await served_room(world)
    content = {"msgtype": "m.image", "url": "mxc://matrix.example/abc", "filename": "a.png"}
    for where in (room_id, served):
        await world.say(where, "the view", **content)
    await world.settle()
    [direct] = world.delivered(DirectMessage)
    [said] = [one for one in world.delivered(RoomMessage) if one.message.file is not None]
    for message in (direct.message, said.message):
        assert message.file is not None
        assert message.text == f"the view\n{message.file.url}"
        assert str(message.file.url).startswith("https://gw.example/_isthmus/media/")
        assert str(message.file.url).endswith("/matrix.example/abc/a.png")
    assert world.delivered(ChatPost) == []


async def test_a_picture_shared_in_a_room_is_shown_to_all_of_its_people_by_our_link(
    world: World,
) -> None:
    served = await served_room(world)
    world.web.files[URL] = WebFile(data=PNG)
    await world.chat.say(JULIET, URL, to=served, is_file=True)
    await world.settle()
    assert [one["msgtype"] for one in await contents(world, served)] == ["m.image"]
    [said] = [one for one in world.delivered(RoomMessage) if one.message.file is not None]
    assert said.message.text.startswith("https://gw.example/_isthmus/media/")
    assert said.stanza_id is not None


async def test_a_redacted_picture_is_no_link(world: World) -> None:
    room_id = await chat_of_two(world)
    event_id = await world.say(room_id, "a.png", msgtype="m.image", url="mxc://matrix.example/abc")
    await world.home.backend.redact(
        room_id=room_id, sender=ALICE, target=event_id, txn="r", reason=None
    )
    await world.settle()
    assert world.heard() == []


async def test_files_of_whom_a_rule_denies_media_do_not_cross(world: World) -> None:
    room_id = await chat_of_two(world)
    rules = [
        read_rule(["user", user, "media"], action=Action.DENY, rule_id=number)
        for number, user in enumerate((ALICE, JULIET), 1)
    ]
    world.gateway.house.attach(
        on_refusal=lambda _: None,
        address_of=lambda user_id: JULIET if user_id == world.ghost(JULIET) else None,
    )
    world.gateway.house.replace(RuleTable.of(rules))
    world.web.files[URL] = WebFile(data=PNG)
    await world.say(room_id, "a.png", msgtype="m.image", url="mxc://matrix.example/abc")
    await world.chat.say(JULIET, URL, to=ALICE, is_file=True)
    await world.settle()
    assert [text for _, text in world.heard()] == ["[image: a.png]"]
    assert (await world.bodies(room_id))[-1] == URL
    assert world.web.asked == []


async def test_pictures_cross_between_a_foreign_chat_and_its_room(world: World) -> None:
    world.chat.open_chat(LoopbackChat(address=TEA, name="Tea"))
    room_id, _ = await world.home.backend.resolve_alias(RoomAlias(f"#tea=40muc.example:{GATEWAY}"))
    await world.join(room_id)
    await world.settle()
    await world.chat.come(TEA, JULIET, "Juliet")
    world.web.files[URL] = WebFile(data=PNG)
    await world.chat.say_in_chat(TEA, JULIET, URL, is_file=True)
    await world.say(room_id, "a.png", msgtype="m.image", url="mxc://matrix.example/abc")
    await world.settle()
    assert [one["msgtype"] for one in await contents(world, room_id)] == ["m.image", "m.image"]
    [post] = world.delivered(ChatPost)
    assert post.message.file is not None
    assert post.message.text == post.message.file.url
