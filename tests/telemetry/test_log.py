from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from bridge.telemetry.log import bind, configure_log, get_logger


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_json_lines_hold_event_fields_and_what_is_bound() -> None:
    out = io.StringIO()
    log = get_logger("test")  # made before the log is configured, as modules do
    configure_log(level="info", form="json", stream=out)
    with bind(room_id="!a:b"):
        log.info("pdu rejected", rule="membership")
    log.debug("not shown")
    log.info("afterwards")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["pdu rejected", "afterwards"]
    assert lines[0]["room_id"] == "!a:b"
    assert lines[0]["rule"] == "membership"
    assert lines[0]["part"] == "test"
    assert lines[0]["level"] == "info"
    assert "room_id" not in lines[1]


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_brings_its_traceback(form: str) -> None:
    out = io.StringIO()
    configure_log(form="json" if form == "json" else "console", stream=out)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        get_logger("test").exception("item failed")
    assert "RuntimeError: broken" in out.getvalue()
    assert "Traceback" in out.getvalue()


def test_libraries_come_out_in_the_same_shape() -> None:
    out = io.StringIO()
    configure_log(level="warning", form="json", stream=out)
    logging.getLogger("some.library").warning("odd %s", "thing")
    logging.getLogger("some.library").info("not shown")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["event"], line["level"], line["logger"]) for line in lines] == [
        ("odd thing", "warning", "some.library")
    ]
