"""What the graph of a room may cost us: every bound has a name and a reason.

Peers choose the graph: how deep, how wide, with how many holes. Each field here is a setting of the
same name (`rooms.bounds`), so that an operator of large rooms can move it. What the specification
itself limits (PDUs of a transaction, bytes of an event, previous events) is no setting and is not
here. Where a bound is reached the log says `bound reached` and names it.
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.ids import EventId, RoomId
from bridge.telemetry.log import get_logger

log = get_logger("rooms")


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphBounds:
    """One record for the whole package; `DEFAULTS` is what a server starts with."""

    # --- what waits -------------------------------------------------------------------------

    waiting_per_origin: int = 2_000
    """PDUs of one server that are stored and not judged: beyond, its transactions are refused
    and it sends them again. A busy server's backlog after an outage fits; its flood does not."""
    waiting_per_room: int = 5_000
    """The same of one room, whoever sends: several servers that are down at the same time."""
    attempts: int = 12
    """How often a PDU is tried whose keys or parents cannot be had now. The pauses double up to
    an hour, so that a peer may be away for some hours."""

    # --- gaps -------------------------------------------------------------------------------

    gap_rounds: int = 60
    """Requests of `get_missing_events` for one received event: after an outage a Synapse sends
    only a room's newest event, gives 20 a time, and what was said meanwhile has to be fetched."""
    gap_events: int = 1_000
    """Events taken from all these rounds: parents without end stop here, and the state is asked
    for instead."""
    gap_requests: int = 200
    """Requests of every kind to one peer for what one received event rests on: each fetched event
    may name auth events and states of its own."""
    gap_state_requests: int = 10
    """Holes of one received event that are closed by asking for the state: each is as expensive
    as a join."""
    gap_peers: int = 3
    """Servers asked, one after the other, for what one event rests on: an event that nobody knows
    must not trouble everybody in the room."""
    gap_timeout_s: float = 300.0
    """One peer's part in closing one gap, however slowly it answers: the room's other events wait
    meanwhile. What was entered by then stays."""
    gap_at_once: int = 8
    """Gaps that are filled at one peer at the same time, over all rooms: one slow peer must not
    keep every worker waiting."""
    gap_rest: int = 10
    """A peer that failed to fill a gap is asked about no other for this many times as long as it
    took; one that did so is left alone for just as long. So a peer that dawdles costs the rooms
    that it is in a tenth of their time, not all of it."""

    # --- states and auth chains -------------------------------------------------------------

    state_events: int = 60_000
    """State events and their auth chain at one event, as a peer lists them: the largest rooms have
    some tens of thousands, and each is verified."""
    join_events: int = 200_000
    """The same in the answer to a join, which brings the largest rooms as a whole."""
    auth_chain_events: int = 10_000
    """The auth chain of a single event: all changes of power, and the memberships behind them."""
    auth_depth: int = 20
    """Rounds of fetching auth events of auth events one by one: what is missing is a few newest
    ones; a chain without end is nobody's room."""
    single_events: int = 20
    """Unknown events that are asked for one by one; more are asked for as a whole."""

    # --- forward extremities ----------------------------------------------------------------

    extremities: int = 20
    """Forward extremities kept where others have the same state: those let go change no state,
    and a peer that answers old events for ever cannot make every append slower."""
    extremity_states: int = 50
    """Different states beside each other, all of which an append resolves. Beyond it the server
    with the most of them loses its lowest: nobody pushes out what another server said. More than
    this many servers that change the state apart from each other are no outage."""
    prev_events: int = 10
    """Extremities that one event of ours joins. The room versions allow 20; each costs every
    server in the room a state to resolve."""
    append_attempts: int = 30
    """How often one append is planned anew because another process moved the room on. Each time
    somebody else's append went through; after that many a lane tries again later."""

    # --- the past ---------------------------------------------------------------------------

    past_events: int = 100
    """Events from before our join that are fetched: the most that anybody is shown on entering."""
    past_rounds: int = 4
    """Requests of `backfill` for these."""
    past_state_requests: int = 5
    """Holes in the past that are closed by asking for the state: it is only history."""
    past_timeout_s: float = 10.0
    """For all of it: the past is not worth a longer wait at the door."""

    # --- answers ----------------------------------------------------------------------------

    backfill_events: int = 100
    """Events given for one `backfill`: 100 of the largest are 6.5 MB."""
    missing_events: int = 50
    """Events given for one `get_missing_events`: one transaction's worth."""
    walk_events: int = 1_000
    """Events looked at for one walk back through the graph, whatever `limit` a peer asks for."""

    # --- storage and memory -----------------------------------------------------------------

    snapshot_hops: int = 60
    """Deltas between a stored state and the nearest full one: what loading one may cost."""
    cached_rooms: int = 500
    """Heads of rooms in memory. A room that is not is read from its rows."""
    cached_events: int = 5_000
    """Events in memory; auth chains of busy rooms are read again and again."""
    cached_snapshots: int = 1_000
    """States in memory. They share what they have in common."""


DEFAULTS = GraphBounds()


def note_reached(bound: str, *, room_id: RoomId, event_id: EventId | None = None) -> None:
    """Into the log: whoever wonders why something is missing finds the setting's name."""
    log.info("bound reached", bound=f"rooms.bounds.{bound}", room_id=room_id, event_id=event_id)
