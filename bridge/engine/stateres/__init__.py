"""State resolution. Spec: S2S, room state resolution; rooms/v2; rooms/v12."""

from __future__ import annotations

from bridge.engine.stateres.chains import Fetching, auth_chain, run
from bridge.engine.stateres.v2 import resolve

__all__ = ["Fetching", "auth_chain", "resolve", "run"]
