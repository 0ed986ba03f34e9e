"""A gateway as an operator runs it, and a Matrix server so cheap that it is not the limit."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from bridge.demo.servers import CertificateAuthority, Prosody
from tests.support.gateway import Gateway

QUIET = {"log": {"level": "info"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(prosody: Prosody, certificates: CertificateAuthority) -> AsyncIterator[Gateway]:
    """On SQLite, with the usual amount of log."""
    async with Gateway(prosody, certificates, settings=QUIET) as server:
        yield server
