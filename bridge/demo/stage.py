"""The stage of the demo: Prosody, Synapse and Isthmus on fixed ports, the cast, and its end.

Isthmus gets its configuration from `isthmus init`, as an operator would, and runs as the command
that an operator runs. What is particular to loopback (a private certificate authority, private
addresses) comes as environment variables. Servers end in the reverse order of their start, and
every folder is removed, however the demo ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bridge import config
from bridge.adapters.xmpp.addresses import AddressBook
from bridge.demo.conversation import Cast
from bridge.demo.people import MatrixPerson, XmppPerson
from bridge.demo.servers import (
    CertificateAuthority,
    Isthmus,
    Prosody,
    ProsodyPorts,
    Synapse,
    check_ports,
    run_to_end,
)
from bridge.demo.servers.process import make_folder
from bridge.demo.view import View
from bridge.errors import Misconfigured
from bridge.ids import ServerName

DOMAIN: Final = "localhost"
COMPONENT: Final = "matrix.localhost"
XMPP_CAST: Final = ("juliet", "romeo")
MATRIX_CAST: Final = ("alice", "bob")
GUEST: Final = "guest"
GUEST_PASSWORD: Final = "welcome"
_HIGHEST_FIRST_PORT: Final = 65_000
_SOURCE: Final = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPorts:
    """All on loopback, at fixed distances from the first."""

    first: int

    @property
    def xmpp(self) -> ProsodyPorts:
        """Its server port is never opened: this Prosody knows no other."""
        first = self.first
        return ProsodyPorts(
            client=first + 22, server=first + 69, component=first + 47, http=first + 80
        )

    @property
    def synapse(self) -> int:
        return self.first + 48

    @property
    def synapse_clients(self) -> int:
        return self.first + 8

    @property
    def isthmus(self) -> int:
        return self.first + 49

    @property
    def health(self) -> int:
        return self.first + 50

    def check(self) -> None:
        """Raises `Misconfigured`, naming what is taken and by whom."""
        if not 1024 <= self.first <= _HIGHEST_FIRST_PORT:
            raise Misconfigured("--first-port", f"must be in 1024 to {_HIGHEST_FIRST_PORT}")
        try:
            check_ports(
                {
                    "Prosody for clients": self.xmpp.client,
                    "Prosody for the component": self.xmpp.component,
                    "Prosody for WebSocket": self.xmpp.http,
                    "Synapse for servers": self.synapse,
                    "Synapse for clients": self.synapse_clients,
                    "Isthmus for servers": self.isthmus,
                    "Isthmus for health": self.health,
                }
            )
        except Misconfigured as exc:
            raise Misconfigured(
                "the demo cannot open its ports",
                f"{exc.reason.removeprefix('ports: ')}; end that, or choose others with "
                "--first-port",
            ) from exc


class Stage:
    """Used as a context: everything runs inside it and nothing after it."""

    def __init__(self, *, ports: DemoPorts, view: View) -> None:
        self._ports = ports
        self._view = view
        self._exit = contextlib.AsyncExitStack()
        self.is_ending = False
        """From now on nobody may interrupt: every wait that is left is bounded."""
        self._password = secrets.token_urlsafe(9)

    async def __aenter__(self) -> Stage:
        try:
            await self._set_up()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def _end(self) -> None:
        self.is_ending = True
        await self._exit.aclose()

    async def _set_up(self) -> None:
        ports, keep = self._ports, self._exit
        authority = CertificateAuthority()
        keep.callback(authority.close)
        self.folder = make_folder("demo")
        keep.callback(shutil.rmtree, self.folder, ignore_errors=True)
        certificate = authority.issue(DOMAIN, label="demo")
        self._view.note("Writing the configuration with `isthmus init` ...")
        settings_file = await self._init(certificate.chain, certificate.key)
        self.settings = config.load(settings_file)
        self.prosody = Prosody(
            DOMAIN,
            components={COMPONENT: self.settings.xmpp["secret"]},
            ports=ports.xmpp,
            extra_global=_starttls(certificate.chain, certificate.key),
        )
        keep.push_async_callback(self.prosody.close)
        self.synapse = Synapse(authority, port=ports.synapse, client_port=ports.synapse_clients)
        keep.push_async_callback(self.synapse.close)
        self.isthmus = Isthmus(
            settings_file,
            ready_url=f"http://127.0.0.1:{ports.health}/_isthmus/ready",
            environment={
                "ISTHMUS_FEDERATION__CERTIFICATE_AUTHORITY": str(authority.certificate_file),
                "ISTHMUS_FEDERATION__ALLOWED_NETWORKS": '["127.0.0.0/8", "::1/128"]',
            },
        )
        keep.push_async_callback(self.isthmus.close)
        self._view.note("Starting Prosody, Synapse and Isthmus ...")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start_xmpp_side())
            group.create_task(self._start_matrix_side())
        self.cast = await self._gather_cast()

    async def _init(self, chain: Path, key: Path) -> Path:
        ports = self._ports
        folder = self.folder / "isthmus"
        folder.mkdir()
        paths = [_SOURCE, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        await run_to_end(
            [
                sys.executable, "-m", "bridge", "init", "--folder", folder,
                "--server-name", f"{DOMAIN}:{ports.isthmus}", "--xmpp-domain", COMPONENT,
                "--xmpp-port", str(ports.xmpp.component),
                "--listen-port", str(ports.isthmus), "--health-port", str(ports.health),
                "--certificate", chain, "--private-key", key,
            ],
            name="isthmus init",
            folder=self.folder,
            environment={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        return folder / "config.yaml"

    async def _start_xmpp_side(self) -> None:
        await self.prosody.start()
        await self.isthmus.start()
        for name in XMPP_CAST:
            await self.prosody.register(name, self._password)
        await self.prosody.register(GUEST, GUEST_PASSWORD)

    async def _start_matrix_side(self) -> None:
        await self.synapse.start()
        for name in MATRIX_CAST:
            await self.synapse.create_user(name, self._password)

    async def _gather_cast(self) -> Cast:
        """Everybody logs in; from here on the view shows what they see."""
        xmpp: dict[str, XmppPerson] = {}
        matrix: dict[str, MatrixPerson] = {}
        for name in XMPP_CAST:
            person = XmppPerson(
                f"{name}@{DOMAIN}", self._password, port=self._ports.xmpp.client, resource="demo"
            )
            self._view.watch_xmpp(name, person)
            xmpp[name] = await self._exit.enter_async_context(person)
        for name in MATRIX_CAST:
            user = await MatrixPerson.login(self.synapse.client_url, name, self._password)
            await user.set_display_name(name.capitalize())
            await user.sync()
            self._view.watch_matrix(name, user)
            matrix[name] = await self._exit.enter_async_context(user)
        book = AddressBook(
            component=COMPONENT,
            server=ServerName(self.settings.server_name),
            bot=self.settings.bot,
        )
        return Cast(xmpp=xmpp, matrix=matrix, book=book, muc_domain=self.prosody.muc_domain)

    def invitation(self) -> list[tuple[str, str]]:
        """What somebody needs who wants to come in with a client of their own."""
        ports = self._ports.xmpp
        alice = self.cast.address_of("alice")
        return [
            ("account", f"{GUEST}@{DOMAIN}"),
            ("password", GUEST_PASSWORD),
            ("server", f"127.0.0.1, port {ports.client} (certificate of the demo, or no TLS)"),
            ("WebSocket", f"ws://127.0.0.1:{ports.http}/xmpp-websocket"),
            ("enter the room", self.cast.room),
            ("a room of XMPP", f"{self.cast.muc}, on Matrix {self.cast.muc_alias}"),
            ("the bot", f"{self.cast.book.bot_jid} (write help)"),
            ("write to Alice", f"{alice} (she answers)"),
            ("Matrix client", f"{self.synapse.client_url}, {self.cast.alias}"),
            ("", f"users {' and '.join(MATRIX_CAST)}, password {self._password}"),
        ]


def _starttls(chain: Path, key: Path) -> str:
    """For the clients of guests, many of which insist on TLS."""
    return f'ssl = {{ key = "{key}"; certificate = "{chain}"; }}'
