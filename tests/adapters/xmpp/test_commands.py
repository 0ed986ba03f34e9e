"""The command table as XEP-0050 commands, stanzas in and out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from xml.etree import ElementTree as ET

import pytest

from bridge.adapters.xmpp import commands as commands_module
from bridge.adapters.xmpp.commands import SESSION_MS, AdHoc
from bridge.ids import RoomId, UserId
from bridge.ports.command import Answer, Argument, Caller, CommandInfo, Outcome
from tests.support.clock import FakeClock, settle
from tests.support.wire import incoming

NS = "{http://jabber.org/protocol/commands}"
FORM = "{jabber:x:data}"
ROMEO = Caller(user_id=UserId("@romeo=40a.test:gw.test"))
IN_ROOM = Caller(user_id=ROMEO.user_id, room_id=RoomId("!garden:m.example"))
COMMANDS = (
    CommandInfo(name="help", usage="help", summary="what I can do", in_room=False),
    CommandInfo(name="leave", usage="leave [ROOM]", summary="leave a room", in_room=True),
    CommandInfo(
        name="plumb",
        usage="plumb ROOM CHAT [REASON]",
        summary="join two",
        in_room=False,
        arguments=(
            Argument(name="ROOM", summary="a Matrix room", required=True),
            Argument(name="CHAT", summary="a MUC"),
            Argument(name="REASON", summary="why", rest=True),
        ),
    ),
    CommandInfo(name="drop", usage="drop", summary="for admins", in_room=False),
)


class Table:
    """Everybody may use all but `drop`."""

    def __init__(self) -> None:
        self.called: list[tuple[Caller, str]] = []
        self.text, self.outcome = "Done.", Outcome.DONE
        self.gate = asyncio.Event()
        self.gate.set()

    def commands(self) -> Sequence[CommandInfo]:
        return COMMANDS

    def commands_of(self, caller: Caller) -> Sequence[CommandInfo]:
        return COMMANDS[:3]

    async def answer(self, caller: Caller, line: str) -> Answer:
        await self.gate.wait()
        self.called.append((caller, line))
        return Answer(outcome=self.outcome, text=self.text)

    async def greet(self, caller: Caller) -> str:
        return "Hello."


class Face:
    def __init__(self, clock: FakeClock) -> None:
        self.table = Table()
        self.made = 0
        self.commands = AdHoc(table=self.table, clock=clock, new_id=self._new_id)

    def _new_id(self) -> str:
        self.made += 1
        return f"session{self.made}"

    async def run(
        self,
        attributes: str,
        inner: str = "",
        *,
        caller: Caller = ROMEO,
        sender: str = "romeo@a.test/phone",
    ) -> ET.Element:
        stanza = incoming(
            f"<iq type='set' id='1' from='{sender}' to='isthmus@gw.test'>"
            f"<command xmlns='http://jabber.org/protocol/commands' {attributes}>{inner}</command>"
            "</iq>"
        )
        answer = await self.commands.execute(stanza, caller)
        assert (answer.get("to"), answer.get("from")) == (sender, "isthmus@gw.test")
        return answer

    async def submit(self, session: str, values: dict[str, str], more: str = "") -> ET.Element:
        fields = "".join(
            f"<field var='{name}'><value>{value}</value></field>" for name, value in values.items()
        )
        return await self.run(
            f"node='plumb' sessionid='{session}' {more}",
            f"<x xmlns='jabber:x:data' type='submit'>{fields}</x>",
        )


@pytest.fixture
def face(clock: FakeClock) -> Face:
    return Face(clock)


def state(answer: ET.Element) -> tuple[str | None, str | None, list[tuple[str | None, str | None]]]:
    """Status, session and notes."""
    command = answer[0]
    notes = [(note.get("type"), note.text) for note in command.iterfind(f"{NS}note")]
    return command.get("status"), command.get("sessionid"), notes


def conditions(answer: ET.Element) -> list[str]:
    assert answer.get("type") == "error"
    return [node.tag.rpartition("}")[2] for node in answer[0] if not node.tag.endswith("}text")]


def listed(face: Face, *, in_room: bool) -> list[str | None]:
    request = incoming(
        "<iq type='get' id='1' from='romeo@a.test/phone' to='isthmus@gw.test'>"
        "<query xmlns='http://jabber.org/protocol/disco#items'"
        " node='http://jabber.org/protocol/commands'/></iq>"
    )
    return [item.get("node") for item in face.commands.listing(request, ROMEO, in_room=in_room)[0]]


def described(face: Face, node: str, *, in_room: bool = False) -> ET.Element:
    request = incoming(
        "<iq type='get' id='1' from='romeo@a.test/phone' to='isthmus@gw.test'>"
        f"<query xmlns='http://jabber.org/protocol/disco#info' node='{node}'/></iq>"
    )
    return face.commands.describe(request, node, ROMEO, in_room=in_room)


def test_only_what_somebody_may_use_is_listed(face: Face) -> None:
    assert listed(face, in_room=False) == ["help", "leave", "plumb"]


def test_on_a_room_only_what_makes_sense_there_is_listed(face: Face) -> None:
    assert listed(face, in_room=True) == ["leave"]


def test_a_node_says_that_it_is_a_command(face: Face) -> None:
    identity, *features = described(face, "plumb")[0]
    assert (identity.get("category"), identity.get("type")) == ("automation", "command-node")
    assert {feature.get("var") for feature in features} == {
        "http://jabber.org/protocol/commands",
        "jabber:x:data",
    }
    listing = described(face, "http://jabber.org/protocol/commands")
    assert listing[0][0].get("type") == "command-list"
    assert conditions(described(face, "drop")) == ["item-not-found"]
    assert conditions(described(face, "help", in_room=True)) == ["item-not-found"]


async def test_a_command_without_arguments_is_done_at_once(face: Face) -> None:
    answer = await face.run("node='help'")
    assert state(answer) == ("completed", "session1", [("info", "Done.")])
    assert answer.find(f".//{FORM}x") is None
    assert face.table.called == [(ROMEO, "help")]


async def test_what_did_not_work_is_an_error_in_the_answer(face: Face) -> None:
    face.table.text, face.table.outcome = "That did not work.", Outcome.FAILED
    answer = await face.run("node='help'")
    assert state(answer) == ("completed", "session1", [("error", "That did not work.")])


async def test_an_answer_of_several_lines_is_a_form_of_lines_too(face: Face) -> None:
    face.table.text = "one\ntwo"
    answer = await face.run("node='help' action='execute'")
    assert state(answer)[2] == [("info", "one\ntwo")]
    form = answer.find(f".//{FORM}x")
    assert form is not None
    assert form.get("type") == "result"
    assert [value.text for value in form.iter(f"{FORM}value")] == ["one", "two"]


async def test_a_command_with_arguments_asks_for_them_and_runs_with_them(face: Face) -> None:
    asked = await face.run("node='plumb'")
    assert state(asked) == ("executing", "session1", [])
    actions = asked[0].find(f"{NS}actions")
    assert actions is not None
    assert (actions.get("execute"), actions[0].tag) == ("complete", f"{NS}complete")
    form = asked.find(f".//{FORM}x")
    assert form is not None
    assert form.get("type") == "form"
    fields = form.findall(f"{FORM}field")
    assert [(f.get("var"), f.get("type")) for f in fields] == [
        ("ROOM", "text-single"),
        ("CHAT", "text-single"),
        ("REASON", "text-single"),
    ]
    required = [f.get("var") for f in fields if f.find(f"{FORM}required") is not None]
    assert required == ["ROOM"]
    assert face.table.called == []

    values = {"ROOM": " #a:b ", "CHAT": "c@d", "REASON": "because  of tea"}
    done = await face.submit("session1", values, "action='complete'")
    assert state(done) == ("completed", "session1", [("info", "Done.")])
    assert face.table.called == [(ROMEO, "plumb #a:b c@d because of tea")]
    assert conditions(await face.submit("session1", values)) == ["bad-request", "bad-sessionid"]


@pytest.mark.parametrize(
    ("values", "flaw"),
    [
        ({}, "ROOM is needed: a Matrix room"),
        ({"ROOM": "  "}, "ROOM is needed: a Matrix room"),
        ({"ROOM": "a b"}, "ROOM is one word, without blanks"),
        ({"ROOM": "a", "REASON": "tea"}, "with REASON, CHAT is needed, too"),
        ({"ROOM": "x" * 2001}, "ROOM is too long"),
    ],
)
async def test_a_form_filled_in_wrongly_comes_back_with_the_reason(
    face: Face, values: dict[str, str], flaw: str
) -> None:
    await face.run("node='plumb'")
    again = await face.submit("session1", values)
    assert state(again) == ("executing", "session1", [("error", flaw)])
    assert face.table.called == []
    assert state(await face.submit("session1", {"ROOM": "#a:b"}))[0] == "completed"
    assert face.table.called == [(ROMEO, "plumb #a:b")]


async def test_what_was_typed_stands_in_the_form_that_comes_back(face: Face) -> None:
    await face.run("node='plumb'")
    again = await face.submit("session1", {"CHAT": "c@d"})
    assert [value.text for value in again.iter(f"{FORM}value")] == ["c@d"]


async def test_on_a_room_a_command_runs_at_once_with_the_room(face: Face) -> None:
    assert state(await face.run("node='leave'", caller=IN_ROOM))[0] == "completed"
    assert face.table.called == [(IN_ROOM, "leave")]
    assert conditions(await face.run("node='help'", caller=IN_ROOM)) == ["item-not-found"]


async def test_what_one_may_not_use_is_forbidden_and_what_is_not_there_is_not_found(
    face: Face,
) -> None:
    assert conditions(await face.run("node='drop'")) == ["forbidden"]
    assert conditions(await face.run("node='drop'", caller=IN_ROOM)) == ["item-not-found"]
    assert conditions(await face.run("node='dance'")) == ["item-not-found"]
    assert conditions(await face.run("")) == ["bad-request"]


async def test_a_cancelled_form_is_forgotten(face: Face) -> None:
    await face.run("node='plumb'")
    cancelled = await face.run("node='plumb' sessionid='session1' action='cancel'")
    assert state(cancelled) == ("canceled", "session1", [])
    assert conditions(await face.submit("session1", {"ROOM": "a"})) == [
        "bad-request",
        "bad-sessionid",
    ]


async def test_a_session_belongs_to_the_client_that_began_it(face: Face) -> None:
    await face.run("node='plumb'")
    for sender in ("tybalt@a.test/phone", "romeo@a.test/laptop"):
        answer = await face.run("node='plumb' sessionid='session1'", sender=sender)
        assert conditions(answer) == ["bad-request", "bad-sessionid"]
    other = await face.run("node='help' sessionid='session1'")
    assert conditions(other) == ["bad-request", "bad-sessionid"]
    assert face.table.called == []


async def test_a_session_ends_after_a_while(face: Face, clock: FakeClock) -> None:
    await face.run("node='plumb'")
    await clock.advance(SESSION_MS / 1000)
    assert conditions(await face.submit("session1", {"ROOM": "a"})) == [
        "not-allowed",
        "session-expired",
    ]


async def test_sessions_are_bounded(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_module, "MAX_SESSIONS", 3)
    monkeypatch.setattr(commands_module, "MAX_SESSIONS_OF_ONE", 2)
    for _ in range(3):
        await face.run("node='plumb'")
    assert conditions(await face.submit("session1", {"ROOM": "a"}))[0] == "bad-request"
    for name in ("tybalt", "nurse"):
        await face.run("node='plumb'", sender=f"{name}@a.test/phone")
    assert conditions(await face.submit("session2", {"ROOM": "a"}))[0] == "bad-request"
    assert state(await face.submit("session3", {"ROOM": "a"}))[0] == "completed"


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ("node='plumb' action='prev'", "bad-action"),
        ("node='plumb' action='dance'", "malformed-action"),
        ("node='plumb' sessionid='session1'", "bad-payload"),
    ],
)
async def test_steps_that_do_not_exist_are_refused(face: Face, attributes: str, word: str) -> None:
    await face.run("node='plumb'")
    assert conditions(await face.run(attributes)) == ["bad-request", word]


async def test_a_command_that_takes_too_long_is_given_up(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands_module, "_TIMEOUT_S", 0)
    face.table.gate.clear()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(face.run("node='help'"))
        await settle()
    assert conditions(task.result()) == ["remote-server-timeout"]
