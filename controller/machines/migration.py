"""Moving a machine to another node, one look at a time.

    asked ──▶ recorded ──▶ target pod ──▶ its launcher waits ──▶ memory is sent ──▶ it runs there ──▶ source pod goes
                 └─────────── anything wrong before it runs there: the target pod goes, the machine runs on here

All that has to be known is in the machine's status and in the two launchers, so a controller that starts again goes on.
"""

import threading
from typing import Protocol

from controller.api.machine import MachinePhase, Migration, MigrationPhase
from controller.api.resource import MACHINE, POD, SECRET
from controller.launcher.spec import MachineSpec, MigrationOrder
from controller.machines.authority import MachineAuthority
from controller.machines.image_access import image_scopes
from controller.machines.launcher_status import LauncherError, LauncherStatus
from controller.machines.migration_decision import Action, Decision, Side, View, decide
from controller.machines.migration_obstacle import obstacle
from controller.machines.migration_target import build_target
from controller.machines.pod import is_finished, is_ready, machine_files, moved_pod_name, termination_of
from controller.machines.power import intent
from controller.machines.request import MOVES, PowerRequest
from controller.machines.states import MIGRATABLE, MIGRATING
from controller.machines.visit import Flow, Visit
from controller.pod_secret import build_secret, give_secret, put_secret
from controller.registry_access import ACCESS_ANNOTATION, RegistryAccess
from controller.runtime.conditions import read_time, write_time
from controller.runtime.errors import ClusterError, concerns_users
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort
from dvcr.config import MigrationSettings
from dvcr.errors import RegistryError

_LOOK_S = 0.5
_TURN_S = 3.0
_ORDER_TIMEOUT_S = 10.0


class MigrationLaunchers(LauncherStatus, Protocol):
    """The launchers of the two pods. All but `read` raise LauncherError."""

    def specification(self, pod: Object) -> MachineSpec:
        """What another launcher has to be started with to be the same machine, as it is now."""
        ...

    def send(self, pod: Object, order: MigrationOrder) -> None: ...

    def cancel(self, pod: Object) -> None: ...

    def roll_back(self, pod: Object) -> None: ...

    def resume(self, pod: Object) -> None: ...


def is_under_way(migration: Migration | None) -> bool:
    """Whether the machine may have two pods that matter."""
    return migration is not None and migration.phase in (MigrationPhase.PREPARING, MigrationPhase.MOVING)


class Migrate:
    """The step that carries out the operations Migrate and Evict. While a machine moves, no other step acts on it."""

    def __init__(
        self,
        cluster: ClusterPort,
        authority: MachineAuthority,
        access: RegistryAccess,
        launchers: MigrationLaunchers,
        settings: MigrationSettings,
    ) -> None:
        self._cluster = cluster
        self._authority = authority
        self._access = access
        self._launchers = launchers
        self._settings = settings
        self._turns = threading.Lock()

    def __call__(self, visit: Visit) -> Flow:
        move = visit.status.migration
        if move is not None and is_under_way(move):
            return self._advance(visit, move)
        asked = visit.asked
        if asked is None or asked.type not in MOVES or (move is not None and move.operation == asked.uid):
            return Flow.ON
        return self._begin(visit, asked)

    def _begin(self, visit: Visit, asked: PowerRequest) -> Flow:
        pod = visit.pod
        if pod is None or is_finished(pod) or visit.machine.deleting or "deletionTimestamp" in pod["metadata"]:
            # The operation was allowed, but the machine has ended since.
            visit.status.migration = self._migration(visit, asked, pod)
            return self._fail(visit, visit.status.migration, "NotRunning", "the machine does not run")
        move = self._migration(visit, asked, pod)
        found = obstacle(self._cluster, visit.spec, pod, self._launchers.read(pod))
        if found is not None:
            visit.status.migration = move
            return self._fail(visit, move, found.reason, found.message)
        with self._turns:
            waits = self._waits_for_turn(move.source_node)
            if waits:
                visit.machine.condition(MIGRATING, False, "WaitsForTurn", waits)
                visit.look_again(_TURN_S)
                return Flow.ON
            visit.status.migration = move
            visit.status.phase = MachinePhase.MIGRATING
            visit.machine.condition(MIGRATING, True, "Preparing", "a pod on another node is made")
            # Within the lock, so that the next machine counts this one.
            visit.machine.save()
        visit.look_again(_LOOK_S)
        return Flow.END

    def _migration(self, visit: Visit, asked: PowerRequest, pod: Object | None) -> Migration:
        name = pod["metadata"]["name"] if pod else ""
        node = (pod["spec"].get("nodeName") if pod else None) or ""
        return Migration(
            operation=asked.uid,
            phase=MigrationPhase.PREPARING,
            source_node=node,
            source_pod=name,
            target_pod=moved_pod_name(visit.machine.name, asked.uid),
            started_at=write_time(visit.now),
        )

    def _waits_for_turn(self, node: str) -> str:
        """Why the machine cannot leave the node yet; empty if it can."""
        moving = []
        for machine in self._cluster.list(MACHINE):
            migration = (machine.get("status") or {}).get("migration")
            if migration and is_under_way(Migration.read(migration)):
                moving.append(migration["sourceNode"])
        if len(moving) >= self._settings.total:
            return f"waits: {len(moving)} machines move already (migration.total)"
        if moving.count(node) >= self._settings.per_node:
            return f"waits: {moving.count(node)} machines leave node {node} already (migration.per_node)"
        return ""

    def _advance(self, visit: Visit, move: Migration) -> Flow:
        target = self._cluster.get(POD, move.target_pod, visit.machine.namespace)
        if target is not None and move.target_uid is None:
            # Whoever made it did not come to note it, and perhaps not to the last step before either.
            move.target_uid = target["metadata"]["uid"]
            give_secret(self._cluster, target)
        elif target is not None and target["metadata"]["uid"] != move.target_uid:
            target = None
        move.target_node = target["spec"].get("nodeName") if target else move.target_node
        view = self._look(visit, move, target)
        decision = decide(view)
        visit.status.phase = MachinePhase.MIGRATING
        visit.look_again(_LOOK_S)
        try:
            return self._act(visit, move, decision, view, target)
        except (LauncherError, RegistryError, ClusterError) as exc:
            if not concerns_users(exc):
                raise
            # A launcher or the registry stopped answering between the look and the word, or the cluster refuses the
            # pod: it is decided anew at the next look.
            visit.machine.condition(MIGRATING, True, exc.reason, exc.message)
            return Flow.END

    def _look(self, visit: Visit, move: Migration, target: Object | None) -> View:
        age_s = (visit.now - read_time(move.started_at)).total_seconds()
        asked = visit.request is not None and visit.request.uid == move.operation
        runs = intent(visit.spec.run_policy, visit.power).on and not visit.machine.deleting
        return View(
            id=move.operation,
            wanted=asked and runs,
            created=move.target_uid is not None,
            overdue=age_s > self._settings.start_timeout_s,
            reachable=bool(((target or {}).get("status") or {}).get("podIP")),
            source=self._side(visit.pod),
            target=self._side(target),
        )

    def _side(self, pod: Object | None) -> Side:
        if pod is None:
            return Side(exists=False)
        if is_finished(pod):
            return Side(exists=False, end=termination_of(pod))
        return Side(exists=True, launcher=self._launchers.read(pod))

    def _act(self, visit: Visit, move: Migration, decision: Decision, view: View, target: Object | None) -> Flow:
        source = visit.pod
        match decision.action:
            case Action.COMPLETE:
                return self._complete(visit, move, view, target)
            case Action.FAIL:
                return self._fail(visit, move, decision.reason, decision.message)
            case Action.GIVE_UP if source is not None:
                # Its guest stands still for good; with its pod gone, the machine starts anew.
                visit.delete_pod(source)
                return self._fail(visit, move, decision.reason, decision.message)
            case Action.CREATE if source is not None:
                self._create_target(visit, move, source)
            case Action.ORDER if source is not None and target is not None:
                order = MigrationOrder(
                    id=move.operation,
                    address=target["status"]["podIP"],
                    bandwidth_bytes=self._settings.bandwidth_bytes,
                    downtime_ms=self._settings.downtime_ms,
                    progress_timeout_s=self._settings.progress_timeout_s,
                )
                self._launchers.send(source, order)
                move.phase = MigrationPhase.MOVING
            case Action.CANCEL if source is not None:
                self._launchers.cancel(source)
            case Action.ROLL_BACK if source is not None:
                self._launchers.roll_back(source)
            case Action.RESUME if target is not None:
                self._launchers.resume(target)
        visit.machine.condition(MIGRATING, True, decision.reason or "Moving", decision.message)
        return Flow.END

    def _create_target(self, visit: Visit, move: Migration, source: Object) -> None:
        name, namespace = move.target_pod, source["metadata"]["namespace"]
        spec = self._launchers.specification(source).model_copy(update={"incoming": True})
        target = build_target(name, source, visit.spec)
        files = machine_files(spec) | self._authority.issue(visit.machine.uid)
        grant = self._access.grant(image_scopes(visit, source))
        if grant is not None:
            target["metadata"]["annotations"][ACCESS_ANNOTATION] = grant.note
            files |= grant.files
        put_secret(self._cluster, build_secret(name, namespace, visit.machine.owner_reference(), files))
        pod = self._cluster.create(POD, target)
        move.target_uid = pod["metadata"]["uid"]
        give_secret(self._cluster, pod)

    def _complete(self, visit: Visit, move: Migration, view: View, target: Object | None) -> Flow:
        here = view.source.launcher
        if here is not None and here.migration is not None:
            move.downtime_milliseconds, move.total_milliseconds = here.migration.downtime_ms, here.migration.total_ms
        move.phase, move.ended_at = MigrationPhase.COMPLETED, write_time(visit.now)
        move.leftover = move.source_pod
        visit.status.active_pod = move.target_pod
        if visit.request is not None and visit.request.uid == move.operation:
            visit.power.operation = move.operation
        message = f"moved from node {move.source_node} to node {move.target_node}"
        visit.machine.condition(MIGRATING, False, "Completed", message)
        visit.pod = target
        return Flow.ON

    def _fail(self, visit: Visit, move: Migration, reason: str, message: str) -> Flow:
        move.phase, move.ended_at = MigrationPhase.FAILED, write_time(visit.now)
        move.reason, move.message = reason, message
        move.leftover = move.target_pod
        visit.machine.condition(MIGRATING, False, reason, message)
        return Flow.ON


def remove_leftover(visit: Visit) -> Flow:
    """The step that removes the pod which the machine no longer needs after a move."""
    move = visit.status.migration
    if move is None or not move.leftover:
        return Flow.ON
    pod = visit.cluster.get(POD, move.leftover, visit.machine.namespace)
    if pod is None or move.leftover == (visit.pod or {}).get("metadata", {}).get("name"):
        if pod is None and move.leftover == move.target_pod:
            # There is still one if its pod was never made.
            visit.cluster.delete(SECRET, move.target_pod, visit.machine.namespace)
        move.leftover = None
        return Flow.ON
    if is_finished(pod) or "deletionTimestamp" not in pod["metadata"]:
        visit.delete_pod(pod, grace_period_s=0 if is_finished(pod) else None)
    visit.look_again(1)
    return Flow.ON


def tell_migratable(visit: Visit) -> Flow:
    """The step that says whether the machine could move."""
    pod = visit.pod
    runs = pod is not None and (is_ready(pod) or visit.launcher is not None)
    if pod is None or not runs or "deletionTimestamp" in pod["metadata"]:
        visit.machine.condition(MIGRATABLE, False, "NotRunning", "the guest does not run")
        return Flow.ON
    found = obstacle(visit.cluster, visit.spec, pod, visit.launcher)
    if found is None:
        visit.machine.condition(MIGRATABLE, True, "Migratable", "the machine can move to another node")
    else:
        visit.machine.condition(MIGRATABLE, False, found.reason, found.message)
    return Flow.ON
