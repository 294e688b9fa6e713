import asyncio

import pytest

from controller.launcher.power import power_off


class FakeMachine:
    """Obeys `obeys_after_s` of its own time after the first press, if ever."""

    def __init__(self, obeys_after_s: float | None) -> None:
        self.now_s = 0.0
        self.presses: list[float] = []
        self.killed_at_s: float | None = None
        self._obeys_after_s = obeys_after_s

    async def press_power_button(self) -> None:
        self.presses.append(self.now_s)

    async def ends_within(self, timeout_s: float) -> bool:
        if self._obeys_after_s is not None and self._obeys_after_s <= self.now_s + timeout_s:
            self.now_s = self._obeys_after_s
            return True
        self.now_s += timeout_s
        return False

    async def kill(self) -> None:
        self.killed_at_s = self.now_s


def test_a_guest_that_obeys_is_asked_once_and_not_killed() -> None:
    machine = FakeMachine(obeys_after_s=1)

    assert asyncio.run(power_off(machine, 60))
    assert (machine.presses, machine.killed_at_s, machine.now_s) == ([0], None, 1)


def test_the_button_is_pressed_every_five_seconds_until_the_guest_obeys() -> None:
    machine = FakeMachine(obeys_after_s=12)

    assert asyncio.run(power_off(machine, 60))
    assert machine.presses == [0, 5, 10]


def test_a_deaf_guest_is_killed_when_the_grace_period_ends_and_not_before() -> None:
    machine = FakeMachine(obeys_after_s=None)

    assert not asyncio.run(power_off(machine, 12))
    assert (machine.presses, machine.killed_at_s) == ([0, 5, 10], 12)


@pytest.mark.parametrize("grace_period_s", [0, -1])
def test_without_a_grace_period_the_plug_is_pulled_at_once(grace_period_s: float) -> None:
    machine = FakeMachine(obeys_after_s=1)

    assert not asyncio.run(power_off(machine, grace_period_s))
    assert (machine.presses, machine.killed_at_s) == ([], 0)
