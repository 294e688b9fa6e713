"""Fixtures for every level, each in the module of the server it starts."""

pytest_plugins = ["tests.support.registry", "tests.support.s3_server", "tests.support.redis", "tests.support.cluster"]
