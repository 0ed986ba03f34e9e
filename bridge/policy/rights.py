"""What somebody may do with the bot, by the operator's table; nobody who is not named.

A key names a Matrix user, an address of the chat side, a Matrix server or a domain, or everybody
(`*`); the most exact one counts. A ghost is somebody of the chat side: its address and the domain
of that address count, never the name of our own server, which every ghost carries. An occupant of
a chat that hides the real addresses (`chat/...`) has proven none: not even the chat's domain
speaks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bridge.errors import BadInput, Misconfigured
from bridge.ids import ServerName, UserId, parse_server_name, parse_user_id, server_of
from bridge.ports.command import Level

SETTING = "permissions"
EVERYBODY = "*"
LEVELS: Mapping[str, Level] = {"none": Level.NOBODY, "user": Level.USER, "admin": Level.ADMIN}
_NOT_IN_ADDRESSES = frozenset("/:<>\"'&")


class Rights:
    """The table, read once. Raises Misconfigured for a key that can name nobody."""

    def __init__(
        self,
        table: Mapping[str, str],
        *,
        own_server: ServerName,
        prepare_address: Callable[[str], str] = str.lower,
    ) -> None:
        """`prepare_address` gives an address its canonical spelling; BadInput: it has none."""
        self._own_server = own_server.lower()
        self._prepare = prepare_address
        self._users: dict[str, Level] = {}
        self._addresses: dict[str, Level] = {}
        self._domains: dict[str, Level] = {}
        self._everybody = Level.NOBODY
        for key, word in table.items():
            self._read(key, word)

    def level_of(self, user_id: UserId, address: str | None, *, is_unknown: bool = False) -> Level:
        """`address`: where the user is a ghost, whose. `is_unknown`: a ghost whose name does not
        tell; only its own user ID speaks for it, or what is forbidden to a domain would not be."""
        exact = [self._users.get(user_id)]
        if address is not None:
            exact.append(self._addresses.get(address))
            domain = None if "/" in address else address.rpartition("@")[2].lower()
        else:
            domain = server_of(user_id).lower()
            if domain == self._own_server:
                domain = None
        named = [level for level in exact if level is not None]
        if named:
            # Named twice, by user ID and by address: what is forbidden stays forbidden.
            return min(named)
        if is_unknown:
            return Level.NOBODY
        if domain is not None and domain in self._domains:
            return self._domains[domain]
        return self._everybody

    def is_admin(self, user_id: UserId, address: str | None) -> bool:
        """Named as such, themselves or with their server: not as one of everybody."""
        exact = (
            self._users.get(user_id),
            None if address is None else self._addresses.get(address),
        )
        if any(level is not None for level in exact):
            return min(level for level in exact if level is not None) is Level.ADMIN
        if address is not None:
            domain = "" if "/" in address else address.rpartition("@")[2].lower()
        else:
            domain = server_of(user_id).lower()
        return domain != self._own_server and self._domains.get(domain) is Level.ADMIN

    def admin_servers(self) -> frozenset[str]:
        """Where somebody may be who is named as an admin."""
        users = {
            server_of(UserId(user)) for user, level in self._users.items() if level is Level.ADMIN
        }
        domains = {domain for domain, level in self._domains.items() if level is Level.ADMIN}
        return frozenset(one.lower() for one in users | domains)

    def _read(self, key: str, word: str) -> None:
        if word not in LEVELS:
            raise Misconfigured(f"{SETTING}.{key}", f"{word!r} is none of {', '.join(LEVELS)}")
        level = LEVELS[word]
        if key == EVERYBODY:
            self._everybody = level
            return
        where, name = self._place(key)
        if where.get(name, level) != level:
            raise Misconfigured(f"{SETTING}.{key}", "the same name stands there with another level")
        where[name] = level

    def _place(self, key: str) -> tuple[dict[str, Level], str]:
        try:
            if key.startswith("@"):
                return self._users, parse_user_id(key)
            local, at, domain = key.rpartition("@")
            if not at:
                return self._domains, _domain(key)
            if not local or _NOT_IN_ADDRESSES & set(key) or not key.isprintable() or " " in key:
                raise BadInput("not an address")
            _domain(domain)
            return self._addresses, self._prepare(key)
        except BadInput as exc:
            raise Misconfigured(
                f"{SETTING}.{key}",
                "names nobody: write a Matrix user (@you:example.org), a JID (you@example.org), a "
                "server or domain (example.org), or *",
            ) from exc


def _domain(text: str) -> str:
    """A server name, or a domain with letters beyond ASCII."""
    if text.isascii():
        return parse_server_name(text).lower()
    if not text.isprintable() or " " in text or _NOT_IN_ADDRESSES & set(text) or "@" in text:
        raise BadInput("not a domain")
    return text.lower()
