from datetime import UTC, datetime, timedelta

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.x509 import load_pem_x509_certificate

from controller.certificates import Authority, covers, lifetime_left

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def test_a_certificate_is_signed_by_its_authority_alone() -> None:
    ours, others = Authority.create("ours", NOW), Authority.create("ours", NOW)

    issued = load_pem_x509_certificate(
        Authority(ours.pair).issue("a", ["a"], NOW, DAY, server=True, client=False).certificate
    )

    issued.verify_directly_issued_by(load_pem_x509_certificate(ours.pair.certificate))
    with pytest.raises(InvalidSignature):
        issued.verify_directly_issued_by(load_pem_x509_certificate(others.pair.certificate))


def test_a_certificate_answers_to_its_names_and_addresses() -> None:
    authority = Authority.create("ours", NOW)

    issued = authority.issue("a", ["a.test", "127.0.0.1"], NOW, DAY, server=True, client=True).certificate

    assert covers(issued, ["a.test"])
    assert covers(issued, ["127.0.0.1", "a.test"])
    assert not covers(issued, ["b.test"])


def test_the_lifetime_runs_out() -> None:
    issued = Authority.create("ours", NOW).issue("a", ["a"], NOW, DAY, server=True, client=True).certificate

    assert 0.99 < lifetime_left(issued, NOW) < 1
    assert 0.49 < lifetime_left(issued, NOW + DAY / 2) < 0.5
    assert lifetime_left(issued, NOW + DAY) == 0


def test_a_server_may_have_a_name_that_is_longer_than_a_subject() -> None:
    name = f"{'a' * 40}-controller.{'b' * 63}.svc"

    issued = Authority.create("ours", NOW).issue(name, [name], NOW, DAY, server=True, client=False).certificate

    assert covers(issued, [name])
