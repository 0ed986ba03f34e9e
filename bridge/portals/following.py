"""Following an upgraded room to its successor: everybody of ours, and whatever the room was for.

A tombstone may be set by anybody with the power for it, and may name any room. So it is followed
in this order, and an interruption at any point begins at 1 again:

1. it is the room's current state, and does not lead in a circle;
2. one of ours enters the successor, through the server of whoever set it, then the room's others;
3. the successor's create event names the room as its predecessor; otherwise whoever entered
   leaves, nothing is moved, and the people in the room are told;
4. what was said in the room before has gone out;
5. everybody of ours who is in the room enters the successor, as far as it lets them;
6. the portals move, in one commit with what the chat side is told;
7. what was said in the successor meanwhile is carried; the move is finished.

A successor that cannot be entered now is tried again, and when somebody of ours is invited. Until
then the old room is bridged as before. Spec: C-S, room upgrades; MSC2346.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

from bridge.clock import Clock
from bridge.content.events import from_event
from bridge.content.model import Message
from bridge.errors import BadInput, NotFound, Refused, Unavailable
from bridge.ids import RoomId, ServerName, TraceId, UserId, server_of
from bridge.portals import bridge_info
from bridge.portals.chats import Chats
from bridge.portals.directory import Directory, direct_lane, room_lane
from bridge.portals.ghosts import Ghosts
from bridge.portals.moves import MAX_CHAIN, TOMBSTONE, FollowRoom, Moves, SayAgain, follow_lane
from bridge.portals.notices import Notices
from bridge.ports.chat import GuestEnter, GuestLeave, RoomMoved, RoomNotice
from bridge.ports.codec import from_json, to_tagged
from bridge.ports.matrix import MatrixBackend, RoomEvent
from bridge.storage import messages, queues
from bridge.storage import moves as move_rows
from bridge.storage import portals as portal_rows
from bridge.storage.database import Database, Transaction, Unit
from bridge.storage.moves import MOVED, REFUSED, Move
from bridge.storage.portals import (
    DIRECT,
    ENCRYPTED,
    FORMER,
    MANAGEMENT,
    OF_CHAT,
    SERVED,
    Portal,
)
from bridge.storage.queues import QueueItem
from bridge.telemetry.log import get_logger

log = get_logger(__name__)
MAX_SCOUTS = 5
"""Of ours who try to enter a successor first: where these may not, an invite is needed."""
MAX_VIA = 8
MAX_AGAIN = 50
MAX_TIMELINE = 1_000
SETTLE_S = 3.0
"""By then a server has made up its mind about what it was sent."""
MAX_PAST = 200
"""Events of the successor that are carried because they were there before us."""
RECENT_MS = 24 * 3600 * 1000
"""What was said in the successor longer before the tombstone is none of this: portals that stood
there have had it, and their queues may have forgotten that."""
POWER_LEVELS = "m.room.power_levels"
OF_TWO = (DIRECT, FORMER, ENCRYPTED)
WRONG_TEXT = (
    "This room says that it was replaced by {successor}, and that room does not say that it "
    "replaces this one. I stay here, and so does everything that I bridge."
)
WAITING_TEXT = (
    "This room was replaced by {successor}, and I cannot follow yet: {reason}. I go on trying. If "
    "one needs an invitation there, please invite those of this room who are not on Matrix."
)
GIVEN_UP_TEXT = (
    "This room was replaced by {successor}, and I could not follow: {reason}. I do not try any "
    "more."
)
LEFT_BEHIND_TEXT = (
    "This room was replaced by {successor}. What is written here is not carried to {whom} any "
    "more: please write there."
)
Carry = Callable[[RoomEvent], Awaitable[None]]


class _NotFollowed(Refused):
    """For good. `rule` is the decision in the journal."""


def is_follow(item: QueueItem) -> bool:
    return item.payload.get("kind") in (FollowRoom.__name__, SayAgain.__name__)


def _task(item: QueueItem) -> FollowRoom | SayAgain:
    if item.payload.get("kind") == SayAgain.__name__:
        return from_json(SayAgain, item.payload)
    return from_json(FollowRoom, item.payload)


class Following:
    """`deliver`, `on_parked` and `on_waiting` are the inbox's, for the rows of `is_follow`."""

    def __init__(
        self,
        *,
        database: Database,
        backend: MatrixBackend,
        directory: Directory,
        ghosts: Ghosts,
        notices: Notices,
        chats: Chats,
        moves: Moves,
        adapter: str,
        clock: Clock,
        carry: Carry,
    ) -> None:
        """`carry`: an event of the past goes to where its room's portals lead, once."""
        self._database = database
        self._backend = backend
        self._directory = directory
        self._ghosts = ghosts
        self._notices = notices
        self._chats = chats
        self._moves = moves
        self._adapter = adapter
        self._clock = clock
        self._carry = carry

    async def deliver(self, item: QueueItem) -> Unit[None]:
        task = _task(item)
        if isinstance(task, SayAgain):
            return await self._say_again(item, task)
        move = await self._moves.find(task.room_id)
        if move is None or move.successor != task.successor or move.status == MOVED:
            return self._noted(item, "superseded", task.successor)
        try:
            await self._check_current(task)
            with suppress(NotFound):  # if one of ours is in the successor, it can be told already
                await self._check_predecessor(task, move)
            await self._enter(task)
            await self._check_predecessor(task, move)
        except _NotFollowed as exc:
            log.warning(
                "an upgrade is not followed",
                room_id=task.room_id,
                successor=task.successor,
                rule=exc.rule,
                reason=exc.reason,
            )
            if exc.rule == "predecessor":
                await self._tell(task, WRONG_TEXT, "wrong", item.trace_id)
            return self._finish(item, task, REFUSED, exc.rule, exc.reason)
        await self._check_sent(task)
        for user_id in await self._ours(task.room_id):
            await self._bring(user_id, task)
        await self._move_portals(item, task)
        for event in await self._backend.timeline(task.successor, limit=MAX_PAST):
            is_old = event.origin_server_ts < move.seen_ms - RECENT_MS
            if event.state_key is None and not (is_old and event.position <= move.position):
                await self._carry(event)
        await self._moves.look(task.successor)  # it may have been replaced before we came
        log.info("an upgrade is followed", room_id=task.room_id, successor=task.successor)
        return self._finish(item, task, MOVED, "moved", f"{task.room_id} {task.successor}")

    # --- 1 to 3: whether ------------------------------------------------------------------------

    async def _check_current(self, task: FollowRoom) -> None:
        try:
            entries = await self._backend.state(task.room_id, TOMBSTONE)
        except NotFound as exc:
            raise _NotFollowed("we are not in the room any more", rule="not-in") from exc
        said = [one.content.get("replacement_room") for one in entries if one.state_key == ""]
        if said != [task.successor]:
            raise _NotFollowed("the room does not say so any more", rule="superseded")

        def unit(tx: Transaction) -> tuple[Sequence[RoomId], Sequence[Move]]:
            adapter = self._adapter
            return (
                move_rows.successors(tx, adapter=adapter, room_id=task.successor, most=MAX_CHAIN),
                move_rows.predecessors(tx, adapter=adapter, room_id=task.room_id, most=MAX_CHAIN),
            )

        led, before = await self._database.read(unit)
        if task.room_id in led or any(one.room_id == task.successor for one in before):
            raise _NotFollowed("the rooms replace each other in a circle", rule="circle")
        if len(before) + len(led) >= MAX_CHAIN:
            raise _NotFollowed("it was replaced too often", rule="chain")

    async def _enter(self, task: FollowRoom) -> None:
        """One of ours is in the successor, or comes in. Unavailable: nobody may, for now."""
        ours = await self._ours(task.room_id)
        if not ours:
            raise _NotFollowed("nobody of ours is in the room", rule="not-in")
        invited = []
        for user_id in ours:
            member = await self._backend.member(task.successor, user_id)
            if member is not None and member.membership == "join":
                return
            if member is not None and member.membership == "invite":
                invited.append(user_id)
        problem: Refused | NotFound | BadInput | Unavailable | None = None
        via = await self._via(task)
        for user_id in list(dict.fromkeys([*invited, *ours]))[:MAX_SCOUTS]:
            try:
                await self._backend.join(user_id=user_id, room_id=task.successor, via=via)
            except (Refused, NotFound, BadInput, Unavailable) as exc:
                problem = exc
            else:
                return
        reason = "nobody may enter" if problem is None else problem.reason
        raise Unavailable(f"{task.successor} cannot be entered: {reason}")

    async def _ours(self, room_id: RoomId) -> Sequence[UserId]:
        """Who of us is in a room, the bot first."""
        own, bot = self._backend.server_name, self._backend.bot
        try:
            members = await self._backend.members(room_id)
        except NotFound:
            return []
        found = [one.user_id for one in members if server_of(one.user_id) == own]
        return sorted(found, key=lambda user_id: user_id != bot)

    async def _via(self, task: FollowRoom) -> list[ServerName]:
        members = await self._backend.members(task.room_id)
        servers = [server_of(task.sender), *(server_of(one.user_id) for one in members)]
        own = self._backend.server_name
        return [one for one in dict.fromkeys(servers) if one != own][:MAX_VIA]

    async def _check_predecessor(self, task: FollowRoom, move: Move) -> None:
        """Whoever came to look leaves a room that is none of theirs; whoever was there stays."""
        if await self._moves.replaces(task.successor) == task.room_id:
            return
        if not await self._directory.of_room(task.successor):
            ours = set(await self._ours(task.room_id)) & set(await self._ours(task.successor))
            for user_id in sorted(ours & await self._came_after(move)):
                await self._directory.leave(user_id=user_id, room_id=task.successor)
        raise _NotFollowed(
            f"{task.successor} does not name it as its predecessor", rule="predecessor"
        )

    async def _came_after(self, move: Move) -> set[str]:
        """Who entered the successor after the tombstone was there."""
        return {
            event.state_key
            for event in await self._backend.timeline(move.successor, limit=MAX_PAST)
            if event.type == "m.room.member"
            and event.state_key is not None
            and event.position > move.position
            and event.previous_membership != "join"
        }

    # --- 4 to 6: everybody ----------------------------------------------------------------------

    async def _check_sent(self, task: FollowRoom) -> None:
        """The old room's lane is at its end: what comes next there would be out of order."""
        lane = room_lane(self._adapter, task.room_id)
        waiting = await self._database.read(
            lambda tx: queues.waiting_in_lane(tx, queues.OUTBOX, lane, limit=1)
        )
        if waiting:
            raise Unavailable("what was said before is still on its way", retry_after_s=0.2)

    async def _bring(self, user_id: UserId, task: FollowRoom) -> None:
        """One of ours comes along; where that needs an invite the bot gives one, if it may."""
        room_id, bot = task.successor, self._backend.bot
        member = await self._backend.member(room_id, user_id)
        if member is not None and member.membership in ("join", "ban"):
            return
        via = [server_of(task.sender)]
        try:
            await self._backend.join(user_id=user_id, room_id=room_id, via=via)
        except (Refused, NotFound, BadInput) as exc:
            reason = exc.reason
        else:
            return
        try:
            power = await self._backend.power(room_id)
            inviter = await self._backend.member(room_id, bot)
            if inviter is not None and inviter.membership == "join" and power.may(bot, "invite"):
                number = self._chats.new_number()
                await self._backend.invite(
                    room_id=room_id,
                    sender=bot,
                    target=user_id,
                    txn=f"{self._database.epoch}.follow.{number}",
                )
                await self._backend.join(user_id=user_id, room_id=room_id, via=via)
                return
        except (Refused, NotFound, BadInput) as exc:
            reason = exc.reason
        log.info("one of ours stays behind", room_id=room_id, user_id=user_id, reason=reason)

    async def _move_portals(self, item: QueueItem, task: FollowRoom) -> None:
        for portal in await self._directory.of_room(task.room_id):
            if portal.kind in OF_CHAT:
                async with self._chats.holding(portal.chat):
                    current = await self._chats.find(portal.chat)
                    if current is not None and current.room_id == task.room_id:
                        await self._move_chat(item, task, current)
            elif portal.kind == SERVED:
                await self._move_served(item, task, portal)
            elif portal.kind in OF_TWO:
                await self._move_direct(task, portal)
            elif portal.kind == MANAGEMENT:
                await self._write_move(task, portal)

    async def _write_move(
        self, task: FollowRoom, portal: Portal, also: Unit[None] | None = None
    ) -> None:
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> None:
            portal_rows.move(tx, portal, task.successor, now_ms=now_ms)
            if also is not None:
                also(tx)

        await self._database.write(unit)

    async def _move_served(self, item: QueueItem, task: FollowRoom, portal: Portal) -> None:
        moved = RoomMoved(
            room_id=task.successor,
            replaces=task.room_id,
            alias=task.alias,
            at_ms=self._clock.now_ms(),
        )
        await self._write_move(
            task,
            portal,
            lambda tx: self._put_for_room(
                tx, task.successor, moved, f"moved/{task.room_id}/{task.successor}", item.trace_id
            ),
        )

    def _put_for_room(
        self,
        tx: Transaction,
        room_id: RoomId,
        delivery: RoomMoved | RoomNotice,
        cause: str,
        trace: TraceId,
    ) -> None:
        queues.put_outbox(
            tx,
            lane=room_lane(self._adapter, room_id),
            adapter=self._adapter,
            cause=cause,
            payload=to_tagged(delivery),
            trace_id=trace,
            now_ms=self._clock.now_ms(),
        )

    async def _move_direct(self, task: FollowRoom, portal: Portal) -> None:
        """A chat of two moves when its ghost is in the successor."""
        ghost = self._ghosts.user_of(portal.chat)
        member = await self._backend.member(task.successor, ghost)
        if member is None or member.membership != "join":
            raise Unavailable(f"{ghost} is not invited to {task.successor}")
        lane = direct_lane(portal.adapter, portal.chat, portal.user_id)
        now_ms = self._clock.now_ms()
        await self._write_move(
            task, portal, lambda tx: queues.hasten(tx, queues.INBOX, lane, now_ms=now_ms)
        )

    async def _move_chat(self, item: QueueItem, task: FollowRoom, portal: Portal) -> None:
        """Guests of the chat stay in it while they are in either room; whoever is in the successor
        already is a guest, too."""
        people = await self._chats.guests_in(task.successor, portal.chat)
        await self._show_bridge(task, portal)
        now_ms = self._clock.now_ms()

        def also(tx: Transaction) -> None:
            for member in people.values():
                guest = GuestEnter(
                    chat=portal.chat, user_id=member.user_id, displayname=member.displayname
                )
                self._chats.put(
                    tx,
                    guest,
                    cause=f"moved/{task.successor}/{portal.chat}/{member.user_id}",
                    trace=item.trace_id,
                    now_ms=now_ms,
                )

        await self._write_move(task, portal, also)

    async def _show_bridge(self, task: FollowRoom, portal: Portal) -> None:
        """The successor says what it is bridged to, as far as the bot may write that."""
        key = bridge_info.state_key(self._adapter, portal.chat)
        power = await self._backend.power(task.successor)
        for kind in bridge_info.TYPES:
            said = await self._backend.state(task.room_id, kind)
            info = next((one.content for one in said if one.state_key == key), None)
            if not info or not power.may(self._backend.bot, f"state:{kind}"):
                continue
            try:
                await self._backend.send(
                    room_id=task.successor,
                    sender=self._backend.bot,
                    type=kind,
                    state_key=key,
                    content=info,
                    txn=f"{self._database.epoch}.bridge.{task.successor}.{kind}",
                    trace=TraceId(self._chats.new_number()),
                )
            except (Refused, NotFound) as exc:
                log.info("bridge info missing", room_id=task.successor, reason=exc.reason)

    def _finish(
        self, item: QueueItem, task: FollowRoom, status: str, decision: str, detail: str
    ) -> Unit[None]:
        now_ms = self._clock.now_ms()

        def unit(tx: Transaction) -> None:
            move_rows.finish(
                tx,
                adapter=self._adapter,
                room_id=task.room_id,
                successor=task.successor,
                status=status,
                now_ms=now_ms,
            )
            self._moves.journal(tx, item.trace_id, decision, detail)
            # What was said for the room meanwhile waits for this.
            lane = room_lane(self._adapter, task.room_id)
            queues.hasten(tx, queues.INBOX, lane, now_ms=now_ms)

        return unit

    def _noted(self, item: QueueItem, decision: str, detail: str) -> Unit[None]:
        return lambda tx: self._moves.journal(tx, item.trace_id, decision, detail)

    # --- words ----------------------------------------------------------------------------------

    async def on_waiting(self, item: QueueItem) -> None:
        task = _task(item)
        if isinstance(task, SayAgain):
            return
        reason = item.reason or "not yet"
        await self._tell(task, WAITING_TEXT, "waiting", item.trace_id, reason=reason)

    async def on_parked(self, item: QueueItem, reason: str) -> Unit[None]:
        task = _task(item)
        if isinstance(task, SayAgain):
            return self._noted(item, "not said again", reason)
        await self._tell(task, GIVEN_UP_TEXT, "given-up", item.trace_id, reason=reason)
        return self._finish(item, task, REFUSED, "given up", reason)

    async def _tell(
        self, task: FollowRoom, text: str, cause: str, trace: TraceId, *, reason: str = ""
    ) -> None:
        """People on both sides of the old room."""
        text = text.format(successor=task.successor, reason=reason.rstrip("."))
        key = f"follow/{cause}/{task.room_id}/{task.successor}"
        await self._say(task.room_id, text, key, trace)
        for portal in await self._directory.of_room(task.room_id):
            if portal.kind == SERVED:
                notice = RoomNotice(room_id=task.room_id, text=text)
                await self._database.write(
                    partial(
                        self._put_for_room,
                        room_id=task.room_id,
                        delivery=notice,
                        cause=f"{key}/served",
                        trace=trace,
                    )
                )
            elif portal.kind in (DIRECT, FORMER):
                await self._notices.tell_address(
                    address=portal.chat,
                    text=f"About your chat with {portal.user_id}: {text}",
                    cause=f"{key}/{portal.chat}",
                    trace=trace,
                )

    async def _say(self, room_id: RoomId, text: str, cause: str, trace: TraceId) -> bool:
        """By the bot, or in a chat of two by its ghost; nobody else is given our words."""
        ours = set(await self._ours(room_id))
        speakers = [self._backend.bot]
        for portal in await self._directory.of_room(room_id):
            if portal.kind in OF_TWO:
                speakers.append(self._ghosts.user_of(portal.chat))
        for user_id in speakers:
            if user_id in ours and await self._notices.tell_room(
                room_id=room_id, sender=user_id, text=text, cause=cause, trace=trace
            ):
                return True
        return False

    # --- what still happens in a room that was left behind ----------------------------------------

    async def on_left_behind(self, event: RoomEvent, move: Move) -> None:
        if event.type == "m.room.member" and event.state_key is not None:
            if event.content.get("membership") in ("leave", "ban"):
                await self._on_guest_gone(event, UserId(event.state_key))
            return
        if event.type == POWER_LEVELS and event.state_key == "" and not event.own:
            await self._on_silence(event)
            return
        if event.own or event.state_key is not None or event.redacted:
            return
        outcome = from_event(event.type, event.content, extensible=event.extensible)
        if not isinstance(outcome, Message) or outcome.kind == "notice":
            return
        last = await self._moves.room_to_write(move.successor)
        portals = await self._directory.of_room(last)
        if not portals:
            return
        await self._moves.note(event.trace_id, "left-behind", event.event_id)
        text = LEFT_BEHIND_TEXT.format(
            successor=await self._moves.name(last), whom=_whom(portals[0])
        )
        # Rather where the others are: what we said in the old room would hide from us what its
        # servers still show (`_say_again`).
        name = f"{event.sender}, about what you wrote in the room before this one: "
        words = {last: name + text, event.room_id: text}
        member = await self._backend.member(last, event.sender)
        is_there = member is not None and member.membership == "join"
        for room_id in words if is_there else reversed(words):
            if await self._say(
                room_id, words[room_id], f"left-behind/{event.event_id}", event.trace_id
            ):
                return

    async def _on_silence(self, silence: RoomEvent) -> None:
        """The old room is closed by new power levels. What we said there before we knew may reach
        servers that show nothing more of whoever has no power now: they are asked, a little later.
        Spec: S2S, soft failure."""
        room_id = silence.room_id
        power = await self._backend.power(room_id)
        said = [
            event.event_id
            for event in await self._backend.timeline(
                room_id, limit=MAX_PAST, before=silence.position
            )
            if event.own
            and event.state_key is None
            and not event.redacted
            and not self._notices.is_notice(event.transaction_id)
            and not power.may(event.sender, f"event:{event.type}")
        ]
        if not said:
            return
        task = SayAgain(
            room_id=room_id, server=server_of(silence.sender), event_ids=tuple(said[-MAX_AGAIN:])
        )
        now_ms = self._clock.now_ms()
        await self._database.write(
            lambda tx: queues.put_inbox(
                tx,
                lane=follow_lane(self._adapter, room_id),
                adapter=self._adapter,
                source=f"{self._adapter}:follow",
                source_id=f"again/{silence.event_id}",
                payload=to_tagged(task),
                trace_id=silence.trace_id,
                now_ms=now_ms,
            )
        )

    async def _say_again(self, item: QueueItem, task: SayAgain) -> Unit[None]:
        """In the successor, once; it may stand behind what is newer."""
        age_s = (self._clock.now_ms() - item.created_ms) / 1000
        if age_s < SETTLE_S:
            raise Unavailable("it may be on its way", retry_after_s=SETTLE_S - age_s)
        said = {
            event.event_id: event
            for event in await self._backend.timeline(task.room_id, limit=MAX_TIMELINE)
            if event.event_id in task.event_ids
        }
        taken = await self._database.read(
            lambda tx: [one for one in said if messages.is_accepted(tx, one)]
        )
        if len(taken) < len(said):
            raise Unavailable("not all that was said there is at their server yet")
        if not said:
            return self._noted(item, "nothing to say again", task.room_id)
        unseen = await self._backend.unseen_at(
            task.server,
            room_id=task.room_id,
            user_id=next(iter(said.values())).sender,
            candidates=list(said),
        )
        last = await self._moves.room_to_write(task.room_id)
        for event_id in unseen:
            await self._notices.say_again(said[event_id], room_id=last)
        return self._noted(item, "said again", " ".join(unseen))

    async def _on_guest_gone(self, event: RoomEvent, user_id: UserId) -> None:
        """Whoever leaves the old room and has never come to the new one is no guest any more."""
        last = await self._moves.room_to_write(event.room_id)
        member = await self._backend.member(last, user_id)
        if member is not None and member.membership == "join":
            return
        if not self._ghosts.is_person(user_id):
            return
        for portal in await self._directory.of_room(last):
            if portal.kind not in OF_CHAT:
                continue
            gone = GuestLeave(chat=portal.chat, user_id=user_id, reason=None)
            await self._database.write(partial(self._put_guest_gone, event=event, gone=gone))

    def _put_guest_gone(self, tx: Transaction, event: RoomEvent, gone: GuestLeave) -> None:
        self._chats.put(
            tx,
            gone,
            cause=f"{event.event_id}/chat/{gone.chat}",
            trace=event.trace_id,
            now_ms=self._clock.now_ms(),
        )


def _whom(portal: Portal) -> str:
    if portal.kind in (*OF_TWO, *OF_CHAT):
        return portal.chat
    return "those who are not on Matrix"
