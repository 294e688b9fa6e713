"""The registry as the controller remembers it for a moment."""

from controller.images.recent import FRESH_S, MAX_CHUNKS, RecentImages
from dvcr.artifact.store import StoredImage
from tests.unit.controller.world import MemoryImageRegistry


class Counting(MemoryImageRegistry):
    """Counts the questions."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def find(self, repository: str, tag: str) -> StoredImage | None:
        self.asked += 1
        return super().find(repository, tag)


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
    names = [f"image-{number}" for number in range(MAX_CHUNKS // 64 + 1)]
    for name in names:
        story.registry.add(name, "t")
        assert story.finds(name)
    asked = story.registry.asked

    assert story.finds(names[-1])
    assert story.registry.asked == asked
    assert story.finds(names[0])
    assert story.registry.asked == asked + 1
