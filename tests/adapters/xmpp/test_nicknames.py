from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slixmpp.jid import JID

from bridge.adapters.xmpp.jid import prepare_resource
from bridge.adapters.xmpp.nicknames import NicknameKey, make_nickname, nickname_key

NONE: frozenset[NicknameKey] = frozenset()


@pytest.mark.parametrize(
    ("display_name", "nickname"),
    [
        ("Alice", "Alice"),
        ("  Alice \n in  Wonderland\t", "Alice in Wonderland"),
        ("Alice 🦊", "Alice"),
        ("🦊", "alice"),
        ("☺❤️👩‍👩‍👧", "alice"),
        ("①", "1"),
        ("ﬁn", "fin"),
        ("דנה", "דנה"),
        ("דנה Dana", "alice"),
        ("דנה 7", "alice"),
        ("ليلى", "ليلى"),
        ("x" * 300, "x" * 60),
        ("", "alice"),
        (None, "alice"),
        ("\u202eAlice\u200b\x07", "Alice"),
        ("マリー・キュリー", "マリー・キュリー"),
        ("a・b", "ab"),
        ("col·lecció", "col·lecció"),
        ("a·b", "ab"),
        ("김철수", "김철수"),
        ("Zoë", "Zoë"),
    ],
)
def test_display_names_become_nicknames(display_name: str | None, nickname: str) -> None:
    assert make_nickname(display_name, "alice", "m.example", NONE) == nickname


def test_a_localpart_that_cannot_stand_either_gives_a_name_all_the_same() -> None:
    assert make_nickname("🦊", "🦊", "m.example", NONE) == "someone"


def test_clashes_get_the_server_and_then_numbers() -> None:
    taken: set[NicknameKey] = set()
    made = []
    for _ in range(4):
        made.append(make_nickname("Alice", "alice", "m.example", taken))
        taken.add(nickname_key(made[-1].upper()))
    assert made == ["Alice", "Alice (m.example)", "Alice 2", "Alice 3"]


@pytest.mark.parametrize(
    "other", ["ALICE  Bell", "alice bell", "\uff21lice Bell", "Alice\u2003Bell"]
)
def test_names_that_look_the_same_are_the_same(other: str) -> None:
    assert nickname_key(other) == nickname_key("Alice Bell")


def test_a_suffix_never_makes_a_nickname_too_long() -> None:
    taken = {nickname_key("x" * 60)}
    assert make_nickname("x" * 300, "a", "m.example", taken) == "x" * 48 + " (m.example)"


def test_right_to_left_names_keep_their_direction_in_a_clash() -> None:
    taken = {nickname_key("דנה")}
    assert make_nickname("דנה", "dana", "m.example", taken) == "דנה ב"
    assert make_nickname("ليلى", "l", "m.example", {nickname_key("ليلى")}) == "ليلى ب"


def test_when_letters_run_out_a_right_to_left_name_becomes_its_localpart() -> None:
    taken = {nickname_key("דנה")}
    for _ in range(21):
        taken.add(nickname_key(make_nickname("דנה", "dana", "m.example", taken)))
    assert make_nickname("דנה", "dana", "m.example", taken) == "dana"


@given(
    st.none() | st.text(max_size=80) | st.text("אבגa1 ٣۳·・🦊\u0301é", max_size=30),
    st.text(max_size=20),
    st.sets(st.sampled_from(["alice", "1", "a", "א", "someone"]).map(nickname_key)),
)
def test_every_nickname_passes_strict_preparation(
    display_name: str | None, localpart: str, taken: set[NicknameKey]
) -> None:
    nickname = make_nickname(display_name, localpart, "m.example", taken)
    assert 0 < len(nickname) <= 60
    assert nickname == nickname.strip()
    assert prepare_resource(nickname, strict=True) == nickname
    assert JID(f"room@gw.example/{nickname}").resource == nickname
    assert nickname_key(nickname) not in taken


@given(st.text(max_size=40), st.integers(0, 30))
def test_a_room_full_of_namesakes_has_unique_names(name: str, crowd: int) -> None:
    taken: set[NicknameKey] = set()
    for _ in range(crowd):
        key = nickname_key(make_nickname(name, "dana", "m.example", taken))
        assert key not in taken
        taken.add(key)
