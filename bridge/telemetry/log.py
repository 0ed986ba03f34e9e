"""The log: an event name in lower case, then fields. To standard error, as text or JSON lines.

Libraries that log through the standard library come out in the same shape. `bind` puts fields on
every line of the current task (a lane, a request) until the returned context ends.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["console", "json"]
Logger = FilteringBoundLogger

# Talkative at levels that say nothing to an operator.
_QUIET_LIBRARIES = ("aiohttp.access", "asyncio", "slixmpp", "alembic", "PIL")


def configure_log(
    *, level: Level = "info", form: Format = "console", stream: TextIO | None = None
) -> None:
    """Once, at the start, before the first line. Both forms keep tracebacks."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[Processor]
    if form == "json":
        rendering = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        rendering = [
            structlog.dev.ConsoleRenderer(
                colors=False, exception_formatter=structlog.dev.plain_traceback
            )
        ]
    output = logging.StreamHandler(stream or sys.stderr)
    output.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers = [output]
    root.setLevel(threshold)
    for name in _QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def get_logger(part: str) -> Logger:
    """`part` says which part of the house speaks; it stands in each line."""
    return cast(Logger, structlog.get_logger(part, part=part))


def bind(**fields: Any) -> AbstractContextManager[None]:
    """Fields for every line of this task while the context lasts."""
    return cast("AbstractContextManager[None]", structlog.contextvars.bound_contextvars(**fields))
