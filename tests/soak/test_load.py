"""`make soak`: 10,000 events each way between us and a server whose connections break.

Both die by `kill -9` a dozen times. `tests/support/load` says what is done and what must hold;
1,000 each way run with every `make test`. The seed is printed; `ISTHMUS_LOAD_SEED` sets it,
`ISTHMUS_LOAD_EVENTS` the number.
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

EVENTS = 10_000
KILLS = 12
"""Of each of the two."""
QUIET = {"log": {"level": "info"}}


@pytest.mark.soak
@pytest.mark.timeout(2 * 3600)
async def test_ten_thousand_each_way_lose_and_double_nothing(
    prosody: Prosody, certificates: CertificateAuthority, xmpp_person: MakeXmppPerson
) -> None:
    seed = int(os.environ.get("ISTHMUS_LOAD_SEED", SystemRandom().randrange(10**9)))
    count = int(os.environ.get("ISTHMUS_LOAD_EVENTS", EVENTS))
    print(f"\nseed {seed}", flush=True)
    people = {name: await xmpp_person(prosody, name) for name in ("juliet", "romeo")}
    async with (
        LoadPeer(certificates, seed=seed) as peer,
        Gateway(prosody, certificates, settings=QUIET) as gateway,
    ):
        await enter_all(gateway, peer, people)
        run = LoadRun(gateway=gateway, peer=peer, people=people, count=count, pause_s=0.05)
        await run.play(Kills.drawn(Random(seed), KILLS), timeout_s=0.5 * count)
        found = run.findings()
        print(run.summary())
    assert not found, f"seed {seed}:\n" + "\n".join(found[:50])
