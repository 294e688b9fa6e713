"""The official conformance program of distribution-spec against `dvcr serve` over every storage: `make conformance`."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.support.go_tool import CONFORMANCE, build
from tests.support.registry import RegistryServer
from tests.support.s3_server import environment, run_versitygw

VERSIONS = ("1.1", "dev")

# What the program leaves out unless it is asked for, in either version.
_EVERYTHING = {
    "OCI_API_BLOBS_DIGEST_HEADER": "true",
    "OCI_API_BLOBS_UPLOAD_CANCEL": "true",
    "OCI_API_MANIFESTS_DIGEST_HEADER": "true",
    "OCI_API_MANIFESTS_TAG_PARAM": "true",
    "OCI_DATA_SPARSE": "true",
}
# The spec lets a registry refuse an image whose layers are missing, and ours does; the program expects that it doesn't.
_SETTINGS = {"DVCR__REGISTRY__SPARSE_IMAGES": "true"}


@contextmanager
def _filesystem() -> Iterator[Mapping[str, str]]:
    yield {}


@contextmanager
def _s3() -> Iterator[Mapping[str, str]]:
    with run_versitygw() as server:
        yield environment(server.bucket())


# For each storage what runs beside the registry, and the settings that lead there.
STORAGES: dict[str, Callable[[], AbstractContextManager[Mapping[str, str]]]] = {"filesystem": _filesystem, "s3": _s3}


@dataclass(frozen=True)
class Outcome:
    """What the program found; `complaints` are its words for everything that did not pass."""

    passed: int
    failed: int
    errors: int
    skipped: int
    complaints: tuple[str, ...]
    exit_code: int

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.errors} errors, {self.skipped} skipped"


def run(root: Path, settings: Mapping[str, str], version: str, results_dir: Path) -> Outcome:
    """Run all that the program can test against a registry of its own; its reports stay in `results_dir`."""
    results_dir.mkdir(parents=True, exist_ok=True)
    with RegistryServer(root, _SETTINGS | dict(settings)) as server:
        return _run(server, version, results_dir)


def _run(server: RegistryServer, version: str, results_dir: Path) -> Outcome:
    environment = {
        "OCI_REGISTRY": server.address,
        "OCI_TLS": "disabled",
        "OCI_REPO1": "conformance/one",
        "OCI_REPO2": "conformance/two",
        "OCI_VERSION": version,
        "OCI_RESULTS_DIR": str(results_dir),
    }
    done = subprocess.run(
        [build(CONFORMANCE)],
        env=os.environ | _EVERYTHING | environment,
        cwd=results_dir,  # it would read a configuration file from the current folder
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    report = results_dir / "junit.xml"
    assert report.exists(), done.stdout + done.stderr
    suite = next(ElementTree.parse(report).iter("testsuite"))
    failed, errors, skipped = (int(suite.get(name, "0")) for name in ("failures", "errors", "skipped"))
    return Outcome(
        passed=int(suite.get("tests", "0")) - failed - errors - skipped,
        failed=failed,
        errors=errors,
        skipped=skipped,
        complaints=tuple(
            f"{case.get('status')}: {case.get('name')}: {case.findtext('system-out', '')}"
            for case in suite.iter("testcase")
            if case.get("status") != "passed"
        ),
        exit_code=done.returncode,
    )


def main() -> int:
    """Run every version against every storage asked for, and print a line for each; 1 if anything did not pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", choices=STORAGES, action="append", help="all of them, unless given")
    parser.add_argument("--results", type=Path, default=Path("build/conformance"), help="folder for the reports")
    options = parser.parse_args()
    exit_code = 0
    for storage in options.storage or STORAGES:
        for version in VERSIONS:
            results_dir = (options.results / f"{storage}-{version}").absolute()
            with tempfile.TemporaryDirectory(prefix="conformance") as root, STORAGES[storage]() as settings:
                outcome = run(Path(root), settings, version, results_dir)
            print(f"{storage}, OCI {version}: {outcome}", flush=True)
            for complaint in outcome.complaints:
                print(f"    {complaint}")
            exit_code |= outcome.exit_code
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
