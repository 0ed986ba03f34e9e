"""1,000 events each way between us and a server whose connections break, both killed now and then.

`tests/support/load` says what is done and what must hold; `tests/soak/test_load.py` is the long
one. The seed is printed; `ISTHMUS_LOAD_SEED` sets it.
"""

from __future__ import annotations

import os
from random import Random, SystemRandom

import pytest

from bridge.demo.servers import CertificateAuthority, Prosody
from tests.support.gateway import Gateway
from tests.support.load.peer import LoadPeer
from tests.support.load.run import Kills, LoadRun, enter_all
from tests.support.servers import MakeXmppPerson

EVENTS = 1_000
KILLS = 2
"""Of each of the two."""
QUIET = {"log": {"level": "info"}}


@pytest.mark.timeout(300)
async def test_broken_connections_and_dying_servers_lose_and_double_nothing(
    prosody: Prosody, certificates: CertificateAuthority, xmpp_person: MakeXmppPerson
) -> None:
    seed = int(os.environ.get("ISTHMUS_LOAD_SEED", SystemRandom().randrange(10**9)))
    print(f"\nseed {seed}", flush=True)
    people = {name: await xmpp_person(prosody, name) for name in ("juliet", "romeo")}
    async with (
        LoadPeer(certificates, seed=seed) as peer,
        Gateway(prosody, certificates, settings=QUIET) as gateway,
    ):
        await enter_all(gateway, peer, people)
        run = LoadRun(gateway=gateway, peer=peer, people=people, count=EVENTS, pause_s=0.05)
        await run.play(Kills.drawn(Random(seed), KILLS), timeout_s=200)
        found = run.findings()
        print(run.summary())
    assert not found, f"seed {seed}:\n" + "\n".join(found[:50])
