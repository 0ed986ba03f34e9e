"""What people say to each other by EDUs, to devices, in statuses and tokens never reaches the log,
whatever goes wrong with it; and nobody says any of it in the name of another server's user."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.demo.servers import CertificateAuthority
from bridge.ids import DeviceId, UserId
from bridge.policy.rules import Action, RuleTable, read_rule
from tests.federation.server.test_people import PHONE, V1, Pair, pair
from tests.support.matrix_side import until

WORD = "petrichor"


def edus(pair: Pair, sender: UserId) -> list[dict[str, Any]]:
    """One of each kind, all of them with the word where people's words are."""
    room = {"room_id": f"!{WORD}:{pair.peer.name}"}
    return [
        {"edu_type": "m.typing", "content": {**room, "user_id": sender, "typing": True}},
        {
            "edu_type": "m.presence",
            "content": {
                "push": [
                    {
                        "user_id": sender,
                        "presence": "online",
                        "status_msg": f"{WORD} status",
                        "last_active_ago": 1,
                    }
                ]
            },
        },
        {
            "edu_type": "m.direct_to_device",
            "content": {
                "sender": sender,
                "type": "m.room_key",
                "message_id": f"id-{sender}",
                "messages": {pair.alice: {PHONE: {"key": f"{WORD} key"}, "NOPHONE": {"key": WORD}}},
            },
        },
        {
            "edu_type": "m.device_list_update",
            "content": {
                "user_id": sender,
                "device_id": "LAPTOP",
                "stream_id": 7,
                "prev_id": [],
                "device_display_name": f"{WORD} phone",
                "keys": {"user_id": sender, "device_id": "LAPTOP", "keys": {"x": WORD}},
            },
        },
        {
            "edu_type": "m.signing_key_update",
            "content": {
                "user_id": sender,
                "master_key": {"user_id": sender, "usage": ["master"], "keys": {"x": WORD}},
            },
        },
    ]


def broken(pair: Pair) -> list[Any]:
    """The word where something else belongs, but for names: those a log may tell."""
    kinds = [one["edu_type"] for one in edus(pair, pair.bob)]
    contents: list[Any] = [
        WORD,
        [WORD],
        {"user_id": [WORD], "sender": {WORD: WORD}, "messages": WORD, "push": [WORD]},
        {
            "sender": pair.bob,
            "user_id": pair.bob,
            "device_id": "LAPTOP",
            "stream_id": WORD,
            "type": WORD * 300,
            "message_id": "1",
            "messages": {pair.alice: {PHONE: WORD}},
            "push": [{"user_id": pair.bob, "presence": WORD, "status_msg": WORD}],
        },
    ]
    found: list[Any] = [{"edu_type": k, "content": c} for k in kinds for c in contents]
    return [*found, WORD, {"edu_type": f"x.{WORD}", "content": {"body": WORD}}]


async def send(pair: Pair, name: str, found: list[Any]) -> None:
    body = {"origin": pair.peer.name, "origin_server_ts": 1, "pdus": [], "edus": found}
    answer = await pair.ask("PUT", f"{V1}/send/{name}", body)
    assert (answer.status, answer.json()) == (200, {"pdus": {}})


async def test_no_word_of_what_passes_is_logged(
    certificates: CertificateAuthority,
    tmp_path: Path,
    sqlite_template: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with pair(certificates, tmp_path, sqlite_template) as both:
        with capture_logs() as lines:
            await send(both, "good", edus(both, both.bob))
            await send(both, "broken", broken(both))
            rule = read_rule(["user", both.bob], action=Action.DENY, rule_id=1)
            both.us.house.replace(RuleTable.of([rule]))
            await send(both, "denied", edus(both, both.bob))
            both.us.house.replace(RuleTable())

            async def arrived() -> bool:
                return len(await both.inbox(both.us, both.alice, PHONE)) == 1

            await until(arrived)
            # Our own, on its way out; its server is gone.
            await both.peer.stop()
            await both.us.running.people.to_device.send(
                sender=both.alice,
                type="m.room_key",
                messages={both.bob: {"*": {"key": WORD}}},
                txn="one",
            )
            token = (await both.us.running.people.openid.issue(both.alice)).access_token
            await both.peer.start()
            answer = await both.ask("GET", f"{V1}/openid/userinfo?access_token={token}x")
            assert answer.status == 401
            answer = await both.ask("GET", f"{V1}/media/download/{WORD}")
            assert answer.status == 404
        assert lines
        # IDs are identifiers, which logs may name; of the words there is nothing.
        ids = (f"!{WORD}:",)
        said = [line for line in lines if WORD in strip(str(line), ids)]
        assert said == []
        assert token not in str(lines)
        assert WORD not in strip(caplog.text, ids)


def strip(text: str, ids: tuple[str, ...]) -> str:
    for one in ids:
        text = text.replace(one, "")
    return text


async def test_nobody_passes_anything_in_the_name_of_anothers_user(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with pair(certificates, tmp_path, sqlite_template) as both:
        (room,) = await both.us.rooms.queries.joined_rooms(both.alice)
        before = list(both.us.changes)
        for number, victim in enumerate((both.alice, UserId("@eve:third.example"))):
            forged = edus(both, victim)
            forged[0]["content"]["room_id"] = room
            forged.append(
                {
                    "edu_type": "m.receipt",
                    "content": {room: {"m.read": {victim: {"event_ids": ["$e"], "data": {}}}}},
                }
            )
            await send(both, f"forged{number}", forged)
        assert both.us.changes == before
        assert await both.inbox(both.us, both.alice, PHONE) == []
        devices = await both.us.running.people.devices.of_user(both.alice)
        assert [one.device_id for one in devices] == [DeviceId(PHONE)]
        # That they can be seen at all.
        typing = edus(both, both.bob)[0]
        typing["content"]["room_id"] = room
        await send(both, "own", [typing])
        assert len(both.us.changes) == len(before) + 1
