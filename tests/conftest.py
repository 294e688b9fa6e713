"""Fixtures for every level, each in the module of the server it starts."""

import pytest

pytest_plugins = [
    "tests.support.registry",
    "tests.support.s3_server",
    "tests.support.redis",
    "tests.support.cluster",
    "tests.support.containers",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--kubernetes`: clusters of tests are real control planes, see tests/support/kubernetes.py."""
    parser.addoption("--kubernetes", action="store_true", help="a real kube-apiserver instead of the embedded one")
