"""The load server as a test holds it: its process, and its file."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from bridge.demo.servers import CertificateAuthority, free_port
from bridge.demo.servers.process import Child, Server, accepts_connections
from tests.support.load.program import LoadSettings
from tests.support.load.store import LoadStore

_SOURCE = Path(__file__).resolve().parents[3]


class LoadPeer(Server):
    """Started in a process of its own. `seed` decides its key, and what breaks when."""

    def __init__(self, authority: CertificateAuthority, *, seed: int) -> None:
        super().__init__("load")
        port = free_port()
        files = authority.issue(label=f"load-{port}")
        self.settings = LoadSettings(
            name=f"localhost:{port}",
            port=port,
            chain=str(files.chain),
            private_key=str(files.key),
            authority=str(authority.certificate_file),
            seed=seed,
        )
        (self.folder / "settings.json").write_text(json.dumps(asdict(self.settings)), "utf-8")
        self.store = LoadStore(self.folder / "load.sqlite")

    def _build(self) -> Child:
        return Child(
            [sys.executable, "-m", "tests.support.load.program", self.folder],
            name=self.name,
            folder=self.folder,
            log=self.log,
            environment={"PYTHONPATH": str(_SOURCE), "PATH": "/usr/bin:/bin"},
        )

    async def _is_ready(self) -> bool:
        return accepts_connections(self.settings.port)

    async def kill_and_start(self) -> None:
        await self.kill()
        await self.start()

    async def close(self) -> None:
        self.store.close()
        await super().close()

    def meet(self, peer: str) -> None:
        """The server that it will push at."""
        self.store.wish("peer", peer)

    def begin(self, *, goal: int, share: float, pause_s: float) -> None:
        """Push so many, one transaction after the other, with a pause between two; `share` of the
        connections breaks."""
        self.store.wish("share", share)
        self.store.wish("pause_s", pause_s)
        self.store.wish("goal", goal)

    @property
    def pushed(self) -> int:
        """How many events of ours were answered."""
        rows = self.store.rows("SELECT event_ids FROM outgoing WHERE verdicts IS NOT NULL")
        return sum(len(json.loads(ids)) for (ids,) in rows)

    @property
    def received(self) -> int:
        """How many events of others are here."""
        ((count,),) = self.store.rows("SELECT count(*) FROM events WHERE own = 0")
        return int(count)
