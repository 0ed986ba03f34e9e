"""How we stand with another server, in an operator's words."""

from __future__ import annotations

from bridge.bot.words import count_of, first_of, to_time
from bridge.clock import Clock
from bridge.ids import ServerName, parse_server_name
from bridge.policy.house import House
from bridge.storage import peers
from bridge.storage import rooms as room_rows
from bridge.storage.database import Database, Transaction
from bridge.storage.peers import Backlog, PeerState

SHOWN = 10
MAX_COUNTED = 1_000


class PeerDesk:
    """Fills `bot.context.Peers`."""

    def __init__(self, *, database: Database, clock: Clock, house: House) -> None:
        self._database = database
        self._clock = clock
        self._house = house

    async def describe(self, typed: str) -> str:
        """Raises BadInput for what is no server's name."""
        server = parse_server_name(typed.strip())

        def unit(tx: Transaction) -> tuple[PeerState, list[Backlog], int]:
            return (
                peers.state(tx, server),
                list(peers.backlog(tx, server, MAX_COUNTED)),
                room_rows.count_shared(tx, server),
            )

        state, behind, shared = await self._database.read(unit)
        lines = [f"{server}: {count_of(shared, 'room')} shared."]
        lines.append(self._reached(state, shared))
        if behind:
            rooms = first_of([one.room_id for one in behind], SHOWN)
            lines.append(f"What waits for it: events in {count_of(len(behind), 'room')} ({rooms}).")
        else:
            lines.append("Nothing waits for it.")
        lines.extend(self._rules(server))
        return "\n".join(lines)

    def _reached(self, state: PeerState, shared: int) -> str:
        last = state.last_success_ms
        success = "" if last is None else f" It took something from us at {to_time(last)}."
        if not state.failures:
            if last is None:
                return "Nothing was sent to it yet." if shared else "I have not met it."
            return f"It answers.{success}"
        when = (
            "is due now"
            if state.next_attempt_ms <= self._clock.now_ms()
            else f"is at {to_time(state.next_attempt_ms)}"
        )
        tries = count_of(state.failures, "time")
        return (
            f"It could not be reached {tries} in a row, at last: {state.last_error}. "
            f"The next try {when}.{success}"
        )

    def _rules(self, server: ServerName) -> list[str]:
        rules = self._house.table.about_server(server)
        if not rules:
            return ["No rule names it."]
        return [f"Rule {rule.rule_id}: {rule} (from {rule.source})" for rule in rules[:SHOWN]]
