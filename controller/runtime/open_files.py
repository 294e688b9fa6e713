"""How many files and connections the process may have open."""

import resource


def allow_many() -> int:
    """Raise the limit as far as the system lets this process, as Go's programs do; the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
