"""A whole Isthmus beside an XMPP server: its own folder, configuration, process and database.

The configuration is what `isthmus init` writes, with settings of the test put over it. The
database is read beside the running process, read-only, to see what is truly stored.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest_asyncio
import yaml

from bridge.adapters.xmpp.addresses import AddressBook, MatrixId
from bridge.cli import init
from bridge.demo.servers import CertificateAuthority, Isthmus, Prosody, XmppServer, free_port
from bridge.demo.servers.process import make_folder
from bridge.engine.hashes import check_content_hash, event_id_of
from bridge.engine.keys import SigningKey
from bridge.engine.pdu import Pdu
from bridge.engine.signing import check_pdu_signature, required_signers
from bridge.engine.versions import get_version
from bridge.identity import localparts
from bridge.ids import (
    ServerName,
    UserId,
    parse_room_alias,
    parse_room_id,
    parse_user_id,
)
from bridge.web.health import READY_PATH

TRUSTED_NETWORKS = ["127.0.0.0/8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """A row of the table of events."""

    event_id: str
    room_id: str
    verdict: str
    rule: str | None
    outlier: bool
    json: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.json["type"])

    @property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = self.json["content"]
        return content


class Gateway(Isthmus):
    """`settings` are put over what `isthmus init` wrote, section by section.

    The component is the server's first one; `component` names another. Its folder goes when it
    is closed.
    """

    START_TIMEOUT_S = 30.0

    def __init__(
        self,
        server: XmppServer,
        authority: CertificateAuthority,
        *,
        component: str | None = None,
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder = make_folder("gateway")
        self.port = free_port()
        self.server_name = ServerName(f"localhost:{self.port}")
        self.component = component if component is not None else next(iter(server.components))
        health_port = free_port()
        certificate = authority.issue(label=f"gateway-{self.port}")
        config = init.write(
            init.Answers(
                folder=folder,
                server_name=self.server_name,
                xmpp_domain=self.component,
                xmpp_port=server.ports.component,
                listen_port=self.port,
                health_port=health_port,
                certificate=certificate.chain,
                private_key=certificate.key,
            )
        )
        ready_url = f"http://127.0.0.1:{health_port}{READY_PATH}"
        super().__init__(config, ready_url=ready_url, environment=environment, folder=folder)
        self.addresses = AddressBook(component=self.component, server=self.server_name)
        self.change_settings(
            {
                "federation": {
                    "certificate_authority": str(authority.certificate_file),
                    "allowed_networks": TRUSTED_NETWORKS,
                    "retry_max_s": 5,
                },
                "media": {"allowed_networks": TRUSTED_NETWORKS},
                "delivery": {"retry_max_s": 5},
                "log": {"level": "debug"},
                "xmpp": {"secret": server.components.get(self.component, "no such component")},
            }
        )
        self.change_settings(settings or {})

    def change_settings(self, settings: Mapping[str, Any]) -> None:
        """Counts from the next start on."""
        tree = yaml.safe_load(self.config.read_text("utf-8"))
        self.config.write_text(yaml.safe_dump(_over(tree, settings)), "utf-8")

    async def close(self) -> None:
        """Stop and remove the folder; `ISTHMUS_TEST_LOGS` names a folder that keeps its output
        and its database."""
        try:
            await super().close()
        finally:
            kept = os.environ.get("ISTHMUS_TEST_LOGS")
            if kept and self.log.exists():
                shutil.copy(self.log, Path(kept) / f"gateway-{self.port}.log")
                for file in self.database_file.parent.glob("isthmus.db*"):
                    shutil.copy(file, Path(kept) / f"gateway-{self.port}-{file.name}")
            shutil.rmtree(self.folder, ignore_errors=True)

    def spawn(self) -> None:
        """Start it without waiting for anything: for what is not going to be ready."""
        self._child = self._build()
        self._child.spawn()

    async def wait_until_ready(self, *, timeout_s: float = 30.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not await self._is_ready():
                self._check_alive(0.0)
                await asyncio.sleep(0.05)

    async def wait_for_log(self, text: str, *, timeout_s: float = 30.0) -> None:
        """Until it has printed this, in this run or an earlier one."""
        async with asyncio.timeout(timeout_s):
            while text not in self.log_text():
                self._check_alive(0.0)
                await asyncio.sleep(0.05)

    def log_text(self) -> str:
        """Everything that it printed."""
        return self.log.read_text("utf-8", "replace")

    # --- names ---------------------------------------------------------------------------------

    def ghost(self, address: str) -> UserId:
        """The Matrix user of an XMPP address."""
        return localparts.user_id_for(address, self.server_name).user_id

    def address(self, matrix_id: str) -> str:
        """The XMPP address of a Matrix user, alias or room ID."""
        return str(self.addresses.jid_of(_as_id(matrix_id)))

    @property
    def bot_address(self) -> str:
        return str(self.addresses.bot_jid)

    @property
    def bot_id(self) -> UserId:
        return self.addresses.bot_id

    # --- what is stored ------------------------------------------------------------------------

    @property
    def database_file(self) -> Path:
        return self.folder / "data" / "isthmus.db"

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a SELECT, on a connection that cannot write."""
        with closing(sqlite3.connect(f"file:{self.database_file}?mode=ro", uri=True)) as database:
            return database.execute(sql, values).fetchall()

    def change(self, sql: str, *values: object) -> None:
        """One statement on the database. Only while it is stopped."""
        with closing(sqlite3.connect(self.database_file)) as database, database:
            database.execute(sql, values)

    def events(self, room_id: str) -> list[StoredEvent]:
        """Every stored event of a room, outliers and rejected ones as well, by depth."""
        rows = self.query(
            "SELECT event_id, room_id, verdict, rule, outlier, json FROM events"
            " WHERE room_id = ? ORDER BY depth, event_id",
            room_id,
        )
        return [_stored(row) for row in rows]

    def event(self, event_id: str) -> StoredEvent | None:
        rows = self.query(
            "SELECT event_id, room_id, verdict, rule, outlier, json FROM events WHERE event_id = ?",
            event_id,
        )
        return _stored(rows[0]) if rows else None

    def room_version(self, room_id: str) -> str | None:
        rows = self.query("SELECT version FROM rooms WHERE room_id = ?", room_id)
        return str(rows[0][0]) if rows else None

    def rooms(self) -> set[str]:
        """Every room of which it has kept anything."""
        return {str(row[0]) for row in self.query("SELECT room_id FROM rooms")}

    def memberships(self, user_id: str) -> dict[str, str]:
        """Room -> membership of one user, as it sees them."""
        rows = self.query("SELECT room_id, membership FROM memberships WHERE user_id = ?", user_id)
        return {str(room): str(membership) for room, membership in rows}

    async def see_membership(
        self, user_id: str, room_id: str, membership: str, *, timeout_s: float = 15.0
    ) -> None:
        """Until it knows of this membership."""
        async with asyncio.timeout(timeout_s):
            while self.memberships(user_id).get(room_id) != membership:
                await asyncio.sleep(0.05)

    # --- signatures ----------------------------------------------------------------------------

    @property
    def signing_key(self) -> SigningKey:
        return SigningKey.from_text((self.folder / "data" / "signing.key").read_text("ascii"))


def signing_key_of_synapse(folder: Path) -> SigningKey:
    """From the file in the server's folder."""
    return SigningKey.from_text((folder / "signing.key").read_text("ascii").strip())


def verify(stored: StoredEvent, version: str, keys: Mapping[str, SigningKey]) -> None:
    """The event by itself: event ID, content hash and every signature that it must have.

    `keys` has the signing key of each server. `AssertionError` names what is wrong.
    """
    rules = get_version(version)
    pdu = Pdu.parse(stored.json, rules)
    assert pdu.event_id == stored.event_id, f"{stored.event_id}: the ID is {pdu.event_id}"
    assert event_id_of(stored.json, rules) == stored.event_id
    assert check_content_hash(stored.json), f"{stored.event_id}: wrong content hash"
    for server in required_signers(pdu):
        key = keys[server]
        assert check_pdu_signature(
            pdu,
            server=server,
            key_id=key.key_id,
            verify_key=key.verify_key_base64,
        ), f"{stored.event_id}: no valid signature of {server}"


def _stored(row: tuple[Any, ...]) -> StoredEvent:
    event_id, room_id, verdict, rule, outlier, text = row
    return StoredEvent(
        event_id=event_id,
        room_id=room_id,
        verdict=verdict,
        rule=rule,
        outlier=bool(outlier),
        json=json.loads(text),
    )


def _over(tree: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` over `tree`, mappings merged, everything else replaced."""
    merged: dict[str, Any] = dict(tree) if isinstance(tree, dict) else {}
    for name, value in settings.items():
        merged[name] = _over(merged.get(name), value) if isinstance(value, Mapping) else value
    return merged


def _as_id(matrix_id: str) -> MatrixId:
    if matrix_id.startswith("@"):
        return parse_user_id(matrix_id)
    return parse_room_alias(matrix_id) if matrix_id.startswith("#") else parse_room_id(matrix_id)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    prosody_pair: tuple[Prosody, Prosody], certificates: CertificateAuthority
) -> AsyncIterator[Gateway]:
    """Isthmus as `gw.a.test`, beside the first of two federated Prosodys."""
    async with Gateway(prosody_pair[0], certificates) as server:
        yield server
