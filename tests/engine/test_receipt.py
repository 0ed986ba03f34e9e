"""Checks on receipt of a PDU, in order, and building events of our own."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.engine.auth import auth_state_keys
from bridge.engine.build import (
    Draft,
    PrevEvent,
    build_pdu,
    complete,
    countersign,
    event_template,
    next_depth,
)
from bridge.engine.canonical import MAX_INTEGER
from bridge.engine.hashes import check_content_hash
from bridge.engine.keys import SigningKey
from bridge.engine.pdu import Pdu
from bridge.engine.receipt import (
    Decision,
    KeysByServer,
    Verdict,
    VerifyKey,
    check_signatures_and_hash,
    judge,
    keys_to_fetch,
)
from bridge.engine.redaction import redact_pdu
from bridge.engine.versions import get_version
from bridge.errors import BadInput, Refused
from bridge.ids import EventId, KeyId, RoomId, ServerName
from tests.engine.rooms import (
    ALICE,
    BOB,
    CAROL,
    START_MS,
    VERSION_IDS,
    RoomBuilder,
    key_of,
    public_room,
    since,
)

all_versions = pytest.mark.parametrize("version_id", VERSION_IDS)
DAY_MS = 24 * 3600 * 1000
A, B = ServerName("a.example"), ServerName("b.example")


def published(*servers: ServerName, valid_until_ts: int = START_MS + DAY_MS) -> KeysByServer:
    return {
        server: {
            key_of(server).key_id: VerifyKey(
                key_base64=key_of(server).verify_key_base64, valid_until_ts=valid_until_ts
            )
        }
        for server in servers
    }


def check(pdu: Pdu, keys: KeysByServer, now_ms: int = START_MS) -> Pdu | str:
    try:
        return check_signatures_and_hash(pdu, keys, now_ms=now_ms)
    except Refused as exc:
        return exc.rule


def received(pdu: Pdu, **changes: Any) -> Pdu:
    return Pdu.parse({**pdu.json, **changes}, pdu.version)


# Steps 2 and 3


@all_versions
def test_a_signed_event_passes_unchanged(version_id: str) -> None:
    pdu = public_room(version_id, BOB).send("m.room.message", BOB, {"body": "x"})
    assert check(pdu, published(B)) == pdu
    assert keys_to_fetch(pdu) == {B: {"ed25519:test"}}


@all_versions
def test_a_redacted_copy_passes_and_a_changed_copy_is_redacted(version_id: str) -> None:
    pdu = public_room(version_id, BOB).send("m.room.message", BOB, {"body": "x"})
    redacted = redact_pdu(pdu)
    assert check(received(redacted), published(B)) == redacted
    changed = received(pdu, content={"body": "forged"}, extra=1)
    result = check(changed, published(B))
    assert isinstance(result, Pdu)
    assert result == redacted
    assert result.content == {}
    assert result.event_id == pdu.event_id


@all_versions
def test_changing_what_redaction_keeps_breaks_the_signature(version_id: str) -> None:
    pdu = public_room(version_id, BOB).send("m.room.message", BOB, {"body": "x"})
    changed = received(pdu, depth=pdu.depth + 1)
    assert check(changed, published(B)) == "signature.wrong"


@all_versions
def test_missing_unknown_and_other_servers_signatures_are_not_enough(version_id: str) -> None:
    pdu = public_room(version_id, BOB).send("m.room.message", BOB, {"body": "x"})
    assert check(pdu, {}) == "signature.missing"
    assert check(pdu, published(A)) == "signature.missing"
    assert check(received(pdu, signatures={}), published(B)) == "signature.missing"
    by_other = countersign(received(pdu, signatures={}), key=key_of(A), server=A)
    assert check(by_other, published(A, B)) == "signature.missing"
    assert keys_to_fetch(by_other) == {B: frozenset()}


def test_unknown_keys_are_skipped_but_one_wrong_signature_is_one_too_many() -> None:
    pdu = public_room("12", BOB).send("m.room.message", BOB, {"body": "x"})
    second = countersign(pdu, key=SigningKey.from_seed("second", b"2" * 32), server=B)
    assert check(second, published(B)) == second
    wrong = VerifyKey(key_base64=key_of(A).verify_key_base64, valid_until_ts=START_MS + DAY_MS)
    keys = {B: {**published(B)[B], KeyId("ed25519:second"): wrong}}
    assert check(second, keys) == "signature.wrong"


@all_versions
def test_a_key_must_be_valid_when_the_event_was_made_from_version_5(version_id: str) -> None:
    pdu = public_room(version_id, BOB).send("m.room.message", BOB, {"body": "x"})
    ts = pdu.origin_server_ts
    assert check(pdu, published(B, valid_until_ts=ts)) == pdu
    expected = "signature.missing" if since(version_id, 5) else pdu
    assert check(pdu, published(B, valid_until_ts=ts - 1)) == expected


def test_a_key_is_believed_for_seven_days_at_most() -> None:
    pdu = public_room("I.1", BOB).send("m.room.message", BOB, {}, ts=START_MS + 8 * DAY_MS)
    forever = published(B, valid_until_ts=2**52)
    assert check(pdu, forever, now_ms=START_MS) == "signature.missing"
    assert check(pdu, forever, now_ms=START_MS + DAY_MS) == pdu


@all_versions
def test_from_8_a_restricted_join_without_the_voucher_s_signature_is_dropped(
    version_id: str,
) -> None:
    room = public_room(version_id)
    content = {"membership": "join", "join_authorised_via_users_server": ALICE}
    pdu = room.send("m.room.member", BOB, content, BOB)
    keys = published(A, B)
    assert check(pdu, keys) == ("signature.missing" if since(version_id, 8) else pdu)
    signed = countersign(pdu, key=key_of(A), server=A)
    assert check(signed, keys) == signed


# Steps 4 to 6


def decide(
    room: RoomBuilder, pdu: Pdu, *, current: EventId | None = None, **changes: Any
) -> Decision:
    """Judge by the room's own record; `current` is the event after which the state is current."""
    keys = auth_state_keys(pdu.type, pdu.sender, pdu.state_key, pdu.content, room.version)

    def part(state: Any) -> dict[Any, Pdu]:
        return {key: room.events[state[key]] for key in keys if key in state}

    arguments: dict[str, Any] = {
        "create": room.create,
        "auth_events": room.lookup(pdu.auth_events),
        "state_before": part(room.state_before(list(pdu.prev_events))),
        "current_state": None if current is None else part(room.state_after[current]),
        **changes,
    }
    return judge(pdu, **arguments)


@all_versions
def test_a_right_event_is_accepted_and_so_is_every_step_before_it(version_id: str) -> None:
    room = public_room(version_id, BOB)
    for event in list(room.events.values()):
        create = None if event == room.create else room.create
        assert decide(room, event, create=create).verdict is Verdict.ACCEPTED
    message = room.draft("m.room.message", BOB, {})
    assert decide(room, message, current=room.last) == Decision(verdict=Verdict.ACCEPTED)


@all_versions
def test_an_event_refused_by_its_auth_events_is_rejected(version_id: str) -> None:
    room = public_room(version_id)
    outsider = room.draft("m.room.message", BOB, {})
    decision = decide(room, outsider)
    assert (decision.verdict, decision.rule) == (Verdict.REJECTED, "sender.membership")


@all_versions
def test_an_event_that_names_wrong_auth_events_is_rejected(version_id: str) -> None:
    room = public_room(version_id, BOB)
    rules = room.state_after[room.last]["m.room.join_rules", ""]
    right = room.draft("m.room.message", BOB, {})
    wrong = room.draft("m.room.message", BOB, {}, auth_events=[*right.auth_events, rules])
    decision = decide(room, wrong)
    assert (decision.verdict, decision.rule) == (Verdict.REJECTED, "auth_events.selection")
    unknown = decide(room, right, auth_events={})
    assert (unknown.verdict, unknown.rule) == (Verdict.REJECTED, "auth_events.unknown")


@all_versions
def test_an_event_refused_by_the_state_before_it_is_rejected(version_id: str) -> None:
    room = public_room(version_id, BOB)
    auth_events = list(room.draft("m.room.message", BOB, {}).auth_events)
    room.member(ALICE, BOB, "ban")
    # It stands after the ban, but names auth events from before.
    evading = room.draft("m.room.message", BOB, {}, auth_events=auth_events)
    decision = decide(room, evading)
    assert (decision.verdict, decision.rule) == (Verdict.REJECTED, "sender.membership")
    assert decide(room, evading, state_before=None).verdict is Verdict.ACCEPTED


@all_versions
def test_an_event_that_slips_past_a_ban_is_soft_failed(version_id: str) -> None:
    room = public_room(version_id, BOB)
    fork = [room.last]
    ban = room.member(ALICE, BOB, "ban")
    late = room.draft("m.room.message", BOB, {"body": "x"}, after=fork)
    decision = decide(room, late, current=ban.event_id)
    assert (decision.verdict, decision.rule) == (Verdict.SOFT_FAILED, "sender.membership")
    assert decide(room, late).verdict is Verdict.ACCEPTED


@all_versions
def test_a_legacy_message_is_accepted_into_every_room(version_id: str) -> None:
    room = public_room(version_id, BOB)
    for kind in ("m.room.message", "m.message"):
        pdu = room.draft(kind, BOB, {"body": "x"})
        assert decide(room, pdu, current=room.last).verdict is Verdict.ACCEPTED


# Building


@all_versions
def test_what_we_build_passes_every_check(version_id: str) -> None:
    room = public_room(version_id, BOB)
    pdu = room.send("m.room.topic", ALICE, {"topic": "tea"}, "")
    again = Pdu.parse(pdu.wire(), room.version)
    assert again == pdu
    assert check(again, published(A)) == pdu
    assert check_content_hash(again.json)
    assert decide(room, again, current=room.last).verdict is Verdict.ACCEPTED


def build(version_id: str = "10", **changes: Any) -> Pdu:
    draft = {
        "room_id": RoomId("!r:a.example"),
        "type": "m.room.message",
        "sender": ALICE,
        "content": {"body": "x"},
        **changes,
    }
    return build_pdu(
        Draft(**draft),
        prev_events=[PrevEvent(event_id=EventId("$" + "A" * 43), depth=7)],
        auth_events=[],
        version=get_version(version_id),
        key=key_of(A),
        server=A,
        origin_server_ts=START_MS,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"content": {"body": "x" * 65536}},
        {"content": {"a": 0.5}},
        {"content": {"a": float("nan")}},
        {"content": {"a": 2**53}},
        {"content": {"a": "\ud800"}},
        {"content": {"a": b"x"}},
        {"type": "x" * 256},
        {"state_key": "x" * 256},
        {"room_id": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_draft_that_breaks_a_limit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        build(**changes)


def test_building_leaves_the_draft_s_content_alone() -> None:
    content = {"reason": "x"}
    pdu = build("11", type="m.room.redaction", content=content, redacts=EventId("$x"))
    assert content == {"reason": "x"}
    assert pdu.content == {"reason": "x", "redacts": "$x"}


@pytest.mark.parametrize(
    ("depths", "depth"),
    [
        ([], 1),
        ([1], 2),
        ([3, 9, 4], 10),
        ([MAX_INTEGER], MAX_INTEGER),
        ([MAX_INTEGER - 1], MAX_INTEGER),
    ],
)
def test_depth_is_one_more_than_the_deepest_and_capped(depths: list[int], depth: int) -> None:
    assert next_depth(depths) == depth


@all_versions
def test_a_template_from_a_resident_server_is_completed_with_our_signature(
    version_id: str,
) -> None:
    room = public_room(version_id)
    right = room.draft("m.room.member", BOB, {"membership": "join"}, BOB)
    last = room.events[right.prev_events[0]]
    template = event_template(
        Draft(
            room_id=right.room_id,
            type="m.room.member",
            sender=BOB,
            content={"membership": "join"},
            state_key=BOB,
        ),
        prev_events=[PrevEvent(event_id=last.event_id, depth=last.depth)],
        auth_events=right.auth_events,
        version=room.version,
        origin_server_ts=right.origin_server_ts,
        linked=room.events,
    )
    noise = {"event_id": "$x", "hashes": {"sha256": "x"}, "unsigned": {"age": 1}}
    joined = complete(
        {**template, **noise},
        version=room.version,
        key=key_of(B),
        server=B,
        event_id=right.event_id if room.version.event_format.named_by_sender else None,
    )
    assert joined == right
    assert check(joined, published(B)) == joined


@pytest.mark.parametrize("template", [None, [], {}, {"type": "m.room.member"}, {"a": 0.5}])
def test_a_template_that_is_no_event_is_refused(template: object) -> None:
    with pytest.raises(BadInput):
        complete(template, version=get_version("10"), key=key_of(B), server=B)


@all_versions
def test_an_invite_carries_both_servers_signatures(version_id: str) -> None:
    room = public_room(version_id)
    invite = room.member(ALICE, CAROL, "invite")
    server = ServerName("c.example")
    both = countersign(invite, key=key_of(server), server=server)
    assert both.event_id == invite.event_id
    assert both.json["signatures"].keys() == {"a.example", "c.example"}
    assert check(both, published(A)) == both
