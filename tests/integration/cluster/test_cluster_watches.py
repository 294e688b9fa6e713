"""Watches as a peer sees them: every change, once, in its order."""

import time
from concurrent.futures import ThreadPoolExecutor

from tests.support.embedded_api import CONFIG_MAPS, MERGE, Api, config_map


def test_a_watch_resumes_where_it_was_and_follows_its_selector(api: Api) -> None:
    version = api("GET", CONFIG_MAPS)["metadata"]["resourceVersion"]
    api("POST", CONFIG_MAPS, config_map("seen", labels={"watch": "yes"}), code=201)
    label = {"metadata": {"labels": {"watch": "no"}}}
    api("PATCH", f"{CONFIG_MAPS}/seen", label, headers=MERGE)
    api("PATCH", f"{CONFIG_MAPS}/seen", {"metadata": {"labels": {"watch": "yes"}}}, headers=MERGE)
    api("DELETE", f"{CONFIG_MAPS}/seen")
    selected = list(
        api.watch(
            CONFIG_MAPS, resourceVersion=version, labelSelector="watch=yes", timeoutSeconds=1, allowWatchBookmarks=1
        )
    )
    assert [event["type"] for event in selected] == ["ADDED", "DELETED", "ADDED", "DELETED", "BOOKMARK"]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in selected]
    assert versions == sorted(versions)
    everything = list(api.watch(CONFIG_MAPS, resourceVersion=version, timeoutSeconds=1))
    assert [event["type"] for event in everything] == ["ADDED", "MODIFIED", "MODIFIED", "DELETED"]


def test_a_watch_without_a_version_begins_with_what_is_there(api: Api) -> None:
    path = "/apis/test.dvcr.io/v1/things"
    present = {each["metadata"]["name"] for each in api("GET", path)["items"]}
    events = list(api.watch(path, resourceVersion="0", timeoutSeconds=1))
    assert {event["object"]["metadata"]["name"] for event in events} == present
    streamed = api.watch(path, sendInitialEvents="true", resourceVersionMatch="NotOlderThan", timeoutSeconds=1)
    last = next(event for event in streamed if event["type"] == "BOOKMARK")
    assert last["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_a_watch_loses_and_repeats_nothing_under_concurrent_writes(api: Api) -> None:
    writers, rounds = 4, 200
    api("POST", "/api/v1/namespaces", {"metadata": {"name": "stress"}}, code=201)
    path = "/api/v1/namespaces/stress/configmaps"
    version = api("GET", path)["metadata"]["resourceVersion"]
    total = writers * rounds * 3
    ends: list[list[tuple[str, str, int]]] = []

    def follow(start_late_s: float) -> list[tuple[str, str, int]]:
        time.sleep(start_late_s)  # so that some history is resumed and some is live
        seen = []
        for event in Api(api.cluster).watch(path, resourceVersion=version, timeoutSeconds=60):
            metadata = event["object"]["metadata"]
            seen.append((event["type"], metadata["name"], int(metadata["resourceVersion"])))
            if len(seen) == total:
                break
        return seen

    def write(number: int) -> list[tuple[str, str, int]]:
        mine = Api(api.cluster)
        done = []
        for index in range(rounds):
            name = f"w{number}-{index}"
            made = mine("POST", path, config_map(name), code=201)
            done.append(("ADDED", name, int(made["metadata"]["resourceVersion"])))
            changed = mine("PUT", f"{path}/{name}", {**made, "data": {"a": "2"}})
            done.append(("MODIFIED", name, int(changed["metadata"]["resourceVersion"])))
            mine("DELETE", f"{path}/{name}")
        return done

    with ThreadPoolExecutor(writers + 2) as pool:
        followers = [pool.submit(follow, late_s) for late_s in (0, 0.5)]
        written = [each for writer in [pool.submit(write, n) for n in range(writers)] for each in writer.result()]
        ends = [follower.result() for follower in followers]
    assert ends[0] == ends[1]
    versions = [version for _, _, version in ends[0]]
    assert len(versions) == total
    assert versions == sorted(set(versions))
    assert sorted(event for event in ends[0] if event[0] != "DELETED") == sorted(written)
    assert len({name for type_, name, _ in ends[0] if type_ == "DELETED"}) == writers * rounds
