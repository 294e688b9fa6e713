"""Where log lines go."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from dvcr.logging import configure_logging


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Logging of the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_logger_writes_to_what_standard_error_is_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stderr", first)
    configure_logging(style="json")
    log = structlog.get_logger("part").bind(key="value")
    log.info("one")
    monkeypatch.setattr("sys.stderr", second)
    first.close()

    log.warning("another")

    [line] = second.getvalue().splitlines()
    told = json.loads(line)
    assert (told["event"], told["key"], told["level"], told["logger"]) == ("another", "value", "warning", "part")
