"""The command table as XEP-0050 commands: on a room's address those that make sense there.

Each is done in one step and answers with a note. Spec: XEP-0050, 2 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from bridge.adapters.xmpp import outbound
from bridge.adapters.xmpp.inbound import Stanza
from bridge.adapters.xmpp.namespaces import COMMANDS, DISCO_ITEMS, add
from bridge.adapters.xmpp.xmltext import xml_text
from bridge.ports.command import Caller, CommandInfo, CommandTable


def of_room(table: CommandTable) -> Sequence[CommandInfo]:
    return [info for info in table.commands() if info.in_room]


def listing(request: Stanza, commands: Sequence[CommandInfo]) -> ET.Element:
    """The answer to disco#items on the node of commands."""
    answer = outbound.result_of(request)
    query = add(answer, DISCO_ITEMS, "query")
    query.set("node", COMMANDS)
    for info in commands:
        item = add(query, DISCO_ITEMS, "item")
        item.set("jid", str(request.to.bare))
        item.set("node", info.name)
        item.set("name", info.summary)
    return answer


async def execute(
    request: Stanza, table: CommandTable, caller: Caller, *, session: str
) -> ET.Element:
    """Carries out the command that the stanza names; `session` marks the answer."""
    command = request.find(COMMANDS, "command")
    node = "" if command is None else command.get("node", "")
    action = "execute" if command is None else command.get("action", "execute")
    if node not in {info.name for info in of_room(table)}:
        return outbound.error_for(request, "item-not-found", "There is no such command here.")
    if action not in ("execute", "cancel", "next", "complete"):
        return outbound.error_for(request, "bad-request", "There is no such action.")
    answer = outbound.result_of(request)
    done = add(answer, COMMANDS, "command")
    done.set("node", node)
    done.set("sessionid", session)
    if action == "cancel":
        done.set("status", "canceled")
        return answer
    text = await table.run(caller, node)
    done.set("status", "completed")
    add(done, COMMANDS, "note", xml_text(text)).set("type", "info")
    return answer
