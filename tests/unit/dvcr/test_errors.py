import pytest

from dvcr.errors import DvcrError, NoSpaceError, NotFoundError, RegistryError, SourceError


def test_reason_and_retryable_have_defaults_that_an_instance_may_change() -> None:
    error = SourceError("gone", reason="SourceNotFound")
    assert (error.reason, error.retryable, error.message) == ("SourceNotFound", False, "gone")
    assert NoSpaceError("full").retryable is True
    assert NotFoundError("nothing").retryable is False


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (400, False), (429, True), (408, True), (503, True)])
def test_the_status_of_a_registry_decides_whether_to_retry(status: int, *, retryable: bool) -> None:
    assert RegistryError("no", status=status).retryable is retryable


def test_every_error_has_a_camel_case_reason() -> None:
    pending, seen = [DvcrError], []
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        seen.append(kind.default_reason)
    assert all(reason[:1].isupper() and reason.isalnum() for reason in seen)
