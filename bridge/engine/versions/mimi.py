"""Room version `I.1`: version 10 with extensible events. Spec: MIMI framework draft 01, MSC1767."""

from __future__ import annotations

from dataclasses import replace

from bridge.engine.versions.matrix import V10
from bridge.ids import RoomVersionId

I_1 = replace(V10, id=RoomVersionId("I.1"), extensible_events=True)
