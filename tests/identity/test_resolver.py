"""From what a person types to somebody who can be reached from both sides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.adapters.xmpp.addresses import AddressBook, to_uri
from bridge.adapters.xmpp.conversions import XmppConversions
from bridge.adapters.xmpp.jid import Jid
from bridge.errors import BadInput, Misconfigured, NotFound, Refused
from bridge.identity import resolver as resolver_module
from bridge.identity.resolver import (
    FORGET_AFTER_MS,
    Asked,
    NumberTemplate,
    Resolved,
    Resolver,
    SourceSettings,
    Voucher,
)
from bridge.identity.sources import build_sources
from bridge.identity.sources.typed import MAY_BE_CHAT
from bridge.ids import MAX_ID_BYTES, ServerName, UserId
from tests.support.clock import FakeClock
from tests.support.identity import make_resolver

CONVERSIONS = XmppConversions(AddressBook(component="gw.example", server=ServerName("gw.example")))


@pytest.fixture
def resolver(clock: FakeClock) -> Resolver:
    return make_resolver(clock)


@pytest.mark.parametrize(
    "typed",
    [
        "+1 555 123 4567",
        "tel:+1-555-123-4567",
        "+15551234567@gw.example",
        "15551234567@gw.example",
        r"+1\20555\20123\204567@gw.example",
        "xmpp:+15551234567@gw.example",
    ],
)
async def test_a_number_is_the_user_of_the_template(resolver: Resolver, typed: str) -> None:
    assert await resolver.resolve(typed) == Resolved(
        user_id=UserId("@15551234567:example.org"),
        address="15551234567%example.org@gw.example",
        source="template",
    )


async def test_a_domain_that_vouches_has_the_numbers_of_its_prefix(resolver: Resolver) -> None:
    found = await resolver.resolve("+44 7700 900123")
    assert found == await resolver.resolve("+447700900123@phone.example")
    assert found == await resolver.resolve("xmpp:+447700900123@phone.example")
    assert found == await resolver.resolve("@+447700900123=40phone.example:gw.example")
    assert found.user_id == "@+447700900123=40phone.example:gw.example"
    assert found.address == "+447700900123@phone.example"
    assert found.note == "phone.example vouches for the number."


@pytest.mark.parametrize(
    "typed",
    [
        "+15551234567@evil.example",
        "xmpp:+15551234567@evil.example",
        "@+15551234567=40evil.example:gw.example",
        "matrix:u/+15551234567=40evil.example:gw.example",
        r"+15551234567=40evil.example%gw.example@gw.example",
    ],
)
async def test_a_number_at_a_domain_that_does_not_vouch_is_refused(
    resolver: Resolver, typed: str
) -> None:
    with pytest.raises(Refused) as caught:
        await resolver.resolve(typed)
    assert caught.value.reason == (
        "evil.example does not vouch for phone numbers; as a plain address it proves nothing"
    )


async def test_nobody_vouches_beyond_their_prefix(resolver: Resolver) -> None:
    with pytest.raises(Refused, match=r"begin with \+44"):
        await resolver.resolve("+15551234567@phone.example")


async def test_digits_alone_are_an_address_that_proves_nothing(resolver: Resolver) -> None:
    found = await resolver.resolve("15551234567@icq.example")
    assert found.address == "15551234567@icq.example"
    assert found.note == "The digits prove no phone number, only a name at icq.example."


async def test_a_matrix_user_that_looks_like_a_number_proves_nothing(resolver: Resolver) -> None:
    found = await resolver.resolve("@15551234567:elsewhere.example")
    assert found.user_id == "@15551234567:elsewhere.example"
    assert found.note == "The digits prove no phone number, only a name at elsewhere.example."
    configured = await resolver.resolve("@15551234567:example.org")
    assert configured.note == "By the configuration of this gateway this is +15551234567."


async def test_a_number_without_its_country_needs_a_region(clock: FakeClock) -> None:
    with pytest.raises(BadInput, match="country code"):
        await make_resolver(clock).resolve("555 123 4567")
    found = await make_resolver(clock, region="US").resolve("(555) 123-4567")
    assert found.user_id == "@15551234567:example.org"


async def test_an_unknown_number_and_an_unserved_one_get_the_same_words(
    resolver: Resolver,
) -> None:
    with pytest.raises(NotFound, match=r"I know nobody with the number \+4930123456"):
        await resolver.resolve("+49 30 123456")


@pytest.mark.parametrize(
    ("typed", "user_id", "address"),
    [
        ("juliet@Capulet.lit/balcony", "@juliet=40capulet.lit:gw.example", "juliet@capulet.lit"),
        ("xmpp:juliet@capulet.lit", "@juliet=40capulet.lit:gw.example", "juliet@capulet.lit"),
        ("@juliet=40capulet.lit:gw.example", "@juliet=40capulet.lit:gw.example",
         "juliet@capulet.lit"),
        ("juliet=40capulet.lit%gw.example@gw.example", "@juliet=40capulet.lit:gw.example",
         "juliet@capulet.lit"),
        ("irc.capulet.lit", "@=40irc.capulet.lit:gw.example", "irc.capulet.lit"),
        ("@alice:m.example", "@alice:m.example", "alice%m.example@gw.example"),
        ("alice%m.example", "@alice:m.example", "alice%m.example@gw.example"),
        ("@alice:m.example@gw.example", "@alice:m.example", "alice%m.example@gw.example"),
        ("https://matrix.to/#/@alice:m.example", "@alice:m.example",
         "alice%m.example@gw.example"),
        ("matrix:u/alice:m.example", "@alice:m.example", "alice%m.example@gw.example"),
        ("isthmus@gw.example", "@isthmus:gw.example", "isthmus@gw.example"),
        ("gw.example", "@isthmus:gw.example", "isthmus@gw.example"),
    ],
)  # fmt: skip
async def test_people_are_found_under_the_names_of_both_sides(
    resolver: Resolver, typed: str, user_id: str, address: str
) -> None:
    found = await resolver.resolve(typed)
    assert (found.user_id, found.address) == (user_id, address)
    assert (found.note == MAY_BE_CHAT) == (found.room is not None)


@pytest.mark.parametrize(
    ("typed", "room", "address"),
    [
        ("#Garden:m.example", "#Garden:m.example", r"#\47arden%m.example@gw.example"),
        ("#Garden:m.example@gw.example", "#Garden:m.example", r"#\47arden%m.example@gw.example"),
        ("#garden%m.example", "#garden:m.example", "#garden%m.example@gw.example"),
        ("xmpp:%23garden%25m.example@gw.example?join", "#garden:m.example",
         "#garden%m.example@gw.example"),
        ("https://matrix.to/#/%23garden:m.example?via=m.example", "#garden:m.example",
         "#garden%m.example@gw.example"),
        ("matrix:roomid/AbC:m.example?via=m.example", "!AbC:m.example",
         r"!\41b\43%m.example@gw.example"),
    ],
)  # fmt: skip
async def test_rooms_are_found_under_the_names_of_both_sides(
    resolver: Resolver, typed: str, room: str, address: str
) -> None:
    found = await resolver.resolve(typed)
    assert (found.room, found.address, found.chat, found.user_id) == (room, address, None, None)


@pytest.mark.parametrize(
    "typed",
    [
        "xmpp:coven@chat.lit?join",
        "#coven=40chat.lit:gw.example",
        "matrix:r/coven=40chat.lit:gw.example",
    ],
)
async def test_a_foreign_chat_is_found_under_the_names_of_both_sides(
    resolver: Resolver, typed: str
) -> None:
    found = await resolver.resolve(typed)
    assert (found.room, found.address, found.chat, found.user_id) == (
        "#coven=40chat.lit:gw.example",
        "coven@chat.lit",
        "coven@chat.lit",
        None,
    )


async def test_an_address_that_may_be_a_chat_has_both_names(resolver: Resolver) -> None:
    found = await resolver.resolve("coven@chat.lit")
    assert found.user_id == "@coven=40chat.lit:gw.example"
    assert (found.room, found.chat) == ("#coven=40chat.lit:gw.example", "coven@chat.lit")


@pytest.mark.parametrize("typed", ["@=40=40abc:gw.example", "nobody@gw.example", "a#b@gw.example"])
async def test_what_stands_for_nobody_is_not_found(resolver: Resolver, typed: str) -> None:
    with pytest.raises(NotFound):
        await resolver.resolve(typed)


@given(
    st.text(max_size=200)
    | st.builds(
        "{}{}{}".format,
        st.sampled_from(
            ["", "xmpp:", "matrix:u/", "https://matrix.to/#/", "@", "#", "!", "+", "tel:"]
        ),
        st.text(st.sampled_from("aZ0+%\\@:=/#!.?;-\u00e9\U0001f98a 5"), max_size=40),
        st.sampled_from(["", "@gw.example", ":gw.example", "@a.example", "%b.example"]),
    )
)
async def test_whatever_is_typed_is_answered_and_the_answer_resolves_to_itself(typed: str) -> None:
    resolver = make_resolver(FakeClock())
    try:
        found = await resolver.resolve(typed)
    except (BadInput, NotFound, Refused):
        return
    assert found.address is not None
    again = await resolver.resolve(to_uri(Jid.parse(found.address)))
    assert (again.user_id, again.address) == (found.user_id or again.user_id, found.address)
    for matrix_id in (found.user_id, found.room):
        assert matrix_id is None or len(matrix_id.encode()) <= MAX_ID_BYTES
    if found.user_id is not None and not found.user_id.startswith("@=40=40=40"):
        assert (await resolver.resolve(found.user_id)).address == found.address


class Counting:
    name = "counting"

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answer: Resolved | None = None

    async def find(self, asked: Asked) -> Resolved | None:
        self.asked.append(asked)
        return self.answer


async def test_what_was_asked_in_vain_is_not_asked_again_for_a_while(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_module, "MAX_REMEMBERED", 2)
    source = Counting()
    resolver = Resolver(sources=[source], conversions=CONVERSIONS, clock=clock)

    async def ask(typed: str) -> int:
        with pytest.raises(NotFound):
            await resolver.resolve(typed)
        return len(source.asked)

    assert await ask("+15551234567") == 1
    assert await ask("+1 555 123 4567") == 1
    await clock.advance(FORGET_AFTER_MS / 1000)
    assert await ask("+15551234567") == 2
    assert await ask("a@b.example") == 3
    assert await ask("c@d.example") == 4  # no room for three
    assert await ask("+15551234567") == 5


async def test_the_first_source_that_answers_counts(clock: FakeClock) -> None:
    silent, first, second = Counting(), Counting(), Counting()
    first.answer = Resolved(source="first")
    resolver = Resolver(sources=[silent, first, second], conversions=CONVERSIONS, clock=clock)
    assert await resolver.resolve("+15551234567") == first.answer
    assert (len(silent.asked), len(first.asked), len(second.asked)) == (1, 1, 0)


def test_a_template_that_makes_no_user_stops_the_start() -> None:
    for user in ("@{digits}:not a server", "{digits}", "@" + "x" * 250 + "{digits}:a"):
        template = NumberTemplate(prefix="", user=user)
        with pytest.raises(Misconfigured, match=r"identity\.numbers"):
            build_sources(SourceSettings(conversions=CONVERSIONS, numbers=(template,)))


@pytest.mark.parametrize("prefix", ["1555", "+1 555", "+0", "x"])
def test_a_prefix_that_no_number_has_stops_the_start(prefix: str) -> None:
    template = NumberTemplate(prefix=prefix, user="@{digits}:example.org")
    with pytest.raises(Misconfigured, match=r"identity\.numbers"):
        build_sources(SourceSettings(conversions=CONVERSIONS, numbers=(template,)))
    voucher = Voucher(domain="phone.example", prefix=prefix)
    with pytest.raises(Misconfigured, match=r"identity\.vouching"):
        build_sources(SourceSettings(conversions=CONVERSIONS, vouching=(voucher,)))


async def test_the_longest_prefix_counts(clock: FakeClock) -> None:
    settings = SourceSettings(
        conversions=CONVERSIONS,
        numbers=(
            NumberTemplate(prefix="", user="@{digits}:all.example"),
            NumberTemplate(prefix="+1", user="@tel-{digits}:one.example"),
        ),
    )
    resolver = Resolver(sources=build_sources(settings), conversions=CONVERSIONS, clock=clock)
    assert (await resolver.resolve("+15551234567")).user_id == "@tel-15551234567:one.example"
    assert (await resolver.resolve("+4930123456")).user_id == "@4930123456:all.example"
