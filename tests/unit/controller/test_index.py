"""Finding objects by what they say."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from controller.api.resource import POD
from controller.runtime.index import Index, IndexedObjects, Object, key_of


def colours(pod: Object) -> Iterator[str]:
    yield from pod["colours"]


COLOURS = Index(POD, colours)
PODS = st.builds(
    lambda name, given: {"metadata": {"name": name, "namespace": "default"}, "colours": given},
    st.sampled_from("abc"),
    st.lists(st.sampled_from(["red", "green", "blue"]), max_size=3),
)


@given(changes=st.lists(st.one_of(PODS, st.sampled_from("abc")), max_size=30), asked_after=st.integers(0, 30))
def test_what_is_found_is_what_a_look_at_all_objects_finds(changes: list[Object | str], asked_after: int) -> None:
    objects = IndexedObjects()
    for number, change in enumerate(changes):
        if number == asked_after:
            objects.find(COLOURS, "red")  # from now on there is a table
        if isinstance(change, str):
            objects.remove(("default", change))
        else:
            objects.put(change)
    for colour in ("red", "green", "blue"):
        found = objects.find(COLOURS, colour)
        assert sorted(map(key_of, found)) == sorted(map(key_of, COLOURS.pick(objects.all(), colour)))
        assert all(objects.get(key_of(obj)) is obj for obj in found)


def test_an_object_that_cannot_be_indexed_keeps_no_other_from_being_found() -> None:
    objects = IndexedObjects()
    assert objects.find(COLOURS, "red") == []
    broken = {"metadata": {"name": "broken", "namespace": "default"}}
    objects.put(broken)
    red = {"metadata": {"name": "red", "namespace": "default"}, "colours": ["red"]}
    objects.put(red)
    assert objects.find(COLOURS, "red") == [red]
    assert objects.get(("default", "broken")) == broken
    objects.remove(("default", "broken"))
    assert objects.all() == [red]
