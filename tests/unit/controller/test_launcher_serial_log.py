import asyncio
from pathlib import Path

from controller.launcher.serial_log import SerialLog


def text(log: SerialLog) -> bytes:
    async def read() -> bytes:
        return b"".join([piece async for piece in log.pieces(follow=False)])

    return asyncio.run(read())


def run(folder: Path, *pieces: bytes, limit_bytes: int = 1000, resumed: bool = False) -> SerialLog:
    log = SerialLog(folder, limit_bytes, resumed=resumed)
    for piece in pieces:
        log.append(piece)
    log.close()
    return log


def test_the_log_of_a_run_is_what_was_written(tmp_path: Path) -> None:
    assert text(run(tmp_path / "new", b"hello ", b"world\n")) == b"hello world\n"


def test_the_oldest_bytes_go_and_the_newest_stay(tmp_path: Path) -> None:
    log = run(tmp_path, *(b"%04d\n" % number for number in range(1000)), limit_bytes=100)

    kept = text(log)
    assert 50 <= len(kept) <= 100
    assert kept.endswith(b"0998\n0999\n")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 100


def test_the_run_before_stays_and_the_one_before_that_goes(tmp_path: Path) -> None:
    run(tmp_path, b"first")
    run(tmp_path, b"x" * 60, b"second", limit_bytes=100)
    third = SerialLog(tmp_path, 100)
    assert b"".join(third.previous()).endswith(b"second")
    assert text(third) == b""

    third.append(b"third")

    assert b"".join(third.previous()) == b"x" * 60 + b"second"
    assert text(third) == b"third"
    third.close()


def test_a_machine_that_moved_goes_on_with_its_log(tmp_path: Path) -> None:
    run(tmp_path, b"before")
    run(tmp_path, b"a" * 60, b"b", limit_bytes=100)
    silent = SerialLog(tmp_path, 100, resumed=True)
    assert text(silent) == b"a" * 60 + b"b"
    silent.close()
    moved = run(tmp_path, b"c", limit_bytes=100, resumed=True)

    assert text(moved) == b"a" * 60 + b"bc"
    assert b"".join(moved.previous()) == b"before"


def test_a_follower_gets_everything_once_up_to_the_end(tmp_path: Path) -> None:
    async def follow() -> list[bytes]:
        log = SerialLog(tmp_path, 10**6)
        log.append(b"one")
        seen: list[bytes] = []

        async def read() -> None:
            seen.extend([piece async for piece in log.pieces(follow=True)])

        reader = asyncio.create_task(read())
        for piece in (b"two", b"three"):
            while b"".join(seen)[-3:] not in (b"one", b"two") and not reader.done() and seen:
                await asyncio.sleep(0)
            log.append(piece)
            log.announce()
            await asyncio.sleep(0)
        log.announce(ended=True)
        await asyncio.wait_for(reader, 10)
        log.close()
        return seen

    assert b"".join(asyncio.run(follow())) == b"onetwothree"


def test_a_folder_that_cannot_be_written_ends_the_log_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert text(run(tmp_path / "file", b"lost")) == b""
