import asyncio
import shutil
import threading
from pathlib import Path

import pytest

from boxwright.logger import reader, timestamps, watch
from boxwright.logger.jsonfile import JsonFileWriter
from boxwright.logger.reader import Options

DEADLINE = 20.0


def collect(path: Path, options: Options) -> list[str]:
    async def all_of_it() -> list[str]:
        return [r.line.decode() async for batch in reader.read(str(path), options) for r in batch]

    return asyncio.run(all_of_it())


def write_lines(path: Path, count: int, size: int = 0, files: int = 1) -> list[str]:
    writer = JsonFileWriter(str(path), size, files)
    lines = [f"line {n}\n" for n in range(count)]
    for line in lines:
        writer.write("stdout", line.encode())
    writer.close()
    return lines


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert collect(tmp_path / "none", Options()) == []


@pytest.mark.parametrize("tail", [-1, 0, 1, 5, 99, 100, 101, 5000])
@pytest.mark.parametrize("size", [0, 900])
def test_tail_counts_from_the_end_across_rotated_files(tmp_path: Path, tail: int, size: int) -> None:
    path = tmp_path / "a"
    lines = write_lines(path, 100, size, 50)
    assert collect(path, Options(tail=tail)) == (lines if tail < 0 else lines[len(lines) - min(tail, 100) :])


def test_tail_reads_backwards_over_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a"
    writer = JsonFileWriter(str(path), 0, 1)
    writer.write("stdout", b"".join(b"%08d\n" % n for n in range(20000)))
    writer.close()
    assert collect(path, Options(tail=12345)) == [f"{n:08d}\n" for n in range(20000 - 12345, 20000)]


def test_since_and_until(tmp_path: Path) -> None:
    path = tmp_path / "a"
    stamp = timestamps.rfc3339nano
    path.write_text("".join(f'{{"log":"{n}\\n","stream":"stdout","time":"{stamp(n * 10**9)}"}}\n' for n in range(10)))
    assert collect(path, Options(since=3 * 10**9, until=5 * 10**9)) == ["3\n", "4\n", "5\n"]
    assert collect(path, Options(since=8 * 10**9)) == ["8\n", "9\n"]


def test_streams_are_chosen(tmp_path: Path) -> None:
    path = tmp_path / "a"
    writer = JsonFileWriter(str(path), 0, 1)
    writer.write("stdout", b"out\n")
    writer.write("stderr", b"err\n")
    writer.close()
    assert collect(path, Options(stdout=False)) == ["err\n"]


def test_torn_and_foreign_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a"
    good = b'{"log":"good\\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}\n'
    path.write_bytes(good + b'{"log":"to\n' + b"\xff\xfe\n" + b"[]\n" + good + b'{"log":"not yet who')
    assert collect(path, Options()) == ["good\n", "good\n"]


@pytest.mark.parametrize(("size", "files"), [(0, 1), (3000, 400)])
def test_follow_misses_and_doubles_nothing_across_rotation(tmp_path: Path, size: int, files: int) -> None:
    path = tmp_path / "a"
    count = 3000

    async def follow() -> list[str]:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def write() -> None:
            write_lines(path, count, size, files)
            loop.call_soon_threadsafe(ended.set)

        thread = threading.Thread(target=write)
        found: list[str] = []
        thread.start()
        async for batch in reader.read(str(path), Options(follow=True), ended):
            found += [r.line.decode() for r in batch]
        thread.join()
        return found

    found = asyncio.run(asyncio.wait_for(follow(), DEADLINE))
    assert found == [f"line {n}\n" for n in range(count)]


def test_follow_wakes_for_each_write_and_ends_after_the_last(tmp_path: Path) -> None:
    path = tmp_path / "a"
    writer = JsonFileWriter(str(path), 0, 1)

    async def follow() -> list[str]:
        ended = asyncio.Event()
        found: list[str] = []
        writer.write("stdout", b"0\n")
        async for batch in reader.read(str(path), Options(follow=True), ended):
            found += [r.line.decode() for r in batch]
            if not found:
                continue  # it is open
            if len(found) < 5:
                writer.write("stdout", b"%d\n" % len(found))
            else:
                ended.set()
        return found

    assert asyncio.run(asyncio.wait_for(follow(), DEADLINE)) == [f"{n}\n" for n in range(5)]
    writer.close()


@pytest.mark.parametrize("follow", [False, True])
def test_an_open_log_is_read_to_its_end_also_when_it_is_removed(tmp_path: Path, follow: bool) -> None:
    home = tmp_path / "container"
    home.mkdir()
    lines = write_lines(home / "a", 20, 200, 10)

    async def work() -> list[str]:
        ended = asyncio.Event()
        batches = reader.read(str(home / "a"), Options(follow=follow), ended)
        assert await anext(batches) == []
        shutil.rmtree(home)
        ended.set()
        return [r.line.decode() async for batch in batches for r in batch]

    found = asyncio.run(asyncio.wait_for(work(), DEADLINE))
    assert found == lines[-len(found) :]
    assert len(found) > 10


def test_followers_share_one_inotify_instance(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_lines(path, 1)

    async def many() -> None:
        ended = asyncio.Event()
        readers = [reader.read(str(path), Options(follow=True), ended) for _ in range(200)]
        for one in readers:
            assert await anext(one) == []
            assert len(await anext(one)) == 1
        ended.set()
        for one in readers:
            assert [batch async for batch in one] == []
        assert watch.hub()._fd == -1

    asyncio.run(asyncio.wait_for(many(), DEADLINE))
