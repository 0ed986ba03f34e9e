"""A real Synapse as the other homeserver, in a Python environment of its own.

Its server name is `localhost:PORT`, the port being its TLS listener for federation and clients; a
second, plain listener serves clients only. Certificates come from the private authority and stay
verified. Its default room version is not touched.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from bridge.demo.servers.authority import CertificateAuthority
from bridge.demo.servers.ports import free_port
from bridge.demo.servers.postgresql import PostgreSQL
from bridge.demo.servers.process import Child, Server, ServerFailed
from bridge.errors import Misconfigured

_PYTHON_VARIABLE = "ISTHMUS_SYNAPSE_PYTHON"
_PROBE_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_ADMIN_TIMEOUT = aiohttp.ClientTimeout(total=30.0)
_UNLIMITED = {"per_second": 100_000, "burst_count": 100_000}
_LIMITS: dict[str, Any] = {
    **dict.fromkeys(
        (
            "rc_message",
            "rc_registration",
            "rc_registration_token_validity",
            "rc_admin_redaction",
            "rc_joins_per_room",
            "rc_3pid_validation",
            "rc_third_party_invite",
            "rc_media_create",
            "rc_room_creation",
            "rc_key_requests",
            "rc_reports",
            "rc_user_directory",
            "rc_profile",
        ),
        _UNLIMITED,
    ),
    "rc_login": dict.fromkeys(("address", "account", "failed_attempts"), _UNLIMITED),
    "rc_joins": dict.fromkeys(("local", "remote"), _UNLIMITED),
    "rc_invites": dict.fromkeys(("per_room", "per_user", "per_issuer"), _UNLIMITED),
    "rc_presence": {"per_user": _UNLIMITED},
    "rc_federation": {
        "window_size": 1000,
        "sleep_limit": 1_000_000,
        "sleep_delay": 1,
        "reject_limit": 1_000_000,
        "concurrent": 100,
    },
}
_PYTHON_SETTINGS = ("PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS", "VIRTUAL_ENV")


def find_synapse_python() -> Path:
    """The interpreter of Synapse's environment: by variable, else beside the checkout."""
    named = os.environ.get(_PYTHON_VARIABLE)
    checkout = Path(__file__).resolve().parents[3]
    python = Path(named) if named else checkout / ".venv-synapse" / "bin" / "python"
    if not os.access(python, os.X_OK):
        raise Misconfigured(
            _PYTHON_VARIABLE, f"no Synapse: {python} is missing (the project's set-up makes it)"
        )
    return python


class Synapse(Server):
    """`database` is a PostgreSQL server and the name of an existing database; else SQLite.

    `overrides` are put over the settings last; `app_services` are registration files.
    """

    START_TIMEOUT_S = 90.0

    def __init__(
        self,
        authority: CertificateAuthority,
        *,
        python: Path | None = None,
        port: int | None = None,
        client_port: int | None = None,
        database: tuple[PostgreSQL, str] | None = None,
        overrides: Mapping[str, Any] | None = None,
        app_services: Sequence[Path] = (),
        log_level: str = "INFO",
        folder: Path | None = None,
    ) -> None:
        self._python = python if python is not None else find_synapse_python()
        super().__init__("synapse", folder=folder)
        self.port = port if port is not None else free_port()
        self.client_port = client_port if client_port is not None else free_port()
        self.server_name = f"localhost:{self.port}"
        self.client_url = f"http://127.0.0.1:{self.client_port}"
        self._authority = authority
        self._database = database
        self._overrides = dict(overrides or {})
        self._app_services = [str(file) for file in app_services]
        self._log_level = log_level
        self._secrets = {
            name: secrets.token_hex(16)
            for name in ("registration_shared_secret", "macaroon_secret_key", "form_secret")
        }
        self._config = self.folder / "homeserver.yaml"

    def user_id(self, localpart: str) -> str:
        """`@localpart:SERVER`."""
        return f"@{localpart}:{self.server_name}"

    def _build(self) -> Child:
        key_file = self.folder / "signing.key"
        if not key_file.exists():
            seed = base64.b64encode(secrets.token_bytes(32)).decode("ascii").rstrip("=")
            key_file.write_text(f"ed25519 a_{secrets.token_hex(2)} {seed}\n", "ascii")
        log_file = self.folder / "log.yaml"
        log_file.write_text(json.dumps(self._log_settings()), "utf-8")
        settings = self._settings(key_file, log_file)
        self._config.write_text(json.dumps(settings, indent=1), "utf-8")  # JSON is YAML as well
        environment = {
            name: value for name, value in os.environ.items() if name not in _PYTHON_SETTINGS
        }
        return Child(
            [self._python, "-m", "synapse.app.homeserver", "-c", self._config],
            name=self.name,
            folder=self.folder,
            log=self.log,
            environment=environment,
        )

    def _log_settings(self) -> dict[str, Any]:
        return {
            "version": 1,
            "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
            "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"level": self._log_level, "handlers": ["out"]},
            "disable_existing_loggers": False,
        }

    def _settings(self, key_file: Path, log_file: Path) -> dict[str, Any]:
        certificate = self._authority.issue(label=f"synapse-{self.port}")
        plain = {"type": "http", "bind_addresses": ["127.0.0.1"]}
        return {
            "server_name": self.server_name,
            "public_baseurl": f"https://{self.server_name}/",
            "signing_key_path": str(key_file),
            "log_config": str(log_file),
            "media_store_path": str(self.folder / "media"),
            "pid_file": str(self.folder / "synapse.pid"),
            "report_stats": False,
            "listeners": [
                {
                    **plain,
                    "port": self.port,
                    "tls": True,
                    "resources": [{"names": ["client", "federation"], "compress": False}],
                },
                {
                    **plain,
                    "port": self.client_port,
                    "tls": False,
                    "resources": [{"names": ["client"], "compress": False}],
                },
            ],
            "database": self._database_settings(),
            "tls_certificate_path": str(certificate.chain),
            "tls_private_key_path": str(certificate.key),
            "federation_custom_ca_list": [str(self._authority.certificate_file)],
            "ip_range_blacklist": [],
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            **self._secrets,
            "enable_registration": False,
            "bcrypt_rounds": 4,
            "presence": {"enabled": True},
            "allow_public_rooms_over_federation": True,
            "room_list_publication_rules": [{"action": "allow"}],
            "federation": {
                "destination_min_retry_interval": "1s",
                "destination_max_retry_interval": "5s",
                "destination_retry_multiplier": 1,
                "max_short_retries": 1,
                "max_long_retries": 1,
            },
            "app_service_config_files": self._app_services,
            **_LIMITS,
            **self._overrides,
        }

    def _database_settings(self) -> dict[str, Any]:
        if self._database is None:
            return {"name": "sqlite3", "args": {"database": str(self.folder / "homeserver.db")}}
        server, name = self._database
        return {
            "name": "psycopg2",
            "args": {
                "user": server.user,
                "dbname": name,
                "host": server.host,
                "port": server.port,
                "cp_min": 2,
                "cp_max": 10,
            },
        }

    async def _is_ready(self) -> bool:
        try:
            async with (
                aiohttp.ClientSession(timeout=_PROBE_TIMEOUT) as session,
                session.get(f"{self.client_url}/_matrix/client/versions") as response,
            ):
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def create_user(self, name: str, password: str, *, admin: bool = False) -> str:
        """Make an account by the shared secret; its access token."""
        url = f"{self.client_url}/_synapse/admin/v1/register"
        async with aiohttp.ClientSession(timeout=_ADMIN_TIMEOUT) as session:
            async with session.get(url) as response:
                nonce = str((await response.json())["nonce"])
            level = "admin" if admin else "notadmin"
            signed = f"{nonce}\0{name}\0{password}\0{level}".encode()
            secret = self._secrets["registration_shared_secret"].encode("ascii")
            body = {
                "nonce": nonce,
                "username": name,
                "password": password,
                "admin": admin,
                "mac": hmac.new(secret, signed, hashlib.sha1).hexdigest(),
            }
            async with session.post(url, json=body) as response:
                answer = await response.json()
                if response.status != 200:
                    raise ServerFailed(f"synapse does not register {name}: {answer}")
                return str(answer["access_token"])
