"""The command table as XEP-0050 commands: all of it at the bot, on a room's address what makes
sense there.

Without arguments a command is done in one step; with arguments a form asks for them first. The
session of a form belongs to the client that began it. The answer is a note, and where it has
several lines a form of type result, too.
Spec: XEP-0050, 2, 3 and 4; XEP-0004, 3; XEP-0030, 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import outbound
from bridge.adapters.xmpp.inbound import Stanza
from bridge.adapters.xmpp.jid import Jid
from bridge.adapters.xmpp.namespaces import (
    COMMANDS,
    COMPONENT,
    DATA_FORMS,
    DISCO_INFO,
    DISCO_ITEMS,
    add,
)
from bridge.adapters.xmpp.xmltext import xml_text
from bridge.clock import Clock
from bridge.errors import BadInput
from bridge.ports.command import Argument, Caller, CommandInfo, CommandTable, Outcome

MAX_SESSIONS: Final = 500
MAX_SESSIONS_OF_ONE: Final = 10
SESSION_MS: Final = 600_000
MAX_VALUE: Final = 2000
_TIMEOUT_S: Final = 120
_ACTIONS: Final = ("cancel", "complete", "execute", "next")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """A form that somebody is filling in."""

    owner: Jid
    where: Jid
    node: str
    until_ms: int


class AdHoc:
    """`new_id` makes session IDs that cannot be guessed."""

    def __init__(self, *, table: CommandTable, clock: Clock, new_id: Callable[[], str]) -> None:
        self._table = table
        self._clock = clock
        self._new_id = new_id
        self._sessions: dict[str, _Session] = {}

    # --- discovery ------------------------------------------------------------------------------

    def listing(self, request: Stanza, caller: Caller, *, in_room: bool) -> ET.Element:
        """The answer to disco#items on the node of commands: what the caller may use here."""
        answer = outbound.result_of(request)
        query = add(answer, DISCO_ITEMS, "query")
        query.set("node", COMMANDS)
        for info in self._offered(caller, in_room):
            item = add(query, DISCO_ITEMS, "item")
            item.set("jid", str(request.to.bare))
            item.set("node", info.name)
            item.set("name", xml_text(info.summary))
        return answer

    def describe(self, request: Stanza, node: str, caller: Caller, *, in_room: bool) -> ET.Element:
        """The answer to disco#info on the node of commands, or on one of them."""
        if node == COMMANDS:
            return _node_info(request, node, "command-list", "Commands")
        info = next((one for one in self._offered(caller, in_room) if one.name == node), None)
        if info is None:
            return outbound.error_for(request, "item-not-found")
        return _node_info(request, node, "command-node", info.summary)

    def _offered(self, caller: Caller, in_room: bool) -> Sequence[CommandInfo]:
        return [info for info in self._table.commands_of(caller) if info.in_room or not in_room]

    # --- running --------------------------------------------------------------------------------

    async def execute(self, request: Stanza, caller: Caller) -> ET.Element:
        """Carries out what the stanza asks for: begins, goes on with or ends one command."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await self._execute(request, caller)
        except TimeoutError:
            return outbound.error_for(request, "remote-server-timeout", "It takes too long.")

    async def _execute(self, request: Stanza, caller: Caller) -> ET.Element:
        command = request.find(COMMANDS, "command")
        if command is None or not command.get("node"):
            return outbound.error_for(request, "bad-request", "Which command?")
        in_room = caller.room_id is not None
        node, action = command.get("node", ""), command.get("action", "execute")
        info = next((one for one in self._offered(caller, in_room) if one.name == node), None)
        if info is None:
            return self._deny(request, node, caller)
        if action not in _ACTIONS:
            word = "bad-action" if action == "prev" else "malformed-action"
            return _bad_request(request, word, "There is no such step.")
        session_id = command.get("sessionid")
        if session_id is not None:
            flaw = self._resume(request, session_id, node)
            if flaw is not None:
                return flaw
        if action == "cancel":
            self._sessions.pop(session_id or "", None)
            return _answer(request, node, session_id or self._new_id(), "canceled")
        if not info.arguments or in_room:
            return await self._finish(request, node, session_id or self._new_id(), caller, node)
        if session_id is None:
            return self._ask(request, info, self._begin(request, node))
        return await self._fill_in(request, command, info, session_id, caller)

    def _deny(self, request: Stanza, node: str, caller: Caller) -> ET.Element:
        in_room = caller.room_id is not None
        known = [one.name for one in self._table.commands() if one.in_room or not in_room]
        if node in known:
            return outbound.error_for(request, "forbidden", f"You may not use {node}.")
        return outbound.error_for(request, "item-not-found", "There is no such command here.")

    async def _fill_in(
        self, request: Stanza, command: ET.Element, info: CommandInfo, session: str, caller: Caller
    ) -> ET.Element:
        form = command.find(f"{{{DATA_FORMS}}}x")
        if form is None or form.get("type") != "submit":
            return _bad_request(request, "bad-payload", "The form is missing.")
        values = _values(form)
        try:
            line = _line(info, values)
        except BadInput as exc:
            return self._ask(request, info, session, values=values, flaw=exc.reason)
        del self._sessions[session]
        return await self._finish(request, info.name, session, caller, line)

    async def _finish(
        self, request: Stanza, node: str, session: str, caller: Caller, line: str
    ) -> ET.Element:
        said = await self._table.answer(caller, line)
        answer = _answer(request, node, session, "completed")
        kind = "info" if said.outcome is Outcome.DONE else "error"
        add(answer[0], COMMANDS, "note", xml_text(said.text)).set("type", kind)
        lines = said.text.splitlines()
        if len(lines) > 1:
            _add_lines(answer[0], lines)
        return answer

    def _ask(
        self,
        request: Stanza,
        info: CommandInfo,
        session: str,
        *,
        values: Mapping[str, str] | None = None,
        flaw: str | None = None,
    ) -> ET.Element:
        answer = _answer(request, info.name, session, "executing")
        actions = add(answer[0], COMMANDS, "actions")
        actions.set("execute", "complete")
        add(actions, COMMANDS, "complete")
        if flaw is not None:
            add(answer[0], COMMANDS, "note", xml_text(flaw)).set("type", "error")
        form = add(answer[0], DATA_FORMS, "x")
        form.set("type", "form")
        add(form, DATA_FORMS, "title", xml_text(info.name))
        add(form, DATA_FORMS, "instructions", xml_text(info.summary))
        for argument in info.arguments:
            _add_field(form, argument, (values or {}).get(argument.name, ""))
        return answer

    # --- sessions -------------------------------------------------------------------------------

    def _begin(self, request: Stanza, node: str) -> str:
        own = [key for key, one in self._sessions.items() if one.owner == request.sender]
        for key in own[: len(own) - MAX_SESSIONS_OF_ONE + 1]:
            del self._sessions[key]
        while len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        session_id = self._new_id()
        self._sessions[session_id] = _Session(
            owner=request.sender,
            where=request.to.bare,
            node=node,
            until_ms=self._clock.now_ms() + SESSION_MS,
        )
        return session_id

    def _resume(self, request: Stanza, session_id: str, node: str) -> ET.Element | None:
        """The error, where the session is not this client's, or not any more."""
        session = self._sessions.get(session_id)
        asked = (request.sender, request.to.bare, node)
        if session is None or (session.owner, session.where, session.node) != asked:
            return _bad_request(request, "bad-sessionid", "Please begin anew.")
        if session.until_ms <= self._clock.now_ms():
            del self._sessions[session_id]
            answer = outbound.error_for(request, "not-allowed", "Please begin anew.")
            return _with_condition(answer, "session-expired")
        return None


def _line(info: CommandInfo, values: Mapping[str, str]) -> str:
    """What somebody would have written. BadInput, in words, where that is not possible."""
    words = [info.name]
    left_out = None
    for argument in info.arguments:
        value = " ".join(values.get(argument.name, "").split())
        if len(value) > MAX_VALUE:
            raise BadInput(f"{argument.name} is too long")
        if not value:
            if argument.required:
                raise BadInput(f"{argument.name} is needed: {argument.summary}")
            left_out = left_out or argument.name
            continue
        if left_out is not None:
            raise BadInput(f"with {argument.name}, {left_out} is needed, too")
        if " " in value and not argument.rest:
            raise BadInput(f"{argument.name} is one word, without blanks")
        words.append(value)
    return " ".join(words)


def _values(form: ET.Element) -> dict[str, str]:
    return {
        field.get("var", ""): field.findtext(f"{{{DATA_FORMS}}}value") or ""
        for field in form.iterfind(f"{{{DATA_FORMS}}}field")
    }


def _answer(request: Stanza, node: str, session: str, status: str) -> ET.Element:
    answer = outbound.result_of(request)
    command = add(answer, COMMANDS, "command")
    command.set("node", node)
    command.set("sessionid", xml_text(session))
    command.set("status", status)
    return answer


def _add_field(form: ET.Element, argument: Argument, value: str) -> None:
    field = add(form, DATA_FORMS, "field")
    field.set("var", argument.name)
    field.set("type", "text-single")
    field.set("label", xml_text(f"{argument.name}: {argument.summary}"))
    if argument.required:
        add(field, DATA_FORMS, "required")
    if value:
        add(field, DATA_FORMS, "value", xml_text(value[:MAX_VALUE]))


def _add_lines(command: ET.Element, lines: Sequence[str]) -> None:
    form = add(command, DATA_FORMS, "x")
    form.set("type", "result")
    field = add(form, DATA_FORMS, "field")
    field.set("var", "answer")
    field.set("type", "text-multi")
    for line in lines:
        add(field, DATA_FORMS, "value", xml_text(line))


def _node_info(request: Stanza, node: str, type: str, name: str) -> ET.Element:
    answer = outbound.result_of(request)
    query = add(answer, DISCO_INFO, "query")
    query.set("node", node)
    identity = add(query, DISCO_INFO, "identity")
    identity.set("category", "automation")
    identity.set("type", type)
    identity.set("name", xml_text(name))
    for feature in (COMMANDS, DATA_FORMS) if type == "command-node" else (DISCO_ITEMS,):
        add(query, DISCO_INFO, "feature").set("var", feature)
    return answer


def _bad_request(request: Stanza, condition: str, text: str) -> ET.Element:
    return _with_condition(outbound.error_for(request, "bad-request", text), condition)


def _with_condition(answer: ET.Element, condition: str) -> ET.Element:
    error = answer.find(f"{{{COMPONENT}}}error")
    if error is not None:
        add(error, COMMANDS, condition)
    return answer
