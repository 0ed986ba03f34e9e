"""`whois`: who somebody is on both sides, and what they may do here."""

from __future__ import annotations

from bridge.bot.commands.resolve import lines_of
from bridge.bot.context import Command, Context, present
from bridge.bot.words import LEVEL_NAMES
from bridge.errors import NotFound, Refused
from bridge.identity.resolver import Resolved
from bridge.ids import UserId
from bridge.ports.command import Argument, CommandInfo, Level

OCCUPANT_LINE = "Somebody in the chat {chat}, which shows real addresses to nobody."


async def run(context: Context) -> str:
    typed = " ".join(context.arguments)
    caller = context.caller
    is_self = typed.lower() == "me" or typed in (caller.user_id, context.address)
    if not is_self and context.level < Level.USER:
        raise Refused(
            f"you may ask who you are (`whois me`); others are for {LEVEL_NAMES[Level.USER]}. Ask "
            "the operator of this gateway if you need it"
        )
    who = caller.user_id if is_self else None
    hidden = _hidden_chat(context, UserId(typed if who is None else who))
    if hidden is not None:
        return OCCUPANT_LINE.format(chat=hidden)
    found = await _find(context, who or typed)
    lines = lines_of(found)
    if found.user_id is not None:
        lines.append(_rights_line(context, found.user_id))
    elif found.room is not None:
        raise NotFound("that is a room: `resolve` tells its names")
    return "\n".join(lines)


async def _find(context: Context, typed: str) -> Resolved:
    if context.resolver is None and typed == context.caller.user_id:
        return Resolved(user_id=context.caller.user_id, address=context.address, source="caller")
    return await present(context.resolver).resolve(typed)


def _hidden_chat(context: Context, user_id: UserId) -> str | None:
    address = context.address_of(user_id) if user_id.startswith("@") else None
    chat, slash, _ = (address or "").partition("/")
    return chat if slash else None


def _rights_line(context: Context, user_id: UserId) -> str:
    if user_id == context.caller.user_id:
        level = context.level
    elif context.rights is None:
        level = Level.NOBODY
    else:
        level = context.rights.level_of(user_id, context.address_of(user_id))
    if level is Level.NOBODY:
        return "Here: no level of their own."
    return f"Here: level `{level.name.lower()}`."


COMMAND = Command(
    info=CommandInfo(
        name="whois",
        usage="whois WHO",
        summary="who somebody is on both networks (`whois me`: who you are)",
        in_room=False,
        arguments=(
            Argument(
                name="WHO",
                summary="me, @alice:example.org, romeo@example.org, a link or a phone number",
                required=True,
                rest=True,
            ),
        ),
    ),
    run=run,
)
