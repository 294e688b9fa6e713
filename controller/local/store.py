"""The objects, durable: SQLite on disk, an image of it in memory, one thread that writes.

Every write is a function that the writer thread runs with a `Transaction`; it sees the newest state, so a
read-modify-write needs no retry, and either all of its changes happen or none. Writes that wait at the same moment
share one commit. What a caller was told is on disk (WAL, synchronous=FULL: sharing commits makes the fsync
affordable), and a kill at any moment leaves the state after some commit.

The resource version is one sequence over all resources; every change takes the next number and is kept, up to
`HISTORY_LENGTH` per resource, so that watches can resume across restarts.
"""

import asyncio
import json
import queue
import sqlite3
import threading
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from dvcr.errors import StorageError

HISTORY_LENGTH = 4096
_BATCH_LENGTH = 128

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    resource TEXT, namespace TEXT, name TEXT, version INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (resource, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (
    version INTEGER PRIMARY KEY, resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    type TEXT NOT NULL, body BLOB NOT NULL, before BLOB
);
CREATE INDEX IF NOT EXISTS changes_of_resource ON changes (resource, version);
CREATE TABLE IF NOT EXISTS compacted (resource TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
"""

Result = TypeVar("Result")
ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]


class Key(NamedTuple):
    """Where an object lives. `resource` is `plural.group`; `namespace` is empty for cluster-scoped objects."""

    resource: str
    namespace: str
    name: str


@dataclass(frozen=True, eq=False)
class Stored:
    """One version of an object. Nobody changes `obj`; `body` is its JSON."""

    key: Key
    version: int
    obj: dict[str, Any]
    body: bytes

    @property
    def uid(self) -> str:
        return str(self.obj["metadata"]["uid"])

    @property
    def owner_uids(self) -> set[str]:
        return {owner["uid"] for owner in self.obj["metadata"].get("ownerReferences") or ()}


@dataclass(frozen=True, eq=False)
class Change:
    """One step of the history. `after` of a deletion is the last state, at the deletion's version."""

    type: ChangeType
    after: Stored
    before: Stored | None

    @property
    def version(self) -> int:
        return self.after.version


class Image:
    """All objects at one resource version, with the indexes that cascades need."""

    def __init__(self) -> None:
        self.version = 0
        self._objects: defaultdict[str, dict[tuple[str, str], Stored]] = defaultdict(dict)
        self._by_uid: dict[str, Stored] = {}
        self._dependents: defaultdict[str, set[Key]] = defaultdict(set)

    def get(self, key: Key) -> Stored | None:
        return self._objects[key.resource].get((key.namespace, key.name))

    def of(self, resource: str, namespace: str = "") -> list[Stored]:
        """Objects of a resource by namespace and name; of all namespaces if `namespace` is empty."""
        found = self._objects[resource]
        return [found[at] for at in sorted(found) if not namespace or at[0] == namespace]

    def in_namespace(self, namespace: str) -> list[Stored]:
        """Objects of every resource in a namespace."""
        return [each for found in self._objects.values() for at, each in found.items() if at[0] == namespace]

    def by_uid(self, uid: str) -> Stored | None:
        return self._by_uid.get(uid)

    def dependents(self, uid: str) -> list[Stored]:
        """Objects that name `uid` as an owner."""
        found = (self.get(key) for key in sorted(self._dependents.get(uid, ())))
        return [each for each in found if each is not None]

    def replace(self, before: Stored | None, after: Stored | None) -> None:
        """Put `after` where `before` was; either may be absent."""
        if before is not None:
            del self._objects[before.key.resource][before.key.namespace, before.key.name]
            self._by_uid.pop(before.uid, None)
            for uid in before.owner_uids:
                self._dependents[uid].discard(before.key)
                if not self._dependents[uid]:
                    del self._dependents[uid]
        if after is not None:
            self._objects[after.key.resource][after.key.namespace, after.key.name] = after
            self._by_uid[after.uid] = after
            for uid in after.owner_uids:
                self._dependents[uid].add(after.key)


@dataclass
class History:
    """The newest changes of one resource. Changes up to version `compacted` are forgotten."""

    changes: list[Change] = field(default_factory=list)
    compacted: int = 0

    def since(self, version: int) -> list[Change]:
        return self.changes[bisect_right(self.changes, version, key=lambda change: change.version) :]

    def append(self, change: Change) -> None:
        self.changes.append(change)
        # Trimmed by halves: dropping the head of a list moves all of it.
        if len(self.changes) > 2 * HISTORY_LENGTH:
            self.compacted = self.changes[-HISTORY_LENGTH - 1].version
            del self.changes[:-HISTORY_LENGTH]


class Transaction:
    """The newest state, and the changes that one write makes to it."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.changes: list[Change] = []

    def put(self, key: Key, obj: dict[str, Any]) -> Stored:
        """Create or replace an object; sets its resource version. The caller gives `obj` away."""
        before = self.image.get(key)
        after = self._next(key, obj)
        self.image.replace(before, after)
        self.changes.append(Change("ADDED" if before is None else "MODIFIED", after, before))
        return after

    def remove(self, key: Key) -> Stored:
        """Delete an object that exists; returns its last state."""
        before = self.image.get(key)
        assert before is not None, key
        gone = self._next(key, {**before.obj, "metadata": dict(before.obj["metadata"])})
        self.image.replace(before, None)
        self.changes.append(Change("DELETED", gone, before))
        return gone

    def undo(self) -> None:
        """Take all changes back."""
        for change in reversed(self.changes):
            self.image.replace(None if change.type == "DELETED" else change.after, change.before)
        if self.changes:
            self.image.version = self.changes[0].version - 1
        self.changes = []

    def _next(self, key: Key, obj: dict[str, Any]) -> Stored:
        self.image.version += 1
        obj["metadata"]["resourceVersion"] = str(self.image.version)
        return Stored(key, self.image.version, obj, json.dumps(obj, separators=(",", ":")).encode())


@dataclass
class _Write:
    run: Callable[[Transaction], Any]
    dry_run: bool
    done: "asyncio.Future[Any]"
    result: Any = None
    error: Exception | None = None

    def settle(self) -> None:
        # The caller may have gone away meanwhile.
        if self.done.cancelled():
            return
        if self.error is not None:
            self.done.set_exception(self.error)
        else:
            self.done.set_result(self.result)


class Store:
    """The durable objects. `image` and `history` belong to the event loop; writes go through `write`."""

    def __init__(self, path: Path) -> None:
        """Open or create the database. Raises StorageError if it cannot be used."""
        self._path = path
        self.image = Image()
        self._histories: defaultdict[str, History] = defaultdict(History)
        self._newest = Image()  # the writer's: ahead of `image` while a commit is on its way
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._listeners: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        try:
            self._database = sqlite3.connect(path, timeout=1, check_same_thread=False, isolation_level=None)
            # Two servers over one database would each believe in their own image of it.
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(_SCHEMA)
            self._load()
        except sqlite3.Error as exc:
            raise StorageError(f"cannot use the cluster's database {path}: {exc}") from exc

    def start(self) -> None:
        """Begin to take writes; results and changes appear on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Finish the writes that were accepted, then close the database."""
        if self._thread is not None:
            self._writes.put(None)
            await asyncio.to_thread(self._thread.join)
        self._database.close()

    async def write(self, run: Callable[[Transaction], Result], *, dry_run: bool = False) -> Result:
        """Run `run` on the newest state and make its changes durable, all or none.

        What `run` raises reaches the caller and changes nothing; so does a dry run. Raises StorageError if the disk
        refuses the changes.
        """
        done: asyncio.Future[Result] = self._loop.create_future()
        self._writes.put(_Write(run, dry_run, done))
        return await done

    def history(self, resource: str) -> History:
        return self._histories[resource]

    def listen(self, resource: str, changed: asyncio.Event) -> None:
        """Set `changed` after each commit that touches `resource`."""
        self._listeners[resource].add(changed)

    def unlisten(self, resource: str, changed: asyncio.Event) -> None:
        self._listeners[resource].discard(changed)

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            if not batch:
                return
            self._perform(batch)

    def _next_batch(self) -> list[_Write]:
        first = self._writes.get()
        if first is None:
            return []
        batch = [first]
        while len(batch) < _BATCH_LENGTH:
            try:
                write = self._writes.get_nowait()
            except queue.Empty:
                break
            if write is None:
                self._writes.put(None)
                break
            batch.append(write)
        return batch

    def _perform(self, batch: list[_Write]) -> None:
        made: list[tuple[_Write, Transaction]] = []
        for write in batch:
            transaction = Transaction(self._newest)
            try:
                write.result = write.run(transaction)
            except Exception as exc:  # noqa: BLE001 - it belongs to the caller, who gets it
                write.error = exc
            if write.dry_run or write.error is not None:
                transaction.undo()
            made.append((write, transaction))
        changes = [change for _, transaction in made for change in transaction.changes]
        try:
            self._commit(changes)
        except sqlite3.Error as exc:
            for write, transaction in reversed(made):
                transaction.undo()
                write.error = write.error or StorageError(
                    f"the cluster's database {self._path} did not take a write: {exc}"
                )
            changes = []
        self._loop.call_soon_threadsafe(self._publish, changes, batch)

    def _commit(self, changes: list[Change]) -> None:
        if not changes:
            return
        try:
            self._database.execute("BEGIN IMMEDIATE")
            for change in changes:
                self._persist(change)
            self._database.execute("COMMIT")
        except sqlite3.Error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _persist(self, change: Change) -> None:
        after = change.after
        if change.type == "DELETED":
            self._database.execute("DELETE FROM objects WHERE resource=? AND namespace=? AND name=?", after.key)
        else:
            self._database.execute(
                "INSERT OR REPLACE INTO objects VALUES (?,?,?,?,?)", (*after.key, after.version, after.body)
            )
        before = change.before.body if change.before else None
        self._database.execute(
            "INSERT INTO changes VALUES (?,?,?,?,?,?,?)", (after.version, *after.key, change.type, after.body, before)
        )
        if after.version % HISTORY_LENGTH == 0:
            self._compact()

    def _compact(self) -> None:
        resources = [row[0] for row in self._database.execute("SELECT DISTINCT resource FROM changes")]
        for resource in resources:
            row = self._database.execute(
                "SELECT version FROM changes WHERE resource=? ORDER BY version DESC LIMIT 1 OFFSET ?",
                (resource, HISTORY_LENGTH),
            ).fetchone()
            if row:
                self._database.execute("DELETE FROM changes WHERE resource=? AND version<=?", (resource, row[0]))
                self._database.execute("INSERT OR REPLACE INTO compacted VALUES (?,?)", (resource, row[0]))

    def _publish(self, changes: list[Change], batch: list[_Write]) -> None:
        for change in changes:
            self.image.replace(change.before, None if change.type == "DELETED" else change.after)
            self.image.version = change.version
            self._histories[change.after.key.resource].append(change)
        for write in batch:
            write.settle()
        for resource in {change.after.key.resource for change in changes}:
            for changed in self._listeners[resource]:
                changed.set()

    def _load(self) -> None:
        for resource, version in self._database.execute("SELECT resource, version FROM compacted"):
            self._histories[resource].compacted = version
            self._newest.version = max(self._newest.version, version)
        for row in self._database.execute("SELECT resource, namespace, name, body FROM objects"):
            stored = _stored(Key(*row[:3]), row[3])
            self._newest.replace(None, stored)
            self.image.replace(None, stored)
        for change in self._load_changes():
            self._histories[change.after.key.resource].append(change)
            self._newest.version = max(self._newest.version, change.version)
        self.image.version = self._newest.version

    def _load_changes(self) -> Iterator[Change]:
        rows = self._database.execute(
            "SELECT resource, namespace, name, type, body, before FROM changes ORDER BY version"
        )
        for resource, namespace, name, type_, body, before in rows:
            key = Key(resource, namespace, name)
            yield Change(type_, _stored(key, body), _stored(key, before) if before else None)


def _stored(key: Key, body: bytes) -> Stored:
    obj = json.loads(body)
    return Stored(key, int(obj["metadata"]["resourceVersion"]), obj, body)
