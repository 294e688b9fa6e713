"""A launcher's last word fits where Kubernetes keeps it."""

import pytest

from controller.launcher.spec import MAX_TERMINATION_BYTES, Termination, TerminationReason

END = Termination(reason=TerminationReason.FAILED, message="QEMU ended with exit code 1")


def test_the_end_of_the_output_goes_with_it() -> None:
    assert END.with_output(b"Kernel panic\r\n").output == "Kernel panic\r\n"


@pytest.mark.parametrize("output", [b"x" * 10**6, b"\x1b\0" * 10**5, "ü\r\n".encode() * 10**5, b"\xff" * 10**5])
def test_it_is_cut_to_what_there_is_room_for(output: bytes) -> None:
    whole = END.with_output(output)
    written = whole.model_dump_json()

    assert MAX_TERMINATION_BYTES - 10 <= len(written.encode()) <= MAX_TERMINATION_BYTES
    assert output.decode(errors="replace").endswith(whole.output)
    assert Termination.model_validate_json(written) == whole


def test_a_long_message_leaves_no_room() -> None:
    assert END.model_copy(update={"message": "m" * 5000}).with_output(b"output").output == ""
