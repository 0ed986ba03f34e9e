"""Real servers as fixtures. A server that is missing fails the test with the reason, never skips.

Servers do not hang on an event loop, so one may serve all tests of a module while each test has
its own loop; people do, so they belong to one test.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

import pytest
import pytest_asyncio

from bridge.demo.people import MatrixPerson, XmppPerson
from bridge.demo.servers import (
    CertificateAuthority,
    Ejabberd,
    PostgreSQL,
    Prosody,
    Synapse,
    XmppServer,
    free_port,
    living_children,
)
from bridge.demo.servers.prosody import Federation

PASSWORD = "correct horse"
COMPONENT_SECRET = "component-secret"
_registered: set[tuple[str, str]] = set()


@pytest.fixture(scope="session", autouse=True)
def _no_child_left() -> Iterator[None]:
    """Set up first, so ended last: whatever runs then was forgotten."""
    yield
    left = living_children()
    assert not left, f"child processes left running: {left}"


@pytest.fixture(scope="session")
def certificates() -> Iterator[CertificateAuthority]:
    """The private authority that every server of the tests trusts."""
    authority = CertificateAuthority()
    yield authority
    authority.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgresql() -> AsyncIterator[PostgreSQL]:
    """A private PostgreSQL for the whole run, without fsync."""
    async with PostgreSQL(fsync=False) as server:
        yield server


@pytest_asyncio.fixture
async def postgresql_url(postgresql: PostgreSQL) -> AsyncIterator[str]:
    """An empty database of this test alone."""
    name = f"test_{free_port()}"
    await postgresql.create_database(name)
    yield postgresql.url(name)
    await postgresql.drop_database(name)


def make_prosody(domain: str = "a.test", **more: Any) -> Prosody:
    """A Prosody with the component `gw.DOMAIN`, not started."""
    more.setdefault("components", {f"gw.{domain}": COMPONENT_SECRET})
    return Prosody(domain, **more)


def make_ejabberd(domain: str = "e.test", **more: Any) -> Ejabberd:
    """An ejabberd with the component `gw.DOMAIN`, not started."""
    more.setdefault("components", {f"gw.{domain}": COMPONENT_SECRET})
    return Ejabberd(domain, **more)


@contextlib.asynccontextmanager
async def prosody_pair_running(
    federation: Federation, authority: CertificateAuthority
) -> AsyncIterator[tuple[Prosody, Prosody]]:
    """`a.test` and `b.test`, each with a component `gw.`, that find each other."""
    first = make_prosody("a.test", federation=federation, authority=authority)
    second = make_prosody("b.test", federation=federation, authority=authority)
    first.reach(second)
    second.reach(first)
    async with first, second:
        yield first, second


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prosody() -> AsyncIterator[Prosody]:
    """One Prosody for `a.test`, without federation."""
    async with make_prosody() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ejabberd() -> AsyncIterator[Ejabberd]:
    """One ejabberd for `e.test`."""
    async with make_ejabberd() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["prosody", "ejabberd"])
async def xmpp_server(request: pytest.FixtureRequest) -> AsyncIterator[XmppServer]:
    """Whatever holds for one kind of server holds for the other."""
    server: XmppServer = make_prosody() if request.param == "prosody" else make_ejabberd()
    async with server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prosody_pair(
    certificates: CertificateAuthority,
) -> AsyncIterator[tuple[Prosody, Prosody]]:
    """Two Prosodys federated with certificates: what the public network does."""
    async with prosody_pair_running("cert", certificates) as pair:
        yield pair


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def synapse(certificates: CertificateAuthority) -> AsyncIterator[Synapse]:
    """One Synapse on SQLite."""
    async with Synapse(certificates) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other_synapse(certificates: CertificateAuthority) -> AsyncIterator[Synapse]:
    """A second Synapse, for what two of them do with each other."""
    async with Synapse(certificates) as server:
        yield server


class MakeXmppPerson(Protocol):
    async def __call__(
        self, server: XmppServer, name: str, *, port: int | None = None, **more: Any
    ) -> XmppPerson: ...


class MakeMatrixPerson(Protocol):
    async def __call__(self, server: Synapse, name: str) -> MatrixPerson: ...


@pytest_asyncio.fixture
async def xmpp_person() -> AsyncIterator[MakeXmppPerson]:
    """Register somebody and log in; everybody is logged out at the end of the test."""
    async with contextlib.AsyncExitStack() as people:

        async def make(
            server: XmppServer, name: str, *, port: int | None = None, **more: Any
        ) -> XmppPerson:
            address = await server.register(name, PASSWORD)
            client_port = server.ports.client if port is None else port
            person = XmppPerson(address, PASSWORD, port=client_port, **more)
            return await people.enter_async_context(person)

        yield make


@pytest_asyncio.fixture
async def matrix_person() -> AsyncIterator[MakeMatrixPerson]:
    """An account (made at first use) and a new device; closed at the end of the test."""
    async with contextlib.AsyncExitStack() as people:

        async def make(server: Synapse, name: str) -> MatrixPerson:
            if (server.server_name, name) not in _registered:
                await server.create_user(name, PASSWORD)
                _registered.add((server.server_name, name))
            person = await MatrixPerson.login(server.client_url, name, PASSWORD)
            return await people.enter_async_context(person)

        yield make
