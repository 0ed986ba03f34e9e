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

from bridge.engine.keys import SigningKey
from bridge.errors import Misconfigured

CONFIG = """\
# Isthmus. Every other setting, with its default, is in config.example.yaml.
server_name: {server_name}
data_folder: data

# The Matrix side. Other servers reach us here: directly with a certificate, or through a reverse
# proxy that passes https://{server_name}/_matrix/ on.
listeners:
  - host: {listen_host}
    port: {listen_port}
{tls}
# Health: http://{health_host}:{health_port}/_isthmus/ready
health:
  host: {health_host}
  port: {health_port}

# The XMPP side: one component (XEP-0114) of your XMPP server.
xmpp:
  domain: {xmpp_domain}
  host: {xmpp_host}
  port: {xmpp_port}
  secret: {secret}
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


def write(answers: Answers) -> Path:
    """Writes the files; answers the configuration's path. Raises `Misconfigured`."""
    config = answers.folder / "config.yaml"
    key_file = answers.folder / "data" / "signing.key"
    for path in (config, key_file):
        if path.exists():
            raise Misconfigured(str(path), "is there already; nothing was written")
    if (answers.certificate is None) != (answers.private_key is None):
        raise Misconfigured("--certificate", "needs --private-key, and the other way round")
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
        health_host="127.0.0.1",
        health_port=answers.health_port,
        xmpp_domain=json.dumps(answers.xmpp_domain),
        xmpp_host=json.dumps(answers.xmpp_host),
        xmpp_port=answers.xmpp_port,
        secret=json.dumps(secrets.token_urlsafe(24)),
    )
    version = "".join(secrets.choice(string.ascii_lowercase) for _ in range(6))
    try:
        key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_private(key_file, SigningKey.from_seed(version, secrets.token_bytes(32)).to_text())
        _write_private(config, text)
    except OSError as exc:
        raise Misconfigured(str(answers.folder), f"cannot be written: {exc.strerror}") from exc
    return config


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text.rstrip("\n") + "\n")


def explain(answers: Answers, secret: str) -> str:
    """What is left to do, in the order in which it is done."""
    domain = answers.xmpp_domain
    direct = answers.certificate is not None
    well_known = json.dumps({"m.server": f"{answers.server_name}:443"})
    if direct:
        well_known = json.dumps({"m.server": f"{answers.server_name}:{answers.listen_port}"})
    proxy = (
        f"   Isthmus speaks HTTPS itself on port {answers.listen_port}."
        if direct
        else f"   Your web server passes https://{answers.server_name}/_matrix/ on to\n"
        f"   http://{answers.listen_host}:{answers.listen_port}, with paths untouched."
    )
    return f"""\
1. Prosody: put this at the end of prosody.cfg.lua and restart it.

   component_ports = {{ {answers.xmpp_port} }}
   component_interfaces = {{ "{answers.xmpp_host}" }}
   Component "{domain}"
     component_secret = "{secret}"
     component_conflict_resolve = "kick_old"

   Where {domain} is no subdomain of your XMPP server's domain, let that host announce it too:

   disco_items = {{ {{ "{domain}", "Matrix" }} }}

2. So that people of other XMPP servers can reach it, {domain} needs
   - an A or AAAA record to your XMPP server, or a record
     _xmpp-server._tcp.{domain}. SRV 0 0 5269 (your XMPP server's host name).
   - a certificate for {domain} in your XMPP server (`prosodyctl cert import`), and
     port 5269 open.

3. So that Matrix servers can reach it, {answers.server_name} needs an A or AAAA record and
   a certificate.
{proxy}
   https://{answers.server_name}/.well-known/matrix/server answers this document:

   {well_known}

4. Start: isthmus run --config {answers.folder / "config.yaml"}
"""
