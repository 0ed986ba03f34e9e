"""`isthmus init`: writes a configuration that works, and says what else is needed.

It writes three files and overwrites none: `config.yaml`, the signing key and, inside the
configuration, a fresh component secret. What it prints is what the operator must do elsewhere.
"""

from __future__ import annotations

import json
import os
import secrets
import string
from dataclasses import dataclass
from pathlib import Path

from bridge.adapters.xmpp.jid import prepare_domain
from bridge.config import EXAMPLE_VALUES
from bridge.engine.keys import SigningKey
from bridge.errors import BadInput, Misconfigured
from bridge.ids import parse_server_name, split_server_name

DEFAULT_COMPONENT_PORT = 5347
HTTPS_PORT = 443
_LOOPBACK = ("127.0.0.1", "::1", "localhost")

CONFIG = """\
# Isthmus. Every other setting, with its default, is in config.example.yaml.
server_name: {server_name}
data_folder: data

# The Matrix side. Other servers reach us here: directly with a certificate, or through a reverse
# proxy that passes https://{server_name}/_matrix/ and /_isthmus/media/ on.
listeners:
  - host: {listen_host}
    port: {listen_port}
{tls}
# Health: http://{health_host}:{health_port}/_isthmus/ready
health:
  host: {health_host}
  port: {health_port}

# Where people's clients open files of Matrix: what is below this and /_isthmus/media/ leads here.
media:
  public_url: {public_url}

# The XMPP side: one component (XEP-0114) of your XMPP server.
xmpp:
  domain: {xmpp_domain}
  host: {xmpp_host}
  port: {xmpp_port}
  secret: {secret}

# Who may do what with the bot; who is not named may only do what concerns themselves.
permissions: {permissions}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the operator said on the command line."""

    folder: Path
    server_name: str
    xmpp_domain: str
    xmpp_host: str = "127.0.0.1"
    xmpp_port: int = 5347
    listen_host: str = "127.0.0.1"
    listen_port: int = 8448
    health_port: int = 8450
    certificate: Path | None = None
    private_key: Path | None = None
    admin: str | None = None
    """A Matrix user or a JID."""


def check(answers: Answers) -> None:
    """Raises `Misconfigured` for an answer that cannot work, naming the option."""
    try:
        parse_server_name(answers.server_name)
    except BadInput as exc:
        raise Misconfigured("--server-name", exc.reason) from exc
    try:
        prepared = prepare_domain(answers.xmpp_domain, strict=True)
    except BadInput as exc:
        raise Misconfigured("--xmpp-domain", exc.reason) from exc
    if prepared != answers.xmpp_domain:
        raise Misconfigured("--xmpp-domain", f"must be written as {prepared}")
    for option, name, value in (
        ("--server-name", "server_name", answers.server_name),
        ("--xmpp-domain", "xmpp.domain", answers.xmpp_domain),
    ):
        if value in EXAMPLE_VALUES[name]:
            raise Misconfigured(option, f"{value} is the example: put in your own")
    for option, port in (
        ("--xmpp-port", answers.xmpp_port),
        ("--listen-port", answers.listen_port),
        ("--health-port", answers.health_port),
    ):
        if not 0 < port < 65536:
            raise Misconfigured(option, "not a port")
    if answers.admin is not None and "@" not in answers.admin:
        raise Misconfigured("--admin", "is a Matrix user (@you:example.org) or a JID")
    if (answers.certificate is None) != (answers.private_key is None):
        raise Misconfigured("--certificate", "needs --private-key, and the other way round")


def write(answers: Answers) -> Path:
    """Writes the files; answers the configuration's path. Raises `Misconfigured`."""
    check(answers)
    config = answers.folder / "config.yaml"
    key_file = answers.folder / "data" / "signing.key"
    for path in (config, key_file):
        if path.exists():
            raise Misconfigured(str(path), "is there already; nothing was written")
    tls = ""
    if answers.certificate is not None and answers.private_key is not None:
        tls = (
            f"    certificate: {answers.certificate.resolve()}\n"
            f"    private_key: {answers.private_key.resolve()}\n"
        )
    text = CONFIG.format(
        server_name=json.dumps(answers.server_name),
        listen_host=json.dumps(answers.listen_host),
        listen_port=answers.listen_port,
        tls=tls,
        public_url=json.dumps(_public_url(answers)),
        health_host="127.0.0.1",
        health_port=answers.health_port,
        xmpp_domain=json.dumps(answers.xmpp_domain),
        xmpp_host=json.dumps(answers.xmpp_host),
        xmpp_port=answers.xmpp_port,
        secret=json.dumps(secrets.token_urlsafe(24)),
        permissions=json.dumps({} if answers.admin is None else {answers.admin: "admin"}),
    )
    version = "".join(secrets.choice(string.ascii_lowercase) for _ in range(6))
    try:
        key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_private(key_file, SigningKey.from_seed(version, secrets.token_bytes(32)).to_text())
        _write_private(config, text)
    except OSError as exc:
        raise Misconfigured(str(answers.folder), f"cannot be written: {exc.strerror}") from exc
    return config


def _public_url(answers: Answers) -> str:
    """The same as for Matrix servers; with HTTPS of our own and no proxy, at our port."""
    has_port = split_server_name(answers.server_name)[1] is not None
    is_direct = answers.certificate is not None
    own_port = f":{answers.listen_port}" if is_direct and not has_port else ""
    return f"https://{answers.server_name}{own_port}"


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text.rstrip("\n") + "\n")


def explain(answers: Answers, secret: str) -> str:
    """What is left to do, in the order in which it is done."""
    parts = (_prosody(answers, secret), _xmpp_dns(answers), _matrix_dns(answers))
    numbered = [f"{number}. {text}" for number, text in enumerate(parts, 1)]
    start = f"{len(parts) + 1}. Start: isthmus run --config {answers.folder / 'config.yaml'}\n"
    return "\n".join((*numbered, start))


def _prosody(answers: Answers, secret: str) -> str:
    domain = answers.xmpp_domain
    text = f"""\
Prosody: put this at the end of prosody.cfg.lua and restart it.

   Component "{domain}"
     component_secret = "{secret}"
     component_conflict_resolve = "kick_old"

"""
    if answers.xmpp_port != DEFAULT_COMPONENT_PORT:
        text += f"""\
   And this above the first VirtualHost:

   component_ports = {{ {answers.xmpp_port} }}

"""
    if answers.xmpp_host not in _LOOPBACK:
        text += f"""\
   Prosody listens for components on its own machine only: name above the first VirtualHost,
   in component_interfaces, the address that Isthmus reaches as {answers.xmpp_host}.

"""
    return (
        text
        + f"""\
   If {domain} is no subdomain of your XMPP server's domain, put this below that VirtualHost,
   so that its people find it:

   disco_items = {{ {{ "{domain}", "Matrix" }} }}
"""
    )


def _xmpp_dns(answers: Answers) -> str:
    domain = answers.xmpp_domain
    return f"""\
So that people of other XMPP servers can reach it, {domain} needs
   - an A or AAAA record to your XMPP server, or the record
     _xmpp-server._tcp.{domain}. SRV 0 0 5269 (your XMPP server's host name).
   - a certificate for {domain} in your XMPP server (`prosodyctl cert import`), and
     port 5269 open.
"""


def _matrix_dns(answers: Answers) -> str:
    name = answers.server_name
    host, named_port = split_server_name(name)
    is_direct = answers.certificate is not None
    text = f"""\
So that Matrix servers can reach it, {host} needs an A or AAAA record and a certificate.
"""
    if is_direct:
        text += f"   Isthmus speaks HTTPS itself on port {answers.listen_port}.\n"
    else:
        text += f"""\
   Your web server passes https://{name}/_matrix/ and https://{name}/_isthmus/media/ on to
   http://{answers.listen_host}:{answers.listen_port}, with paths untouched.
"""
    if named_port is not None:
        return text + f"   Other servers connect to port {named_port}, which the name contains.\n"
    port = answers.listen_port if is_direct else HTTPS_PORT
    document = json.dumps({"m.server": f"{name}:{port}"})
    return (
        text
        + f"""\
   https://{name}/.well-known/matrix/server answers this document:

   {document}
"""
    )
