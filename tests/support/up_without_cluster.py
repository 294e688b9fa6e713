"""`dvcr up` without the embedded API server, as `python -m`: its folder holds another one's `kubeconfig`."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from controller.local.up.commands import run
from controller.local.up.plan import choose_ports, make_plan


def main(data: Path) -> None:
    plan = make_plan(data, choose_ports(data, 0, 0, 0))
    others = tuple(process for process in plan.processes if process.name != "cluster")
    asyncio.run(run(data, replace(plan, processes=others)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
