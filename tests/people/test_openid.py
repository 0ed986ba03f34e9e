"""OpenID tokens: whoever has one learns whose it is, for an hour."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from bridge.delivery.upkeep import Upkeep
from bridge.errors import BadInput, Refused
from bridge.ids import ServerName, UserId
from bridge.people.openid import OpenId
from bridge.storage.database import Database
from bridge.storage.schema import openid_tokens
from tests.support.clock import FakeClock

ALICE = UserId("@alice:ours.example")


@pytest.fixture
def openid(sqlite_database: Database, clock: FakeClock) -> OpenId:
    return OpenId(own_name=ServerName("ours.example"), database=sqlite_database, clock=clock)


async def refusal(openid: OpenId, token: str | None) -> str:
    with pytest.raises(Refused) as refused:
        await openid.user_info(token)
    return refused.value.errcode


async def test_a_token_stands_for_its_user_until_it_expires(
    openid: OpenId, clock: FakeClock
) -> None:
    token = await openid.issue(ALICE)
    other = await openid.issue(ALICE)
    assert token.access_token != other.access_token
    clock.shift(token.expires_in_s - 1)
    assert await openid.user_info(token.access_token) == ALICE
    clock.shift(1)
    assert await refusal(openid, token.access_token) == "M_UNKNOWN_TOKEN"


async def test_what_is_no_token_of_ours_is_refused(openid: OpenId) -> None:
    assert await refusal(openid, "guess") == "M_UNKNOWN_TOKEN"
    assert await refusal(openid, "x" * 10_000) == "M_UNKNOWN_TOKEN"
    assert await refusal(openid, "") == "M_MISSING_TOKEN"
    assert await refusal(openid, None) == "M_MISSING_TOKEN"
    with pytest.raises(BadInput):
        await openid.issue(UserId("@bob:theirs.example"))


async def test_the_token_itself_is_not_stored_and_old_ones_go(
    openid: OpenId, sqlite_database: Database, clock: FakeClock
) -> None:
    token = await openid.issue(ALICE)

    async def stored() -> list[str]:
        return list(
            await sqlite_database.read(
                lambda tx: tx.execute(select(openid_tokens.c.token_hash)).scalars().all()
            )
        )

    [row] = await stored()
    assert token.access_token not in row
    clock.shift(token.expires_in_s + 1)
    await Upkeep(database=sqlite_database, clock=clock, keep_done_s=60.0).tidy()
    assert await stored() == []
