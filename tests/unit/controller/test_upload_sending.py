"""What is sent to an upload address, and when the sending ends: no sockets, a clock that is set."""

from collections.abc import Iterable

import pytest

from controller.uploads.sending import FIRST_PIECE_BYTES, Answer, CutError, Reached, Sender, UploadError
from dvcr.errors import ResourceError

MIB = 2**20
TOTAL = 200 * MIB
CUT = CutError("the connection was cut")
FIRST = FIRST_PIECE_BYTES


class Script:
    """An address that plays answers in turn, a clock, and what was asked of them."""

    def __init__(self, looks: Iterable[Reached | Answer | CutError], puts: Iterable[Answer | CutError] = ()) -> None:
        self._looks = list(looks)
        self._puts = list(puts)
        self.sent: list[tuple[int, int]] = []
        self.slept: list[float] = []
        self.told: list[int] = []
        self.time_s = 0.0
        self.wanted = True

    def look(self) -> Reached | Answer:
        value = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        if isinstance(value, CutError):
            raise value
        return value

    def put(self, offset_bytes: int, end_bytes: int) -> Answer:
        self.sent.append((offset_bytes, end_bytes))
        value = self._puts.pop(0)
        if isinstance(value, CutError):
            raise value
        return value

    def send(self, total_bytes: int = TOTAL) -> None:
        Sender(
            self,
            total_bytes,
            wanted=lambda: self.wanted,
            progress=self.told.append,
            waiting=lambda _why, wait_s: self.slept.append(wait_s),
            patience_s=60,
            now=lambda: self.time_s,
            sleep=self._sleep,
        ).send()

    def refused(self) -> UploadError:
        with pytest.raises(UploadError) as caught:
            self.send()
        return caught.value

    def _sleep(self, wait_s: float) -> None:
        self.time_s += wait_s


def test_a_file_goes_in_pieces_after_a_first_one_that_is_inspected() -> None:
    script = Script([Reached(0)], [Answer(202)] * 4 + [Answer(201)])
    script.send()
    ends = [FIRST, FIRST + 64 * MIB, FIRST + 128 * MIB, FIRST + 192 * MIB, TOTAL]
    assert script.sent == list(zip([0, *ends], ends, strict=False))
    assert (script.told[-1], script.slept) == (TOTAL, [])


def test_a_small_file_is_one_piece() -> None:
    script = Script([Reached(0)], [Answer(201)])
    script.send(5)
    assert script.sent == [(0, 5)]


def test_after_a_cut_it_goes_on_where_the_uploader_is() -> None:
    script = Script([Reached(0), CUT, Reached(30 * MIB, TOTAL)], [Answer(202), CUT, Answer(201)])
    script.send()
    assert script.sent[-1] == (30 * MIB, 30 * MIB + FIRST)
    assert script.slept == [1.0, 2.0], "the connection was refused once more meanwhile"


def test_what_was_complete_before_needs_nothing() -> None:
    script = Script([Reached(TOTAL, TOTAL, complete=True)])
    script.send()
    assert (script.sent, script.told) == ([], [TOTAL])


@pytest.mark.parametrize("status", [408, 409, 416, 429, 502, 503, 504])
def test_these_answers_are_waited_out(status: int) -> None:
    script = Script([Reached(0)], [Answer(status, "later"), Answer(201)])
    script.send(5)
    assert script.sent == [(0, 5)] * 2


def test_retry_after_is_kept_to() -> None:
    script = Script([Reached(0)], [Answer(429, "busy", retry_after_s=7), Answer(503, "busy"), Answer(201)])
    script.send(5)
    assert script.slept == [7, 2.0]


@pytest.mark.parametrize(
    ("status", "what_to_do"),
    [(400, ""), (410, "delete the image"), (413, ""), (422, "delete the image"), (500, ""), (507, "free some space")],
)
def test_these_answers_are_final_and_are_told_with_what_to_do(status: int, what_to_do: str) -> None:
    script = Script([Reached(0)], [Answer(status, "the text of the server")])
    error = script.refused()
    assert (error.status, script.slept) == (status, [])
    assert error.message.startswith("the text of the server")
    assert what_to_do in error.message


def test_an_upload_that_failed_is_told_with_its_reason() -> None:
    error = Script([Reached(0, failure="this is no disk image")]).refused()
    assert error.message.startswith("the upload has failed: this is no disk image; delete the image")


def test_without_progress_it_gives_up_in_time_and_says_why() -> None:
    script = Script([CUT])
    error = script.refused()
    assert script.slept == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert error.message.startswith("no progress within 60 s: the connection was cut; run the same command again")


def test_progress_gives_it_patience_again() -> None:
    looks: list[Reached | Answer | CutError] = [
        Reached(0),
        *[CUT] * 5,
        Reached(30 * MIB, TOTAL),
        *[CUT] * 5,
        Reached(60 * MIB, TOTAL),
    ]
    script = Script(looks, [CUT, CUT, Answer(201)])
    script.send()
    assert script.slept == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0] * 2
    assert script.time_s > 60


def test_a_retry_after_beyond_its_patience_ends_it() -> None:
    script = Script([Reached(0)], [Answer(503, "come back tomorrow", retry_after_s=86400)])
    assert "come back tomorrow" in script.refused().message
    assert script.slept == []


def test_another_file_than_the_one_that_was_begun_is_refused() -> None:
    script = Script([Reached(30 * MIB, TOTAL + 1)])
    assert f"of {TOTAL + 1} bytes" in script.refused().message
    assert script.sent == []


def test_an_address_that_is_closed_because_the_import_has_the_file_is_success() -> None:
    script = Script([Reached(0), Answer(404)], [CUT])
    script.wanted = False
    script.send()
    assert script.slept == [1.0]


def test_an_address_that_was_lost_is_looked_for_again() -> None:
    script = Script([Answer(404, "no such upload"), Reached(0)], [Answer(201)])
    script.send(5)
    assert script.sent == [(0, 5)]


def test_an_address_of_an_image_that_is_gone_ends_it() -> None:
    def gone() -> bool:
        raise ResourceError("vmi/x was deleted meanwhile")

    told: list[int] = []
    sender = Sender(
        Script([Answer(404)]),
        5,
        wanted=gone,
        progress=told.append,
        waiting=lambda *_: None,
        patience_s=60,
        now=lambda: 0.0,
    )
    with pytest.raises(ResourceError, match="was deleted meanwhile"):
        sender.send()
