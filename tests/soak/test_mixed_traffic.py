"""`make soak`: mixed traffic for as long as `ISTHMUS_SOAK_MINUTES` says.

A round of both chats each minute. In the first half the gateway is restarted in the middle of
each; in the second half it runs through, so that its memory may be compared. Nothing is lost,
doubled or out of order (`tests/support/traffic.py`); no queue is left with work; memory does not
grow in the second half; and a message leaves about as many rows behind at the end as it did at
the beginning.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from random import Random

import pytest

from bridge.demo.servers import CertificateAuthority, Prosody, Synapse
from tests.bench.measure import cpu_s, load, memory_mb
from tests.support.gateway import Gateway
from tests.support.servers import MakeMatrixPerson, MakeXmppPerson
from tests.support.traffic import make_traffic

MINUTES = 10
PAUSE_S = 0.5
"""Between two messages of one author in one chat."""
MESSAGES = 200
"""Each way in a minute."""
GROWTH_MB = 8.0
"""What the memory may grow in the second half, after its first minute."""
SETTINGS = {"log": {"level": "info"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """What was measured at its end."""

    number: int
    restarted: bool
    rss_mb: float
    cpu_s: float | None
    tables: dict[str, int]


def table_sizes(gateway: Gateway) -> dict[str, int]:
    names = gateway.query(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    )
    sizes: dict[str, int] = {}
    for (name,) in names:
        ((count,),) = gateway.query(f'SELECT count(*) FROM "{name}"')
        sizes[str(name)] = int(count)
    return sizes


def growth(minutes: list[Minute]) -> list[str]:
    """Memory, in the minutes without a restart and without the first of them."""
    steady = [one for one in minutes if not one.restarted][1:]
    if len(steady) < 2:
        return []
    grown = steady[-1].rss_mb - steady[0].rss_mb
    return [f"memory grew by {grown:.1f} MB"] if grown > GROWTH_MB else []


def row_growth(minutes: list[Minute]) -> list[str]:
    """Tables that grow by the minute much more at the end than at the beginning."""
    if len(minutes) < 4:
        return []
    found: list[str] = []
    for name in minutes[-1].tables:
        early = minutes[1].tables[name] - minutes[0].tables[name]
        late = minutes[-1].tables[name] - minutes[-2].tables[name]
        if late > 1.5 * max(early, 0) + 50:
            found.append(f"table {name}: {early} rows in the second minute, {late} in the last")
    return found


@pytest.mark.soak
@pytest.mark.timeout(24 * 3600)
async def test_mixed_traffic_with_restarts_loses_nothing_and_grows_nothing(
    prosody: Prosody,
    synapse: Synapse,
    certificates: CertificateAuthority,
    matrix_person: MakeMatrixPerson,
    xmpp_person: MakeXmppPerson,
) -> None:
    count = int(os.environ.get("ISTHMUS_SOAK_MINUTES", MINUTES))
    alice = await matrix_person(synapse, "alice")
    juliet = await xmpp_person(prosody, "juliet")
    minutes: list[Minute] = []
    found: list[str] = []
    async with Gateway(prosody, certificates, settings=SETTINGS) as gateway:
        traffic = await make_traffic(
            gateway=gateway,
            alice=alice,
            juliet=juliet,
            alias="garden",
            server_name=synapse.server_name,
        )
        for number in range(count):
            restarted = number < count / 2
            begin = time.monotonic()
            before = {} if restarted else {gateway.pid: cpu_s(gateway.pid)}
            one = traffic.begin(f"m{number}", random=Random(number))
            others = [gateway.restart()] if restarted else []
            await one.write(MESSAGES // 2, pause_s=PAUSE_S)
            await one.write(MESSAGES // 2, pause_s=PAUSE_S, others=others)
            await one.until_quiet()
            found += one.findings()
            used = cpu_s(gateway.pid) - before[gateway.pid] if before else None
            minutes.append(
                Minute(
                    number=number,
                    restarted=restarted,
                    rss_mb=memory_mb(gateway.pid)["Rss"],
                    cpu_s=used,
                    tables=table_sizes(gateway),
                )
            )
            print(
                f"\n{one.summary()}; {time.monotonic() - begin:.0f} s"
                f"{', restarted' if restarted else ''}; Rss {minutes[-1].rss_mb:.1f} MB; CPU "
                f"{'-' if used is None else f'{used:.1f} s'}; {load()}; findings: {len(found)}",
                flush=True,
            )
    for name, size in sorted(minutes[-1].tables.items()):
        sizes = ", ".join(str(one.tables[name]) for one in minutes)
        if size:
            print(f"  {name}: {sizes}")
    found += growth(minutes) + row_growth(minutes)
    assert not found, "\n".join(found)
