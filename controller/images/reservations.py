"""Images that somebody is about to use: the deletion of one does not overtake who has just read that it is there.

    who uses it:    reserve ──▶ read that it is there ──▶ make the claim, pod or job ──▶ the pass is over: settle
    its deletion:   read that it is to go ──▶ nobody has reserved it ──▶ nobody uses it ──▶ remove the artifact

What is known of an object never goes back. So whoever reads the image after its deletion did reads that it is to go,
and makes nothing. Whoever read it before had reserved it before that: the deletion finds the reservation or, once it is
settled, what was made, for own writes are known at once. How late it becomes known that the image is to go does not
matter: its deletion begins no sooner. The order of the steps is all there is to it: nobody waits for anybody, no lock
is held over a request, and a deletion that finds a reservation looks again a second later.

Kept in memory alone: only the leader makes and removes anything, and its passes have ended before those of another
begin, which knows what they made.
"""

import threading

from controller.api.resource import Resource
from controller.runtime.controller import Reconciler
from controller.runtime.errors import RefusedError
from controller.runtime.index import Identity, Key


class Reservations:
    """Who may be making something that reads from an image. Thread-safe; nothing blocks."""

    def __init__(self) -> None:
        self._images: dict[Identity, set[Identity]] = {}
        """By the objects that use them."""
        self._lock = threading.Lock()

    def reserve(self, image: Identity, user: Identity) -> None:
        """Have the image stay, unless it is to go already: that is to be read only after this. Idempotent."""
        with self._lock:
            self._images.setdefault(user, set()).add(image)

    def withdraw(self, image: Identity, user: Identity) -> None:
        """The image is not there, so nothing is made: the many that wait must not hold the deletion up. Idempotent."""
        with self._lock:
            self._images.get(user, set()).discard(image)

    def settle(self, user: Identity) -> None:
        """All images that the object uses can be seen in the cluster by now. Idempotent."""
        with self._lock:
            self._images.pop(user, None)

    def users(self, image: Identity) -> list[Identity]:
        """Who has reserved the image. To be asked for before what can be seen in the cluster."""
        with self._lock:
            return [user for user, images in self._images.items() if image in images]


class Settling:
    """A reconciler of objects that use images, the same but that each pass settles what it has reserved.

    A pass that breaks off leaves that to the next one: what it made may not be told in a status yet, or the answer may
    be lost. A refusal is an answer.
    """

    def __init__(self, resource: Resource, reconciler: Reconciler, reservations: Reservations) -> None:
        self._resource = resource
        self._reconciler = reconciler
        self._reservations = reservations

    def reconcile(self, key: Key) -> float | None:
        try:
            again_s = self._reconciler.reconcile(key)
        except RefusedError:
            self._reservations.settle((self._resource, key))
            raise
        self._reservations.settle((self._resource, key))
        return again_s
