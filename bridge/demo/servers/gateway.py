"""Isthmus itself as a child process: the same command that an operator runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import aiohttp

from bridge.demo.servers.process import Child, Server

_PROBE_TIMEOUT = aiohttp.ClientTimeout(total=2.0)


class Isthmus(Server):
    """`python -m bridge run --config FILE`; ready when `ready_url` answers 200.

    `environment` is put over ours: `ISTHMUS_...` settings, for example.
    """

    STOP_TIMEOUT_S = 30.0
    PROGRAM: ClassVar[str] = "bridge"
    """The module that is run."""

    def __init__(
        self,
        config: Path,
        *,
        ready_url: str,
        environment: Mapping[str, str] | None = None,
        name: str = "isthmus",
        folder: Path | None = None,
    ) -> None:
        super().__init__(name, folder=folder)
        self.config = config
        self.ready_url = ready_url
        self._environment = dict(environment or {})

    def _build(self) -> Child:
        source = str(Path(__file__).resolve().parents[3])
        paths = [source, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        return Child(
            [sys.executable, "-m", self.PROGRAM, "run", "--config", self.config],
            name=self.name,
            folder=self.folder,
            log=self.log,
            environment={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "PYTHONUNBUFFERED": "1",
                **self._environment,
            },
        )

    async def _is_ready(self) -> bool:
        try:
            async with (
                aiohttp.ClientSession(timeout=_PROBE_TIMEOUT) as session,
                session.get(self.ready_url) as response,
            ):
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False
