"""`make chaos`: twenty rounds of kill -9 in the middle of 300 messages each way.

Three rounds of the same run with every `make test` (`tests/scenarios/test_faults.py`). The seed
is printed; `ISTHMUS_CHAOS_SEED` sets it.
"""

from __future__ import annotations

import os
from random import SystemRandom

import pytest

from bridge.demo.servers import Prosody, Synapse
from tests.support.gateway import Gateway
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson
from tests.support.traffic import make_traffic, play_rounds

ROUNDS = 20


@pytest.mark.chaos
@pytest.mark.timeout(3600)
async def test_twenty_rounds_of_kill_9_lose_double_and_disorder_nothing(
    gateway: Gateway,
    prosody_pair: tuple[Prosody, Prosody],
    synapse: Synapse,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    alice = await matrix_person(synapse, "alice")
    juliet = await xmpp_person(prosody_pair[0], "juliet")
    traffic = await make_traffic(
        gateway=gateway,
        alice=alice,
        juliet=juliet,
        alias="garden",
        server_name=synapse.server_name,
        muc=f"coven@{prosody_pair[0].muc_domain}",
    )
    seed = int(os.environ.get("ISTHMUS_CHAOS_SEED", SystemRandom().randrange(10**9)))
    await play_rounds(
        traffic, seed=seed, rounds=int(os.environ.get("ISTHMUS_CHAOS_ROUNDS", ROUNDS))
    )
