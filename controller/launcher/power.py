"""Switching a machine off: ask the guest, again and again, then pull the plug."""

from typing import Protocol

BUTTON_INTERVAL_S = 5.0


class PowerPort(Protocol):
    """What switching off needs of a machine."""

    async def press_power_button(self) -> None:
        """Send the ACPI power button event; does nothing on a machine that has ended."""
        ...

    async def ends_within(self, timeout_s: float) -> bool:
        """Wait for the machine's end; False if it still runs after that time."""
        ...

    async def kill(self) -> None:
        """End the machine now, without the guest; returns when it has ended."""
        ...


async def power_off(machine: PowerPort, grace_period_s: float) -> bool:
    """Switch the machine off; True if the guest obeyed, False if it was killed after the grace period.

    The button is pressed again every five seconds: a guest that is still booting misses the first ones.
    """
    left_s = grace_period_s
    while left_s > 0:
        await machine.press_power_button()
        wait_s = min(BUTTON_INTERVAL_S, left_s)
        if await machine.ends_within(wait_s):
            return True
        left_s -= wait_s
    await machine.kill()
    return False
