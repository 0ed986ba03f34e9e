"""Moderation policy rooms whose rules hold here: entered by the bot, read, and followed.

A room's rules are its current state, read as a whole: when it is subscribed to, at the start, soon
after anything happened in it, and now and then, so that nothing that was missed stays missed. What
they say is rows, from which the house makes its decisions (`policy/lists`, `policy/house`); when a
room cannot be read, what it said last holds. An upgraded room is followed as every room is
(`following`); the old one counts beside the new until its tombstone says that the rules have moved.

Nobody who is here already is thrown out by such a rule: it refuses what comes.
Spec: C2S, moderation policy lists; MSC4321.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from bridge.clock import Clock
from bridge.errors import IsthmusError, NotFound, Refused, Unavailable
from bridge.ids import RoomAlias, RoomId, ServerName, TraceId, UserId
from bridge.policy.house import House
from bridge.policy.lists import TYPES, ListEntry, Reading, read_list
from bridge.policy.rules import Action, Rule, RuleTable, Scope, Subject
from bridge.portals.directory import Directory
from bridge.portals.moves import TOMBSTONE, Moves
from bridge.ports.matrix import MatrixBackend, RoomEvent
from bridge.storage import journal, peers, policy
from bridge.storage.database import Database, Transaction
from bridge.storage.moves import MOVED
from bridge.storage.policy import RuleRow
from bridge.telemetry.log import get_logger

POLL_S = 1.0
"""How soon a change holds."""
REREAD_S = 900.0
REST = 20
"""So many times as long as it took to read a room it is left alone: who writes there without end
does not keep us busy."""
MAX_ROOMS = 20
STEP = "policy"
UPGRADE_TYPES = (
    "org.matrix.msc4321.policy_room_upgrade_type",
    "m.policy_room_upgrade_type",
)
REDACTION = "m.room.redaction"

log = get_logger("policy")


class PolicyRooms:
    """Fills `bot.context.Lists`. `on_event` is told of everything that happens in rooms."""

    def __init__(
        self,
        *,
        database: Database,
        backend: MatrixBackend,
        directory: Directory,
        moves: Moves,
        house: House,
        clock: Clock,
    ) -> None:
        self._database = database
        self._backend = backend
        self._directory = directory
        self._moves = moves
        self._house = house
        self._clock = clock
        self._rooms: frozenset[RoomId] = frozenset()
        self._dirty: set[RoomId] = set()
        self._read_s: dict[RoomId, float] = {}
        self._rests_until_s: dict[RoomId, float] = {}
        self._readings: dict[RoomId, Reading] = {}
        self._troubles: dict[RoomId, str] = {}
        self._waker = database.waker(policy.TOPIC)

    # --- following --------------------------------------------------------------------------

    def on_event(self, event: RoomEvent) -> None:
        """Only notes that there is something to read."""
        if event.room_id in self._rooms and (
            event.state_key is not None or event.type == REDACTION
        ):
            self._dirty.add(event.room_id)

    async def run(self) -> None:
        while True:
            await self.refresh()
            await self._waker.wait(POLL_S)

    async def refresh(self) -> None:
        """Reads what is to be read again; what cannot be read now is tried the next time."""
        try:
            self._know(await self._database.read(policy.rooms))
        except Unavailable as exc:
            log.warning("the policy rooms cannot be looked up now", reason=exc.reason)
            return
        now_s = self._clock.monotonic_s()
        due = deque(room_id for room_id in sorted(self._rooms) if self._is_due(room_id, now_s))
        while due:
            room_id = due.popleft()
            self._dirty.discard(room_id)
            self._read_s[room_id] = now_s
            try:
                await self._read(room_id)
                due.extend(await self._follow(room_id))
            except Unavailable as exc:
                self._dirty.add(room_id)
                self._trouble(room_id, exc)
            except IsthmusError as exc:
                self._trouble(room_id, exc)
            took_s = self._clock.monotonic_s() - now_s
            now_s += took_s
            self._rests_until_s[room_id] = now_s + REST * took_s

    def _is_due(self, room_id: RoomId, now_s: float) -> bool:
        if now_s < self._rests_until_s.get(room_id, 0.0):
            return False
        return room_id in self._dirty or now_s - self._read_s.get(room_id, -REREAD_S) >= REREAD_S

    def _know(self, rooms: Sequence[RoomId]) -> None:
        self._rooms = frozenset(rooms)
        self._house.protect(self._rooms)
        for known in (self._read_s, self._rests_until_s, self._readings, self._troubles):
            for room_id in set(known) - self._rooms:
                known.pop(room_id, None)

    def _trouble(self, room_id: RoomId, exc: IsthmusError) -> None:
        """Said once: what the room said last holds until it can be read again."""
        if self._troubles.get(room_id) != exc.reason:
            log.warning("a policy room cannot be read", room_id=room_id, reason=exc.reason)
        self._troubles[room_id] = exc.reason

    async def _read(self, room_id: RoomId) -> None:
        """Its rules, as they are now, become those that hold. Raises NotFound: we are not in it."""
        entries = [
            ListEntry(
                type=type, state_key=entry.state_key, sender=entry.sender, content=entry.content
            )
            for type in TYPES
            for entry in await self._backend.state(room_id, type)
        ]
        reading = read_list(
            entries,
            source=room_id,
            own=self._backend.server_name,
            bot=self._backend.bot,
        )
        now_ms = self._clock.now_ms()
        rows = [
            RuleRow(
                source=room_id,
                source_key=one.key,
                action=one.rule.action,
                subject=one.rule.subject,
                glob=one.rule.glob,
                scopes=tuple(sorted(one.rule.scopes)),
                reason=one.rule.reason,
                made_by=one.sender,
                made_ms=now_ms,
            )
            for one in reading.rules
        ]

        def unit(tx: Transaction) -> tuple[int, int]:
            if policy.find_room(tx, room_id) is None:
                return 0, 0
            new, gone = policy.replace_source(tx, room_id, rows)
            self._changed(tx, room_id, new, gone, now_ms)
            return len(new), len(gone)

        new, gone = await self._database.write(unit)
        self._troubles.pop(room_id, None)
        before = self._readings.get(room_id)
        self._readings[room_id] = reading
        if new or gone or before is None or before.ignored != reading.ignored:
            log.info(
                "a policy room is read",
                room_id=room_id,
                rules=len(rows),
                new=new,
                gone=gone,
                ignored=dict(reading.ignored),
            )

    def _changed(
        self,
        tx: Transaction,
        room_id: RoomId,
        new: Sequence[RuleRow],
        gone: Sequence[RuleRow],
        now_ms: int,
    ) -> None:
        if not new and not gone:
            return
        journal.record(
            tx,
            trace_id=trace_of(room_id),
            step=STEP,
            decision="read",
            detail=f"{len(new)} new, {len(gone)} gone",
            now_ms=now_ms,
        )
        table = RuleTable.of(_server_rules(gone))
        if table.rules:
            # What waited for whoever is not denied any more goes out now.
            peers.hasten_those(tx, lambda server: bool(table.about_server(server)))

    # --- upgrades ---------------------------------------------------------------------------

    async def _follow(self, room_id: RoomId) -> Sequence[RoomId]:
        """The successor, where we have just begun to listen to it."""
        move = await self._moves.find(room_id)
        if move is None or move.status != MOVED:
            return ()
        successor, found = move.successor, []
        if successor not in self._rooms:
            row = await self._database.read(lambda tx: policy.find_room(tx, room_id))
            if row is None or len(self._rooms) >= MAX_ROOMS:
                return ()
            await self._subscribe(successor, by=row.made_by)
            log.info("a policy room is followed", room_id=room_id, successor=successor)
            found.append(successor)
        elif successor in self._readings and await self._has_moved(room_id):
            await self._forget(room_id)
            log.info("the rules of a policy room have moved", room_id=room_id, successor=successor)
        return found

    async def _has_moved(self, room_id: RoomId) -> bool:
        for entry in await self._backend.state(room_id, TOMBSTONE):
            said = {entry.content.get(name) for name in UPGRADE_TYPES if entry.state_key == ""}
            return bool(said & {"move", "moved"})
        return False

    # --- for commands -----------------------------------------------------------------------

    async def subscribe(
        self, target: RoomAlias | RoomId, via: Sequence[ServerName] = (), *, by: UserId
    ) -> str:
        """Raises Refused, NotFound, Unavailable."""
        room_id, servers = await self._find(target)
        if room_id in await self._database.read(policy.rooms):
            await self._read(room_id)
            return f"I follow {room_id} already: {self._counted(room_id)}."
        if len(self._rooms) >= MAX_ROOMS:
            raise Refused(f"I follow {MAX_ROOMS} policy rooms already: `policy unsubscribe` one")
        bot = self._backend.bot
        try:
            await self._backend.join(user_id=bot, room_id=room_id, via=[*via, *servers])
        except Refused as exc:
            raise Refused(
                f"I may not enter {room_id}: {exc.reason}. Where it needs an invitation, invite "
                f"{bot} and write this again",
                rule=exc.rule,
            ) from exc
        await self._subscribe(room_id, by=by)
        await self._read(room_id)
        log.info("a policy room holds here", room_id=room_id, by=by)
        return f"I follow {await self._name(room_id)} from now on: {self._counted(room_id)}."

    async def unsubscribe(self, target: RoomAlias | RoomId, *, by: UserId) -> str:
        """With the rooms that it has replaced. Raises NotFound."""
        room_id, _ = await self._find(target)
        before = [move.room_id for move in await self._moves.predecessors(room_id)]
        count = await self._forget(room_id)
        for older in before:
            if older in self._rooms:
                count += await self._forget(older)
        log.info("a policy room holds here no more", room_id=room_id, by=by)
        return f"I do not follow {room_id} any more; {_count(count, 'rule')} of it went with it."

    async def listing(self) -> str:
        """One line for each room; nothing where there is none."""
        lines = []
        for room_id in await self._database.read(policy.rooms):
            trouble = self._troubles.get(room_id)
            more = f"; it cannot be read now ({trouble}), its last rules hold" if trouble else ""
            counted = self._counted(room_id)
            lines.append(f"Policy room {await self._name(room_id)}: {counted}{more}")
        return "\n".join(lines)

    async def _find(self, target: RoomAlias | RoomId) -> tuple[RoomId, Sequence[ServerName]]:
        if not target.startswith("!"):
            return await self._backend.resolve_alias(RoomAlias(target))
        room_id = RoomId(target)
        return room_id, _servers_in(room_id)

    async def _name(self, room_id: RoomId) -> str:
        try:
            info = await self._backend.room(room_id)
        except NotFound:
            return room_id
        name = info.canonical_alias or info.name
        return room_id if name is None else f"{room_id} ({name})"

    def _counted(self, room_id: RoomId) -> str:
        reading = self._readings.get(room_id)
        if reading is None:
            return "not read yet"
        text = f"{_count(len(reading.rules), 'rule')}"
        if reading.ignored:
            total = sum(reading.ignored.values())
            why = ", ".join(f"{count}: {reason}" for reason, count in reading.ignored.items())
            text += f"; {total} more that I do not obey ({why})"
        return text

    async def _subscribe(self, room_id: RoomId, *, by: UserId) -> None:
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> Sequence[RoomId]:
            policy.subscribe(tx, room_id, made_by=by, now_ms=now_ms)
            self._record(tx, room_id, "subscribed", f"by {by}", now_ms)
            return policy.rooms(tx)

        self._know(await self._database.write(unit))
        self._dirty.add(room_id)

    async def _forget(self, room_id: RoomId) -> int:
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> tuple[int, Sequence[RoomId]]:
            gone = policy.unsubscribe(tx, room_id)
            self._changed(tx, room_id, (), gone, now_ms)
            self._record(tx, room_id, "unsubscribed", "", now_ms)
            return len(gone), policy.rooms(tx)

        count, rooms = await self._database.write(unit)
        self._know(rooms)
        if not await self._directory.of_room(room_id):
            await self._directory.leave(user_id=self._backend.bot, room_id=room_id)
        return count

    def _record(
        self, tx: Transaction, room_id: RoomId, decision: str, detail: str, now_ms: int
    ) -> None:
        journal.record(
            tx,
            trace_id=trace_of(room_id),
            step=STEP,
            decision=decision,
            detail=detail,
            now_ms=now_ms,
        )


def trace_of(room_id: RoomId) -> TraceId:
    return TraceId(f"policy.{room_id}")


def _server_rules(rows: Sequence[RuleRow]) -> list[Rule]:
    return [
        Rule(
            rule_id=row.rule_id,
            action=Action(row.action),
            subject=Subject(row.subject),
            glob=row.glob,
            scopes=frozenset({Scope.ALL}),
            source=row.source,
        )
        for row in rows
        if row.subject == Subject.SERVER
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _servers_in(room_id: RoomId) -> list[ServerName]:
    """Of versions whose IDs name one."""
    server = room_id.partition(":")[2]
    return [ServerName(server)] if server else []
