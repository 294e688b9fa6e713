"""What is believed of an answer's headers."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import requests

from importer.sources.answer import NoRangeError, check_busy, content_length, content_range
from importer.sources.request import BrokenError


def answer(status: int = 200, **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


def test_length() -> None:
    assert content_length(answer(Content_Length="12")) == 12
    assert content_length(answer(Content_Length="12", Transfer_Encoding="chunked")) is None


@pytest.mark.parametrize("text", ["", "²", "\u0661", "-1", "+1", "1_0", "1, 1", "9" * 20, "1" * 5000])
def test_a_length_that_is_none_is_not_told(text: str) -> None:
    assert content_length(answer(Content_Length=text)) is None
    for value in (f"bytes {text}-5/9", f"bytes 0-{text}/9", f"bytes 0-5/{text}"):
        with pytest.raises(NoRangeError, match="without a usable Content-Range"):
            content_range(answer(206, Content_Range=value))


def test_range() -> None:
    assert content_range(answer(206, Content_Range="bytes 3-5/9")) == (3, 9)
    assert content_range(answer(206, Content_Range="bytes 3-5/*")) == (3, None)
    assert content_range(answer(416, Content_Range="bytes */9")) == (0, 9)


def after_s(status: int, text: str) -> float:
    with pytest.raises(BrokenError) as caught:
        check_busy(answer(status, Retry_After=text))
    return caught.value.after_s


def test_when_to_ask_again() -> None:
    assert after_s(429, "60") == 60
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert after_s(503, in_a_minute) == pytest.approx(60, abs=5)
    assert after_s(503, "Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize("text", ["", "soon", "²", "-5", "1" * 5000, "Wed, 21 Oct 2015 07:28:00 +99999999999999"])
def test_nonsense_is_no_time_to_wait(text: str) -> None:
    assert after_s(503, text) == 0
