"""Who has which level: the most exact name counts, and nobody has what nobody gave."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadInput, Misconfigured
from bridge.ids import ServerName, UserId
from bridge.policy.rights import LEVELS, Rights
from bridge.ports.command import Level

OWN = ServerName("gw.example")
ALICE = UserId("@alice:m.example")
GHOST = UserId("@juliet=40capulet.lit:gw.example")
ADDRESS = "juliet@capulet.lit"


def rights(**table: str) -> Rights:
    return Rights(table, own_server=OWN)


def of(table: dict[str, str], user_id: UserId, address: str | None = None) -> Level:
    return Rights(table, own_server=OWN).level_of(user_id, address)


def test_an_empty_table_gives_nobody_anything() -> None:
    assert of({}, ALICE) is Level.NOBODY
    assert of({}, GHOST, ADDRESS) is Level.NOBODY


@pytest.mark.parametrize(
    ("table", "level"),
    [
        ({"*": "user"}, Level.USER),
        ({"*": "user", "m.example": "admin"}, Level.ADMIN),
        ({"*": "user", "m.example": "none"}, Level.NOBODY),
        ({"m.example": "admin", "@alice:m.example": "user"}, Level.USER),
        ({"m.example": "none", "@alice:m.example": "admin"}, Level.ADMIN),
        ({"@bob:m.example": "admin"}, Level.NOBODY),
        ({"M.Example": "user"}, Level.USER),
        ({"@Alice:m.example": "admin"}, Level.NOBODY),
        ({"example": "admin", "sub.m.example": "admin"}, Level.NOBODY),
        ({"alice@m.example": "admin"}, Level.NOBODY),
    ],
)
def test_a_matrix_user_is_judged_by_their_id_and_server(
    table: dict[str, str], level: Level
) -> None:
    assert of(table, ALICE) is level


@pytest.mark.parametrize(
    ("table", "level"),
    [
        ({"capulet.lit": "user"}, Level.USER),
        ({"Juliet@Capulet.LIT": "admin", "capulet.lit": "none"}, Level.ADMIN),
        ({"juliet@capulet.lit": "none", "*": "admin"}, Level.NOBODY),
        ({"gw.example": "admin"}, Level.NOBODY),
        ({"gw.example": "admin", "*": "user"}, Level.USER),
        ({str(GHOST): "admin"}, Level.ADMIN),
        ({str(GHOST): "admin", "juliet@capulet.lit": "none"}, Level.NOBODY),
        ({"romeo@capulet.lit": "admin"}, Level.NOBODY),
    ],
)
def test_a_ghost_is_judged_by_its_address_and_never_by_our_server(
    table: dict[str, str], level: Level
) -> None:
    assert of(table, GHOST, ADDRESS) is level


def test_our_own_server_speaks_for_no_ghost_whose_address_is_lost() -> None:
    assert of({"gw.example": "admin"}, UserId("@=40=40=40abc:gw.example")) is Level.NOBODY


def test_an_occupant_without_a_real_address_has_no_domain() -> None:
    occupant = UserId("@=40=40abc:gw.example")
    table = {"muc.example": "admin", "tea@muc.example": "admin"}
    for address in ("tea@muc.example/iabc", "tea@muc.example/nevil@muc.example"):
        assert of(table, occupant, address) is Level.NOBODY
    assert of({**table, "*": "user"}, occupant, "tea@muc.example/iabc") is Level.USER


@pytest.mark.parametrize(
    "key",
    [
        "", "@", "@alice", "@alice:", "alice@", "a b", "#room:m.example", "!room:m.example",
        "juliet@capulet.lit/balcony", "juliet@cap ulet.lit", "**", "m.example/", "m.example:0",
        "a:b@c.example", "x\n", "https://m.example",
    ],
)  # fmt: skip
def test_a_key_that_names_nobody_stops_the_start(key: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        Rights({key: "user"}, own_server=OWN)
    assert caught.value.setting.startswith("permissions")


def test_an_unknown_level_and_a_name_with_two_levels_stop_the_start() -> None:
    with pytest.raises(Misconfigured):
        rights(**{"m.example": "owner"})
    with pytest.raises(Misconfigured):
        rights(**{"m.example": "user", "M.EXAMPLE": "admin"})
    rights(**{"m.example": "user", "M.EXAMPLE": "user"})


def test_addresses_are_prepared_as_the_adapter_says() -> None:
    def prepare(text: str) -> str:
        if "ß" not in text:
            raise BadInput("no")
        return text.replace("ß", "ss")

    made = Rights({"weiß@capulet.lit": "user"}, own_server=OWN, prepare_address=prepare)
    assert made.level_of(GHOST, "weiss@capulet.lit") is Level.USER
    with pytest.raises(Misconfigured):
        Rights({"a@b.example": "user"}, own_server=OWN, prepare_address=prepare)


names = st.sampled_from(["a", "b", "c"])
domains = st.sampled_from(["one.example", "two.example", "gw.example"])
keys = st.one_of(
    st.just("*"),
    domains,
    st.builds("@{}:{}".format, names, domains),
    st.builds("{}@{}".format, names, domains),
)
tables = st.dictionaries(keys, st.sampled_from(sorted(LEVELS)), max_size=6)
people = st.one_of(
    st.tuples(st.builds("@{}:{}".format, names, domains).map(UserId), st.none()),
    st.tuples(st.just(UserId("@x=40y:gw.example")), st.builds("{}@{}".format, names, domains)),
)


@given(tables, people)
def test_nobody_has_a_level_that_no_entry_about_them_gives(
    table: dict[str, str], person: tuple[UserId, str | None]
) -> None:
    user_id, address = person
    domain = (address or user_id[1:]).replace(":", "@").rpartition("@")[2]
    about = {str(user_id), address or "", "*"}
    if address is not None or domain != OWN:
        about.add(domain)
    given = {LEVELS[word] for key, word in table.items() if key in about}
    level = of(table, user_id, address)
    assert level in given | {Level.NOBODY}
    if not given:
        assert level is Level.NOBODY


@given(tables, people)
def test_an_exact_name_beats_everything_else(
    table: dict[str, str], person: tuple[UserId, str | None]
) -> None:
    user_id, address = person
    table = {key: word for key, word in table.items() if key != user_id}
    assert of({**table, address or str(user_id): "none"}, user_id, address) is Level.NOBODY
    assert of({**table, address or str(user_id): "admin"}, user_id, address) is Level.ADMIN
