"""What the controller's `/metrics` shows."""

from prometheus_client import Counter, Gauge, Histogram

RECONCILE_SECONDS = Histogram(
    "dvcr_controller_reconcile_seconds",
    "Time of one pass over an object.",
    ["kind", "result"],
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60),
)
"""By result: `done`, `conflict` (the object changed meanwhile), `failed`, `crashed`."""
QUEUE_DEPTH = Gauge("dvcr_controller_queue_depth", "Objects that wait for a pass.", ["kind"])
LEADER = Gauge("dvcr_controller_leader", "1 in the replica that works, 0 in those that wait.")
PHASE_CHANGES = Counter("dvcr_controller_phase_changes", "Objects that came into the phase.", ["kind", "phase"])
