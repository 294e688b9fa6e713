"""What follows the result of a pass."""

import time

import pytest

from controller.api.model import Condition
from controller.runtime.conditions import set_condition
from controller.runtime.controller import Controller
from controller.runtime.errors import ConflictError, InvalidError, error_from
from controller.runtime.index import Key
from dvcr.errors import DvcrError
from tests.support.waiting import eventually


class Scripted:
    """Each pass does what is next in the script, then nothing more."""

    def __init__(self, *script: BaseException | float | None) -> None:
        self.script = list(script)
        self.passes = 0

    def reconcile(self, key: Key) -> float | None:
        self.passes += 1
        step = self.script.pop(0) if self.script else None
        if isinstance(step, BaseException):
            raise step
        return step


@pytest.mark.parametrize(
    ("step", "passes"),
    [
        (None, 1),
        (0.01, 2),
        (ConflictError("changed", status=409), 2),
        (DvcrError("try later", retryable=True), 2),
        (DvcrError("never", retryable=False), 1),
        (KeyError("a bug"), 2),
    ],
)
def test_a_pass_is_repeated_when_that_may_help(step: BaseException | float | None, passes: int) -> None:
    reconciler = Scripted(step)
    controller = Controller("test", reconciler, workers=1)
    controller.start()
    controller.enqueue("default", "a")
    eventually(lambda: reconciler.passes == passes, f"{passes} passes")
    controller.stop()
    assert controller.join(5)
    assert reconciler.passes == passes


def test_a_server_that_asks_for_time_gets_it() -> None:
    busy = error_from(429, b"", "GET /x", "1")
    reconciler = Scripted(busy)
    controller = Controller("test", reconciler, workers=1)
    controller.start()
    began = time.monotonic()
    controller.enqueue("default", "a")
    eventually(lambda: reconciler.passes == 2, "another pass")
    assert time.monotonic() - began >= 1
    controller.stop()
    assert controller.join(5)


def condition(status: str, reason: str, message: str, time: str) -> Condition:
    return Condition(type="Ready", status=status, reason=reason, message=message, last_transition_time=time)


def test_a_condition_keeps_its_time_until_it_turns() -> None:
    conditions: list[Condition] = []
    set_condition(conditions, condition("False", "Waiting", "for a", "1"))
    set_condition(conditions, condition("False", "Waiting", "for b", "2"))
    assert [(c.message, c.last_transition_time) for c in conditions] == [("for b", "1")]
    set_condition(conditions, condition("True", "Ready", "", "3"))
    assert [(c.status, c.last_transition_time) for c in conditions] == [("True", "3")]


def test_answers_become_errors() -> None:
    body = (
        b'{"kind":"Status","message":"no","reason":"Invalid","details":{"causes":[{"field":"spec.x","message":"m"}]}}'
    )
    error = error_from(422, body, "POST /x")
    assert isinstance(error, InvalidError)
    assert [(c.field, c.message) for c in error.causes] == [("spec.x", "m")]
    assert error_from(503, b"<html>busy</html>", "GET /x").retryable
    assert not error_from(404, b"", "GET /x").retryable
    assert error_from(403, b"", "GET /x").retryable, "quotas are raised, and rights are given"
    assert error_from(403, b"", "GET /x").message == "GET /x answered 403"
    assert error_from(429, b"", "GET /x", "7").retry_after_s == 7
    assert error_from(429, b"", "GET /x", "86400").retry_after_s == 60
    assert error_from(503, b"", "GET /x", "Fri, 27 Nov 2026 06:47:41 GMT").retry_after_s == 0
