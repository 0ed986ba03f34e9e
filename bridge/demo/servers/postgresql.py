"""A private PostgreSQL: own data folder, own port, superuser `postgres` without a password.

The newest version that the system has installed. `initdb` refuses to run as root, so as root it
runs as the system's user `postgres`, which then owns the folder.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
from pathlib import Path

from bridge.demo.servers.ports import free_port
from bridge.demo.servers.process import Child, Server, ServerFailed, run_to_end

_PACKAGED = Path("/usr/lib/postgresql")
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SETTINGS_WITHOUT_FSYNC = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


def newest_bin_folder() -> Path:
    """Where `initdb` and `postgres` of the newest installed version are."""
    versions = [
        (tuple(int(part) for part in folder.parent.name.split(".")), folder)
        for folder in _PACKAGED.glob("*/bin")
        if re.fullmatch(r"[0-9.]+", folder.parent.name) and (folder / "initdb").exists()
    ]
    if versions:
        return max(versions)[1]
    found = shutil.which("initdb")
    if found is None:
        raise ServerFailed("PostgreSQL is not installed (Debian package: postgresql)")
    return Path(found).resolve().parent


class PostgreSQL(Server):
    """`fsync=False` trades safety at a power cut for speed: for tests."""

    START_TIMEOUT_S = 30.0

    def __init__(
        self, *, port: int | None = None, fsync: bool = True, folder: Path | None = None
    ) -> None:
        super().__init__("pg", folder=folder)
        self.host = "127.0.0.1"
        self.port = port if port is not None else free_port()
        self.user = "postgres"
        self._fsync = fsync
        self._bin = newest_bin_folder()
        self._run_as = "postgres" if os.geteuid() == 0 else None
        self._data = self.folder / "data"

    @property
    def socket_folder(self) -> Path:
        """For `host=` of libpq: the Unix socket's folder."""
        return self.folder

    def url(self, database: str) -> str:
        """`postgresql://postgres@127.0.0.1:PORT/DATABASE`."""
        return f"postgresql://{self.user}@{self.host}:{self.port}/{database}"

    async def _prepare(self) -> None:
        if self._run_as is not None:
            account = pwd.getpwnam(self._run_as)
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        if not (self._data / "PG_VERSION").exists():
            await self._tool(
                "initdb", "--pgdata", self._data, "--username", self.user, "--auth", "trust",
                "--encoding", "UTF8", "--locale", "C", "--no-instructions", "--no-sync",
            )  # fmt: skip

    def _build(self) -> Child:
        settings = [
            f"listen_addresses={self.host}",
            f"port={self.port}",
            f"unix_socket_directories={self.socket_folder}",
            "max_connections=200",
            *(() if self._fsync else _SETTINGS_WITHOUT_FSYNC),
        ]
        options = [part for setting in settings for part in ("-c", setting)]
        return Child(
            [self._bin / "postgres", "-D", self._data, *options],
            name=self.name,
            folder=self.folder,
            log=self.log,
            user=self._run_as,
            stop_signal=signal.SIGINT,  # its "fast" shutdown: SIGTERM waits for clients to go
        )

    async def _is_ready(self) -> bool:
        try:
            await self._tool("pg_isready", "--quiet", "--host", self.host, "--port", str(self.port))
        except ServerFailed:
            return False
        return True

    async def _tool(self, tool: str, *arguments: str | Path) -> str:
        return await run_to_end(
            [self._bin / tool, *arguments],
            name=tool,
            folder=self.folder,
            timeout_s=60.0,
            user=self._run_as,
        )

    async def query(self, sql: str, *, database: str = "postgres") -> str:
        """Run SQL through `psql`: rows as lines, columns separated by `|`."""
        output = await self._tool(
            "psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only",
            "--set", "ON_ERROR_STOP=1", "--host", self.host, "--port", str(self.port),
            "--username", self.user, "--dbname", database, "--command", sql,
        )  # fmt: skip
        return output.rstrip("\n")

    async def create_database(self, name: str, *, template: str = "template0") -> str:
        """A new database, empty or a copy of `template` (nobody may be connected to that)."""
        for part in (name, template):
            if not _NAME.fullmatch(part):
                raise ServerFailed(f"not a database name: {part!r}")
        await self.query(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    async def drop_database(self, name: str) -> None:
        """Drop it, ending connections to it."""
        if not _NAME.fullmatch(name):
            raise ServerFailed(f"not a database name: {name!r}")
        await self.query(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
