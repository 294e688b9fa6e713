"""The registry as the controller remembers it for a moment."""

import pytest

from controller.images.recent import AWAY_S, FRESH_S, MAX_IMAGES, PATIENCE_S, RecentImages
from controller.images.registry import Artifact
from dvcr.digest import Digest
from dvcr.errors import RegistryError
from tests.unit.controller.world import MemoryImageRegistry


class Counting(MemoryImageRegistry):
    """Counts the questions."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        """Times that an image was read."""
        self.looked = 0
        """Times that it was only looked for."""

    def find(self, repository: str, tag: str) -> Artifact | None:
        self.asked += 1
        return super().find(repository, tag)

    def find_digest(self, repository: str, tag: str) -> Digest | None:
        self.looked += 1
        stored = super().find(repository, tag)
        return stored.digest if stored else None


class Story:
    def __init__(self) -> None:
        self.now = 0.0
        self.registry = Counting()
        self.recent = RecentImages(self.registry, lambda: self.now)

    def finds(self, name: str = "a") -> bool:
        return self.recent.find(name, "t") is not None


def test_what_was_found_is_known_for_a_while() -> None:
    story = Story()
    story.registry.add("a", "t")

    assert [story.finds() for _ in range(3)] == [True] * 3
    assert story.registry.asked == 1
    story.now = FRESH_S
    story.registry.images.clear()
    assert not story.finds()


def test_what_is_not_there_is_asked_for_again_at_once() -> None:
    story = Story()
    assert not story.finds()

    story.registry.add("a", "t")

    assert story.finds()


def test_what_is_removed_is_gone_at_once() -> None:
    story = Story()
    story.registry.add("a", "t")
    assert story.finds()

    story.recent.remove("a", "t")

    assert not story.finds()


def test_only_so_much_is_remembered_and_the_oldest_goes_first() -> None:
    story = Story()
    names = [f"image-{number}" for number in range(MAX_IMAGES + 1)]
    for name in names:
        story.registry.add(name, "t")
        assert story.finds(name)
    asked = story.registry.asked

    assert story.finds(names[-1])
    assert story.registry.asked == asked
    assert story.finds(names[0])
    assert story.registry.asked == asked + 1


def test_what_is_known_is_not_read_again_as_long_as_the_registry_has_it() -> None:
    story = Story()
    story.registry.add("a", "t")
    assert story.finds()
    for _ in range(3):
        story.now += FRESH_S
        assert story.finds()
    assert (story.registry.asked, story.registry.looked) == (1, 3)

    story.registry.add("a", "t", digest="b")
    story.now += FRESH_S
    found = story.recent.find("a", "t")
    assert found is not None
    assert str(found.digest) == "sha256:" + "b" * 64


def away() -> RegistryError:
    return RegistryError("refused", code="UNAVAILABLE", status=503, reason="RegistryUnavailable")


def test_a_registry_that_is_away_for_a_moment_has_what_it_had() -> None:
    story = Story()
    story.registry.add("a", "t")
    assert story.finds()
    story.registry.error = away()

    story.now = PATIENCE_S - 0.1
    assert story.finds()
    story.now = PATIENCE_S
    with pytest.raises(RegistryError, match="refused"):
        story.finds()
    story.registry.error = None
    story.now += AWAY_S
    assert story.finds()


def test_a_registry_that_is_away_is_asked_by_one_of_many() -> None:
    story = Story()
    story.registry.error = away()
    for _ in range(3):
        with pytest.raises(RegistryError, match="refused") as caught:
            story.finds()
        assert (caught.value.reason, caught.value.retryable) == ("RegistryUnavailable", True)
    assert story.registry.asked == 1
    story.now = AWAY_S
    story.registry.error = None
    assert not story.finds("b")


def test_the_trouble_of_one_image_is_nothing_to_the_others() -> None:
    story = Story()
    story.registry.add("a", "t")
    story.registry.error = RegistryError("broken", status=500)
    with pytest.raises(RegistryError, match="broken"):
        story.finds()
    story.registry.error = None
    assert story.finds()
