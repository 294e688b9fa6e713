"""When a container that ended is started again."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Kubernetes' rule: the first restart is at once, then the pause doubles; a long run starts it over."""

    first_s: float = 10
    longest_s: float = 300
    forgiven_after_s: float = 600

    def next_s(self, restarts: int, last_s: float, ran_for_s: float) -> float:
        """The pause before the next start of a container that was restarted `restarts` times, last after `last_s`."""
        if restarts == 0 or ran_for_s >= self.forgiven_after_s:
            return 0
        return min(self.longest_s, max(self.first_s, 2 * last_s))


def restarts(policy: str, exit_code: int) -> bool:
    """Whether a pod's `restartPolicy` starts a container again that ended with this code."""
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)
