"""The command `isthmus`: run, init, admin, demo, migrate, version.

Exit codes: 0 all is well, 1 it did not work (the reason is on standard error), 2 the command line
or the configuration is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from bridge import __version__
from bridge.errors import BadInput, IsthmusError, Misconfigured


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs one command."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        code: int = options.command(options)
    except Misconfigured as exc:
        print(f"isthmus: {exc.reason}", file=sys.stderr)
        return 2
    except IsthmusError as exc:
        print(f"isthmus: {exc.reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="isthmus", description="Joins XMPP and Matrix.")
    parser.add_argument("--version", action="version", version=f"isthmus {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the gateway")
    _config_option(run)
    run.set_defaults(command=_run)

    init = commands.add_parser("init", help="write a configuration and say what else is needed")
    init.add_argument("--folder", type=Path, default=Path("."), help="where to write (default: .)")
    init.add_argument("--server-name", required=True, help="Matrix name, such as gw.your.domain")
    init.add_argument("--xmpp-domain", help="the component's domain (default: the server name)")
    init.add_argument("--xmpp-host", default="127.0.0.1", help="where Prosody listens")
    init.add_argument("--xmpp-port", type=int, default=5347, help="its component port")
    init.add_argument("--listen-host", default="127.0.0.1", help="where Matrix servers reach us")
    init.add_argument("--listen-port", type=int, default=8448)
    init.add_argument("--health-port", type=int, default=8450)
    init.add_argument("--certificate", type=Path, help="PEM; without it a reverse proxy is needed")
    init.add_argument("--private-key", type=Path)
    init.add_argument("--admin", help="Matrix user or JID who may do everything with the bot")
    init.set_defaults(command=_init)

    migrate = commands.add_parser("migrate", help="bring the database to the current schema")
    _config_option(migrate)
    migrate.set_defaults(command=_migrate)

    admin = commands.add_parser("admin", help="a command for the gateway that runs here")
    _config_option(admin)
    admin.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="COMMAND", help="such as: status (default: help)"
    )
    admin.set_defaults(command=_admin)

    demo = commands.add_parser("demo", help="a conversation between real servers, to watch")
    demo.add_argument("--once", action="store_true", help="end after it; 0: all has arrived")
    demo.add_argument("--first-port", type=int, help="where its ports begin, if taken")
    demo.set_defaults(command=_demo)
    return parser


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), metavar="FILE")


def _run(options: argparse.Namespace) -> int:
    from bridge import app, config

    settings = config.load(options.config)
    return asyncio.run(app.serve(settings, say=_say))


def _say(line: str) -> None:
    print(line, flush=True)


def _migrate(options: argparse.Namespace) -> int:
    from bridge import config
    from bridge.storage import migrate

    settings = config.load(options.config)
    settings.data_folder.mkdir(parents=True, exist_ok=True)
    migrate.upgrade(settings.database_url)
    print("The database is current.")
    return 0


def _admin(options: argparse.Namespace) -> int:
    from bridge import config
    from bridge.bot.control import SOCKET
    from bridge.cli import admin

    settings = config.load(options.config)
    reply = admin.ask(settings.path(SOCKET), " ".join(options.words))
    print(reply.text, file=sys.stderr if reply.code else sys.stdout)
    return reply.code


def _init(options: argparse.Namespace) -> int:
    from bridge import config
    from bridge.cli import init
    from bridge.ids import split_server_name

    try:
        host, _ = split_server_name(options.server_name)
    except BadInput as exc:
        raise Misconfigured("--server-name", exc.reason) from exc
    answers = init.Answers(
        folder=options.folder,
        server_name=options.server_name,
        xmpp_domain=options.xmpp_domain or host,
        xmpp_host=options.xmpp_host,
        xmpp_port=options.xmpp_port,
        listen_host=options.listen_host,
        listen_port=options.listen_port,
        health_port=options.health_port,
        certificate=options.certificate,
        private_key=options.private_key,
        admin=options.admin,
    )
    path = init.write(answers)
    settings = config.load(path)
    print(f"Wrote {path} and a signing key in {settings.data_folder}.\n")
    print(init.explain(answers, settings.xmpp["secret"]))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from bridge import demo

    first_port = demo.FIRST_PORT if options.first_port is None else options.first_port
    return asyncio.run(demo.run(once=options.once, first_port=first_port))
