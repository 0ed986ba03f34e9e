"""A real Prosody, one virtual host with its components, alone or federated with others.

Never run `prosody --version`: it starts a server on the standard ports. Other Prosodys are found
by a small module of our own that answers the service look-up from a table, so that no DNS is
needed and a `Relay` can stand in between.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bridge.demo.servers.authority import CertificateAuthority
from bridge.demo.servers.ports import free_port
from bridge.demo.servers.process import (
    Child,
    Server,
    ServerFailed,
    accepts_connections,
    read_tail,
    run_to_end,
)
from bridge.errors import Misconfigured

Federation = Literal["off", "dialback", "cert"]

_LOCKED = "database is locked"
_LOCKED_S = 0.1
_MOST_REGISTRATIONS = 20

_MODULES = (
    "disco",
    "roster",
    "saslauth",
    "tls",
    "private",
    "blocklist",
    "bookmarks",
    "vcard4",
    "vcard_legacy",
    "version",
    "uptime",
    "time",
    "ping",
    "pep",
    "mam",
    "carbons",
    "smacks",
    "csi_simple",
    "http",
    "websocket",
    "bosh",
)

_MAP_MODULE = """\
-- Answers the look-up of an XMPP server from the option "peer_ports" (domain -> port on loopback).
module:set_global();
local service = require "net.resolvers.service";
local basic = require "net.resolvers.basic";
local look_up = service.new;
function service.new(domain, kind, transport, extra)
	local port = module:get_option("peer_ports", {})[domain];
	if port and kind == "xmpp-server" then
		return basic.new("127.0.0.1", port, transport, extra);
	elseif port and kind == "xmpps-server" then
		return { next = function (_, found) found(nil); end };
	end
	return look_up(domain, kind, transport, extra);
end
"""


def _text(value: str | Path) -> str:
    """A Lua string. Our values are paths, domains and secrets: no control characters."""
    text = str(value)
    if not text.isprintable():
        raise Misconfigured("prosody", f"not printable: {text!r}")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _list(values: Sequence[str]) -> str:
    return "{ " + ", ".join(_text(value) for value in values) + " }"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProsodyPorts:
    """Where it listens, all on 127.0.0.1."""

    client: int
    server: int
    component: int
    http: int

    @classmethod
    def free(cls) -> ProsodyPorts:
        """Ports that nobody uses."""
        return cls(client=free_port(), server=free_port(), component=free_port(), http=free_port())


class Prosody(Server):
    """`components` maps the domain of an external component (XEP-0114) to its secret.

    Besides its virtual host `domain` it has a MUC service `muc.DOMAIN` and, if asked, an upload
    service `upload.DOMAIN`. `shows_addresses`: new rooms show everybody's real address to
    everybody. `federation` is "off", "dialback" (plain streams without stream
    management) or "cert" (TLS with certificates of `authority`, and stream management). The
    extra texts are put into the global and the host section of its configuration as they are.
    """

    START_TIMEOUT_S = 20.0
    STOP_TIMEOUT_S = 15.0

    def __init__(
        self,
        domain: str,
        *,
        components: Mapping[str, str] | None = None,
        upload: bool = False,
        shows_addresses: bool = False,
        federation: Federation = "off",
        authority: CertificateAuthority | None = None,
        ports: ProsodyPorts | None = None,
        log_level: str = "info",
        extra_global: str = "",
        extra_host: str = "",
        folder: Path | None = None,
    ) -> None:
        if federation == "cert" and authority is None:
            raise Misconfigured("prosody", "federation by certificate needs an authority")
        super().__init__("prosody", folder=folder)
        self.domain = domain
        self.muc_domain = f"muc.{domain}"
        self.components = dict(components or {})
        self.ports = ports if ports is not None else ProsodyPorts.free()
        self.peer_ports: dict[str, int] = {}
        self._upload_domain = f"upload.{domain}" if upload else None
        self._shows_addresses = shows_addresses
        self._federation = federation
        self._authority = authority
        self._log_level = log_level
        self._extra_global = extra_global
        self._extra_host = extra_host
        self._config = self.folder / "prosody.cfg.lua"
        self._pid_file = self.folder / "prosody.pid"
        self._own_log = self.folder / "prosody.log"

    @property
    def domains(self) -> tuple[str, ...]:
        """All domains that it serves."""
        upload = () if self._upload_domain is None else (self._upload_domain,)
        return (self.domain, self.muc_domain, *upload, *self.components)

    def reach(self, other: Prosody, *, port: int | None = None) -> None:
        """Find `other` at its server port, or at `port` (a relay). Before `start`."""
        for domain in other.domains:
            self.peer_ports[domain] = other.ports.server if port is None else port

    def _build(self) -> Child:
        program = shutil.which("prosody")
        if program is None:
            raise ServerFailed("prosody is not installed (Debian package: prosody)")
        modules = self.folder / "modules" / "mod_isthmus_peers"
        modules.mkdir(parents=True, exist_ok=True)
        (modules / "mod_isthmus_peers.lua").write_text(_MAP_MODULE, "utf-8")
        (self.folder / "data").mkdir(exist_ok=True)
        self._config.write_text(self._configuration(), "utf-8")
        self._pid_file.unlink(missing_ok=True)
        return Child(
            [program, "-F", "--config", self._config],
            name=self.name,
            folder=self.folder,
            log=self.log,
        )

    async def _is_ready(self) -> bool:
        try:
            has_pid = self._pid_file.stat().st_size > 0
        except FileNotFoundError:
            return False
        return has_pid and all(accepts_connections(port) for port in self._open_ports())

    def _open_ports(self) -> list[int]:
        ports = [self.ports.client, self.ports.http]
        if self.components:
            ports.append(self.ports.component)
        if self._federation != "off":
            ports.append(self.ports.server)
        return ports

    def _configuration(self) -> str:
        lines = [*self._global_lines(), *self._federation_lines(), self._extra_global]
        lines += [f"VirtualHost {_text(self.domain)}", self._extra_host]
        lines += [
            f'Component {_text(self.muc_domain)} "muc"',
            '  modules_enabled = { "muc_mam" }',
            "  muc_room_locking = false",
            "  muc_log_by_default = true",
            "  muc_room_default_persistent = true",
            f"  muc_room_default_public_jids = {str(self._shows_addresses).lower()}",
        ]
        if self._upload_domain is not None:
            lines += [
                f'Component {_text(self._upload_domain)} "http_file_share"',
                f"  http_host = {_text(self.domain)}",
            ]
        for domain, secret in self.components.items():
            lines += [f"Component {_text(domain)}", f"  component_secret = {_text(secret)}"]
        return "\n".join(lines) + "\n"

    def _global_lines(self) -> list[str]:
        ports = self.ports
        modules = [*_MODULES, "isthmus_peers"]
        if self._federation == "dialback":
            modules.remove("tls")
            modules.append("dialback")
        loopback = '{ "127.0.0.1" }'
        return [
            "run_as_root = true",
            f"pidfile = {_text(self._pid_file)}",
            f"data_path = {_text(self.folder / 'data')}",
            f"plugin_paths = {_list([str(self.folder / 'modules')])}",
            f"log = {{ {self._log_level} = {_text(self._own_log)} }}",
            f"interfaces = {loopback}",
            f"local_interfaces = {loopback}",
            f"component_interfaces = {loopback}",
            f"http_interfaces = {loopback}",
            f"c2s_ports = {{ {ports.client} }}",
            "c2s_direct_tls_ports = { }",
            f"s2s_ports = {{ {ports.server} }}",
            "s2s_direct_tls_ports = { }",
            f"component_ports = {{ {ports.component} }}",
            f"http_ports = {{ {ports.http} }}",
            "https_ports = { }",
            f"http_default_host = {_text(self.domain)}",
            f"http_external_url = {_text(f'http://127.0.0.1:{ports.http}/')}",
            "c2s_require_encryption = false",
            "allow_unencrypted_plain_auth = true",
            'authentication = "internal_plain"',
            'storage = "sql"',
            'component_conflict_resolve = "kick_old"',
            f"modules_enabled = {_list(modules)}",
        ]

    def _federation_lines(self) -> list[str]:
        if self._federation == "off":
            return ['modules_disabled = { "s2s" }']
        table = ", ".join(f"[{_text(host)}] = {port}" for host, port in self.peer_ports.items())
        lines = [f"peer_ports = {{ {table} }}", "s2s_timeout = 10"]
        if self._federation == "dialback":
            return [
                *lines,
                "s2s_require_encryption = false",
                "s2s_secure_auth = false",
                'modules_disabled = { "s2s_auth_certs" }',
                f"dialback_secret = {_text(f'dialback-{self.domain}')}",
            ]
        assert self._authority is not None
        certificate = self._authority.issue(*self.domains, label=f"prosody-{self.domain}")
        return [
            *lines,
            "s2s_require_encryption = true",
            "s2s_secure_auth = true",
            "ssl = {",
            f"  key = {_text(certificate.key)};",
            f"  certificate = {_text(certificate.chain)};",
            f"  cafile = {_text(self._authority.certificate_file)};",
            "}",
        ]

    async def register(self, user: str, password: str, *, host: str | None = None) -> str:
        """Make an account; its bare JID. Works while it runs and while it does not."""
        program = shutil.which("prosodyctl")
        if program is None:
            raise ServerFailed("prosodyctl is not installed (Debian package: prosody)")
        domain = self.domain if host is None else host
        command: list[str | Path] = [program, "--config", self._config, "register"]
        command += [user, domain, password]
        for _ in range(_MOST_REGISTRATIONS):
            try:
                await run_to_end(
                    command, name="prosodyctl register", folder=self.folder, timeout_s=30.0
                )
            except ServerFailed as exc:
                if _LOCKED not in str(exc):
                    raise
                await asyncio.sleep(_LOCKED_S)  # the running server was writing just then
            else:
                return f"{user}@{domain}"
        raise ServerFailed(f"prosody does not register {user}: its {_LOCKED}")

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join((super().log_tail(lines), read_tail(self._own_log, lines)))
