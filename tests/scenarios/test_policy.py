"""The rules of the house and a real Synapse: denied, its messages and invites stop, both ways, with
the rule in log and journal; let in again, everything that was kept arrives."""

from __future__ import annotations

import asyncio
import re

import pytest

from bridge.demo.people import MatrixFailed
from bridge.demo.servers import Prosody, Synapse
from tests.support.gateway import Gateway
from tests.support.operator import admin
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson

Pair = tuple[Prosody, Prosody]


@pytest.mark.timeout(180)
async def test_a_denied_server_is_shut_out_and_nothing_is_lost_when_it_is_let_in_again(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice_denied")
    juliet = await xmpp_person(prosody_pair[0], "juliet_policy")
    ghost = gateway.ghost(juliet.address)
    room = await alice.create_direct(ghost)
    await alice.see_membership(room, ghost, "join")
    await alice.say(room, "before")
    heard = await juliet.hear("before")

    code, said = await admin(gateway, f'deny server {synapse.server_name} "too loud"')
    assert code == 0, said
    found = re.match(r"Rule (\d+): deny server", said)
    assert found is not None
    number = found[1]

    # Its messages, its invites, and what we have for it.
    kept = await alice.say(room, "while denied")
    await gateway.wait_for_log(f"rule=policy.{number}")
    with pytest.raises(MatrixFailed):
        await alice.create_direct(gateway.ghost("romeo@a.test"))
    refused = juliet.say(heard.bare_sender, "can you hear me?")
    error = await juliet.wait_for(
        lambda stanza: stanza.type == "error" and stanza.id == refused, what="the refusal"
    )
    assert "too loud" in (error.error_text or "")
    assert gateway.event(kept) is None
    assert "while denied" not in [stanza.body for stanza in juliet.transcript]
    async with asyncio.timeout(20):
        wanted = f"{synapse.server_name} (request) by bot rule {number}"
        while wanted not in (await admin(gateway, f"why policy.{number}"))[1]:
            pass
    code, listed = await admin(gateway, "policy list")
    assert "has refused" in listed
    code, known = await admin(gateway, f"peer {synapse.server_name}")
    assert f"Rule {number}: deny server" in known

    code, said = await admin(gateway, f"policy remove {number}")
    assert code == 0, said
    assert "is gone" in said
    await alice.say(room, "let in again")
    await juliet.hear("let in again", timeout_s=60)
    await juliet.hear("while denied", timeout_s=60)
    juliet.say(heard.bare_sender, "welcome back")
    await alice.hear("welcome back", room=room, sender=ghost)


@pytest.mark.timeout(240)
async def test_a_list_on_a_synapse_holds_here_while_it_says_so(
    gateway: Gateway,
    prosody_pair: Pair,
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    curator = await matrix_person(synapse, "curator")
    mallory = await matrix_person(synapse, "mallory")
    juliet = await xmpp_person(prosody_pair[0], "juliet_lists")
    ghost = gateway.ghost(juliet.address)
    rules = await curator.create_room(name="bans", preset="public_chat")
    ban = {"entity": mallory.user_id, "recommendation": "m.ban", "reason": "floods"}

    code, said = await admin(gateway, f"policy subscribe {rules} {synapse.server_name}")
    assert code == 0, said
    assert "0 rules" in said
    await curator.set_state(rules, "m.policy.rule.user", ban, state_key="mallory")
    await listed(gateway, "1 rule")
    with pytest.raises(MatrixFailed, match=r"denied here by .* rule \d+: floods"):
        await mallory.create_direct(ghost)
    # Everybody else is as welcome as before.
    room = await curator.create_direct(ghost)
    await curator.see_membership(room, ghost, "join")

    # What changes while we are away counts as well.
    await gateway.kill()
    await curator.set_state(rules, "m.policy.rule.user", {}, state_key="mallory")
    await gateway.start()
    await listed(gateway, "0 rules")
    room = await mallory.create_direct(ghost)
    await mallory.see_membership(room, ghost, "join")


async def listed(gateway: Gateway, count: str) -> None:
    async with asyncio.timeout(60):
        while f"): {count}" not in (await admin(gateway, "policy list"))[1]:
            await asyncio.sleep(0.2)
