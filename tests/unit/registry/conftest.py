"""A registry over memory."""

import pytest

from dvcr.registry.registry import Registry
from tests.support.memory_storage import MemoryStorage


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def registry(storage: MemoryStorage) -> Registry:
    return Registry(storage)
