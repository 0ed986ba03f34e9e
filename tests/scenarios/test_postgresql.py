"""The gateway on PostgreSQL: the same conversation, and the same after a kill in its middle."""

from __future__ import annotations

from bridge.demo.servers import CertificateAuthority, Prosody, Synapse
from tests.support.gateway import Gateway
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson


async def test_people_talk_over_postgresql_and_nothing_is_lost_by_a_kill(
    postgresql_url: str,
    prosody_pair: tuple[Prosody, Prosody],
    synapse: Synapse,
    certificates: CertificateAuthority,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    settings = {"database": {"url": postgresql_url}}
    async with Gateway(prosody_pair[0], certificates, settings=settings) as gateway:
        alice = await matrix_person(synapse, "alice")
        juliet = await xmpp_person(prosody_pair[0], "juliet")
        ghost = gateway.ghost(juliet.address)
        room = await alice.create_direct(ghost)
        await alice.see_membership(room, ghost, "join")
        await alice.say(room, "before")
        heard = await juliet.hear("before", sender=gateway.address(alice.user_id))
        await juliet.receipt(juliet.say(heard.bare_sender, "an answer"))
        await alice.hear("an answer", room=room, sender=ghost)

        await gateway.kill()
        await alice.say(room, "meanwhile")
        await gateway.start()
        await juliet.hear("meanwhile", timeout_s=60)
        await juliet.receipt(juliet.say(heard.bare_sender, "after"))
        await alice.hear("after", room=room, sender=ghost)

        for body in ("before", "meanwhile"):
            assert [s.body for s in juliet.transcript].count(body) == 1
        for body in ("an answer", "after"):
            assert [s.body for s in alice.transcript].count(body) == 1
