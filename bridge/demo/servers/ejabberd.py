"""A real ejabberd, one virtual host with its components.

The Erlang machine is started as it is, without the wrapper that Debian's service uses: that one
insists on users and folders of the system, and a node without distribution needs no port mapper, no
cookie and no name. It keeps its data in its own database, as Debian sets it up. Accounts are made
over its HTTP interface, which answers this machine alone. As root it runs as the system's user
`ejabberd`, which then owns the folder.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bridge.demo.servers.ports import free_port
from bridge.demo.servers.process import (
    Child,
    Server,
    ServerFailed,
    accepts_connections,
    read_tail,
)

_ACCOUNT = "ejabberd"
_LIBRARIES = (Path("/usr/lib"), Path("/usr/lib/erlang/lib"), Path("/usr/local/lib"))
_API_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
_CONFLICT = 409
# Look-ups of names by the system would find nothing that we need, slowly.
_RESOLVER = '{lookup,["file"]}.\n{host,{127,0,0,1}, ["localhost"]}.\n'
_PLAIN_MODULES = (
    "mod_adhoc",
    "mod_blocking",
    "mod_caps",
    "mod_carboncopy",
    "mod_disco",
    "mod_http_api",
    "mod_offline",
    "mod_ping",
    "mod_privacy",
    "mod_private",
    "mod_stream_mgmt",
    "mod_vcard",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EjabberdPorts:
    """Where it listens, all on 127.0.0.1."""

    client: int
    component: int
    http: int

    @classmethod
    def free(cls) -> EjabberdPorts:
        """Ports that nobody uses."""
        return cls(client=free_port(), component=free_port(), http=free_port())


def _libraries_folder() -> Path:
    """The folder whose folders are Erlang applications, ejabberd among them."""
    for root in _LIBRARIES:
        for pattern in ("ejabberd-*/ebin", "*/ejabberd-*/ebin"):
            for found in root.glob(pattern):
                return found.parents[1]
    raise ServerFailed("ejabberd is not installed (Debian package: ejabberd)")


class Ejabberd(Server):
    """`components` maps the domain of an external component (XEP-0114) to its secret.

    Besides its virtual host `domain` it has a MUC service `muc.DOMAIN` whose rooms are persistent
    and archived; `shows_addresses`: new ones show everybody's real address to everybody. No
    federation with other servers.
    """

    START_TIMEOUT_S = 30.0
    STOP_TIMEOUT_S = 15.0

    def __init__(
        self,
        domain: str,
        *,
        components: Mapping[str, str] | None = None,
        shows_addresses: bool = False,
        ports: EjabberdPorts | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__("ejabberd", folder=folder)
        self.domain = domain
        self.muc_domain = f"muc.{domain}"
        self.components = dict(components or {})
        self.ports = ports if ports is not None else EjabberdPorts.free()
        self._shows_addresses = shows_addresses
        self._run_as = _ACCOUNT if os.geteuid() == 0 else None
        self._config = self.folder / "ejabberd.yml"
        self._own_log = self.folder / "ejabberd.log"
        self._spool = self.folder / "spool"

    def _build(self) -> Child:
        program = shutil.which("erl")
        if program is None:
            raise ServerFailed("Erlang is not installed (Debian package: ejabberd)")
        self._spool.mkdir(exist_ok=True)
        (self.folder / "inetrc").write_text(_RESOLVER, "ascii")
        self._config.write_text(json.dumps(self._settings(), indent=1), "utf-8")  # JSON is YAML
        if self._run_as is not None:
            self._give_away(self._run_as)
        return Child(
            [
                *(program, "-noinput", "-mnesia", "dir", json.dumps(str(self._spool))),
                *("+P", "50000", "+S", "2", "-s", "ejabberd"),
            ],
            name=self.name,
            folder=self.folder,
            log=self.log,
            user=self._run_as,
            environment={
                "PATH": os.environ.get("PATH", os.defpath),
                "LANG": "C.UTF-8",
                "HOME": str(self.folder),
                "EJABBERD_CONFIG_PATH": str(self._config),
                "EJABBERD_LOG_PATH": str(self._own_log),
                "ERL_LIBS": str(_libraries_folder()),
                "ERL_INETRC": str(self.folder / "inetrc"),
                "ERL_CRASH_DUMP_BYTES": "0",
                "ERL_MAX_PORTS": "4000",
            },
        )

    def _give_away(self, user: str) -> None:
        try:
            account = pwd.getpwnam(user)
        except KeyError as exc:
            raise ServerFailed("ejabberd is not installed (Debian package: ejabberd)") from exc
        for path in self._files():
            os.chown(path, account.pw_uid, account.pw_gid)

    def _files(self) -> Iterator[Path]:
        yield self.folder
        yield from self.folder.rglob("*")

    async def _is_ready(self) -> bool:
        ports = [self.ports.client, self.ports.http]
        if self.components:
            ports.append(self.ports.component)
        return all(accepts_connections(port) for port in ports)

    def _settings(self) -> dict[str, Any]:
        loopback = {"ip": "127.0.0.1"}
        listen: list[dict[str, Any]] = [
            {
                **loopback,
                "port": self.ports.client,
                "module": "ejabberd_c2s",
                "starttls": False,
            },
            {
                **loopback,
                "port": self.ports.http,
                "module": "ejabberd_http",
                "request_handlers": {"/api": "mod_http_api"},
            },
        ]
        if self.components:
            hosts = {domain: {"password": secret} for domain, secret in self.components.items()}
            listen.append(
                {
                    **loopback,
                    "port": self.ports.component,
                    "module": "ejabberd_service",
                    "check_from": True,
                    "access": "all",
                    "hosts": hosts,
                }
            )
        return {
            "hosts": [self.domain],
            "s2s_access": "none",
            "loglevel": "info",
            "api_permissions": {
                "this machine": {
                    "from": ["mod_http_api"],
                    "who": {"ip": "127.0.0.1/32"},
                    "what": ["register"],
                }
            },
            "listen": listen,
            "modules": self._modules(),
        }

    def _modules(self) -> dict[str, Any]:
        everybody = dict.fromkeys(
            ("access", "access_create", "access_persistent", "access_mam"), "all"
        )
        return {
            **{name: {} for name in _PLAIN_MODULES},
            "mod_roster": {"versioning": True},
            "mod_mam": {"default": "always", "assume_mam_usage": True},
            "mod_muc": {
                "host": self.muc_domain,
                **everybody,
                "default_room_options": {
                    "mam": True,
                    "persistent": True,
                    "anonymous": not self._shows_addresses,
                },
            },
        }

    async def register(self, user: str, password: str, *, host: str | None = None) -> str:
        """Make an account while it runs, or find that there is one; its bare JID."""
        domain = self.domain if host is None else host
        url = f"http://127.0.0.1:{self.ports.http}/api/register"
        body = {"user": user, "host": domain, "password": password}
        async with (
            aiohttp.ClientSession(timeout=_API_TIMEOUT) as session,
            session.post(url, json=body) as response,
        ):
            if response.status not in (200, _CONFLICT):
                raise ServerFailed(f"ejabberd does not register {user}: {await response.text()}")
        return f"{user}@{domain}"

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join((super().log_tail(lines), read_tail(self._own_log, lines)))
