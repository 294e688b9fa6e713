from pathlib import Path

from controller.launcher.confinement import Confinement


def test_another_user_without_groups_and_capabilities_runs_qemu() -> None:
    assert Confinement(1879048193, drops_bounding_set=True).command(["qemu", "-S"]) == [
        "setpriv", "--pdeathsig", "KILL", "--no-new-privs", "--inh-caps", "-all", "--ambient-caps", "-all",
        "--reuid", "1879048193", "--regid", "1879048193", "--clear-groups", "--bounding-set", "-all",
        "--", "qemu", "-S",
    ]  # fmt: skip


def test_the_group_of_the_kvm_device_is_the_only_one() -> None:
    assert Confinement(1879048193, (36,)).command([])[12:14] == ["--groups", "36"]


def test_a_launcher_that_is_not_root_starts_qemu_as_itself() -> None:
    assert "--reuid" not in Confinement().command(["qemu"])
    assert "--no-new-privs" in Confinement().command(["qemu"])


def test_a_place_below_a_closed_folder_cannot_be_reached_by_another_user(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)

    assert not Confinement(1879048193).reaches(closed / "run")
    assert Confinement().reaches(closed / "run")


def test_a_folder_admits_this_user_only(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)

    Confinement().admit(folder)

    assert folder.stat().st_mode & 0o777 == 0o700
