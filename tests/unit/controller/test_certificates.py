from datetime import UTC, datetime, timedelta

from controller.certificates import Authority, covers, lifetime_left

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def test_a_certificate_is_known_by_its_authority_alone() -> None:
    ours, others = Authority.create("ours", NOW), Authority.create("ours", NOW)

    issued = ours.issue("a", ["a"], NOW, DAY, server=True, client=False).certificate

    assert ours.issued(issued)
    assert not others.issued(issued)
    assert Authority(ours.pair).issued(issued)


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
