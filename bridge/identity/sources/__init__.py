"""Where people are found: one file each, one line in `SOURCES`, asked in this order."""

from __future__ import annotations

from collections.abc import Callable

from bridge.identity.resolver import Source, SourceSettings
from bridge.identity.sources import templates, typed, vouching

SOURCES: tuple[Callable[[SourceSettings], Source], ...] = (
    templates.Templates,
    vouching.Vouching,
    typed.Typed,
)


def build_sources(settings: SourceSettings) -> tuple[Source, ...]:
    """Raises `Misconfigured`."""
    return tuple(make(settings) for make in SOURCES)
