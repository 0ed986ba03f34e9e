"""Two real Synapses, one of them on PostgreSQL, and a gateway with Prosody: rooms of all three.

What people do and see is told by their clients on both networks (`tests.support.somebody`). Each
story of `tests.support.three` happens in rooms of several versions, made by a Synapse and by us.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from bridge.demo.servers import CertificateAuthority, PostgreSQL, Prosody, Synapse, free_port
from tests.support import three as stories
from tests.support.partition import SYNAPSE_SETTINGS
from tests.support.port import DrivenGateway
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson, make_prosody
from tests.support.somebody import OnMatrix, OnXmpp
from tests.support.three import Three

VERSIONS = ("6", "9", "10", "11", "12")
KNOCKING = ("9", "10", "11", "12")
"""Of these, those with knocks and restricted joins."""
NEXT = {"6": "9", "9": "10", "10": "11", "11": "12", "12": "11"}
OWNERS = ("alice", "juliet")
PASSING = tuple(zip(VERSIONS, itertools.cycle(("juliet", "alice", "bob")), strict=False))
_labels: Iterator[int] = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    first: Synapse
    second: Synapse
    """On PostgreSQL."""
    prosody: Prosody
    gateway: DrivenGateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(
    certificates: CertificateAuthority, postgresql: PostgreSQL
) -> AsyncIterator[Servers]:
    name = await postgresql.create_database(f"synapse_{free_port()}")
    async with (
        Synapse(certificates, overrides=SYNAPSE_SETTINGS) as first,
        Synapse(certificates, database=(postgresql, name), overrides=SYNAPSE_SETTINGS) as second,
        make_prosody(upload=True) as prosody,
        DrivenGateway(prosody, certificates) as ours,
    ):
        yield Servers(first=first, second=second, prosody=prosody, gateway=ours)
    await postgresql.drop_database(name)


@pytest.fixture
async def three(
    servers: Servers, matrix_person: MakeMatrixPerson, xmpp_person: MakeXmppPerson
) -> Three:
    """Alice on the Synapse with SQLite, Juliet on XMPP, Bob on the Synapse with PostgreSQL: people
    of this test alone."""
    label = str(next(_labels))
    alice = await matrix_person(servers.first, f"alice{label}")
    bob = await matrix_person(servers.second, f"bob{label}")
    juliet = await xmpp_person(servers.prosody, f"juliet{label}")
    return Three(
        people={
            "alice": OnMatrix(alice, servers.first),
            "juliet": OnXmpp(juliet, servers.gateway),
            "bob": OnMatrix(bob, servers.second),
        },
        homes={"alice": servers.first, "juliet": servers.gateway, "bob": servers.second},
        label=label,
    )


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("version", VERSIONS)
async def test_people_are_invited_come_go_and_are_sent_away(
    version: str, owner: str, three: Three
) -> None:
    await stories.come_and_go(three, owner, version)


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("version", KNOCKING)
async def test_a_knock_comes_to_nothing_and_another_one_is_answered(
    version: str, owner: str, three: Three
) -> None:
    await stories.knock(three, owner, version)


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("version", KNOCKING)
async def test_members_of_another_room_come_in_by_the_word_of_any_server(
    version: str, owner: str, three: Three
) -> None:
    await stories.vouch(three, owner, version)


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_room_is_lived_in_and_upgraded(version: str, owner: str, three: Three) -> None:
    await stories.live_and_move(three, owner, version, NEXT[version])


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("version", VERSIONS)
async def test_whoever_comes_later_reads_what_was_said_before(
    version: str, owner: str, three: Three
) -> None:
    await stories.read_the_past(three, owner, version)


@pytest.mark.parametrize(("version", "owner"), PASSING)
async def test_what_passes_and_what_is_listed_and_stored_is_shown_to_all(
    version: str, owner: str, three: Three
) -> None:
    await stories.pass_by(three, owner, version)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("away", ["alice", "juliet", "bob"])
async def test_a_server_that_was_out_finds_what_the_others_did(away: str, three: Three) -> None:
    await stories.be_out(three, away, VERSIONS)
