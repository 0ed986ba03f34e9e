"""The rules of the house and the limits, over real HTTPS: what a denied and a busy server sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.demo.servers import CertificateAuthority
from bridge.errors import Refused
from bridge.federation.xmatrix import sign_request
from bridge.net.client import HttpRequest, HttpResponse
from bridge.policy.limits import Buckets, Limits, Rate
from bridge.policy.rules import Action, RuleTable, read_rule
from tests.support.matrix_side import MatrixSide, matrix_sides

V1 = "/_matrix/federation/v1"


async def ask(us: MatrixSide, peer: MatrixSide, target: str) -> HttpResponse:
    signed = sign_request(
        method="GET",
        target=target,
        origin=peer.name,
        destination=us.name,
        content=None,
        key=peer.key,
    )
    return await peer.running.client.send(
        HttpRequest(
            method="GET",
            url=f"https://{us.name}{target}",
            headers={"Authorization": signed.header()},
        )
    )


async def test_a_denied_server_is_refused_everywhere_and_not_asked(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with matrix_sides(certificates, tmp_path, sqlite_template, 2) as (us, peer):
        words = ["server", peer.name, '"spam"']
        rule = read_rule(words, action=Action.DENY, rule_id=7)
        us.house.replace(RuleTable.of([rule]))
        for target in (
            f"{V1}/query/profile?user_id=%40a%3Ax",
            f"{V1}/backfill/%21r%3Ax?v=%24e&limit=1",
            f"{V1}/make_leave/%21r%3Ax/%40a%3Ax",
            f"{V1}/make_join/%21r%3Ax/%40a%3Ax",
        ):
            answer = await ask(us, peer, target)
            assert (answer.status, answer.json()["errcode"]) == (403, "M_FORBIDDEN")
            assert answer.json()["error"].endswith("is denied here by bot rule 7: spam")
        # Our keys are everybody's: what we have said must be checkable.
        assert (await ask(us, peer, "/_matrix/key/v2/server")).status == 200
        with pytest.raises(Refused, match="bot rule 7"):
            await us.requests.query_profile(peer.name, peer.user("bob"))


async def test_over_its_limit_a_server_is_told_when_to_come_again(
    certificates: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    async with matrix_sides(certificates, tmp_path, sqlite_template, 2) as (us, peer):
        await us.stop()
        us.limits = Limits(requests=Buckets(Rate(per_s=0.01, burst=2)))
        await us.start()
        target = f"{V1}/query/profile?user_id=%40a%3Ax"
        statuses = [(await ask(us, peer, target)).status for _ in range(2)]
        assert 429 not in statuses
        answer = await ask(us, peer, target)
        assert (answer.status, answer.json()["errcode"]) == (429, "M_LIMIT_EXCEEDED")
        assert 0 < answer.json()["retry_after_ms"] <= 100_000
        assert int(answer.headers["retry-after"]) > 0
