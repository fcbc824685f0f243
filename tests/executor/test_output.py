"""What tools wrote is read as what it is: bytes from outside."""

import os
import random
import time
import tracemalloc

import pytest

from services.executor.output import Followed, read_output
from services.executor.supervisor import OUTPUT_FLAGS, Stream


def test_a_file_is_read_up_to_the_limit_and_from_a_position(tmp_path):
    file = tmp_path / "stdout"
    file.write_bytes(b"0123456789")
    assert read_output(file, 4) == b"0123"
    assert read_output(file, 100, start=7) == b"789"


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda p: p.symlink_to("/etc/passwd"), lambda p: p.mkdir(), lambda p: None]
)
def test_what_is_no_regular_file_is_empty_and_holds_nobody_up(tmp_path, make):
    """A tool may replace the file of its output by a pipe nobody writes to, or by a link."""
    make(tmp_path / "stdout")
    assert read_output(tmp_path / "stdout", 100) == b""


RING = 1024 * 1024


class Printing:
    """An output as the supervisor drains it, of which so much is kept and so much can be followed."""

    def __init__(self, folder, limit=1000, ring_bytes=RING):
        self.file = folder / "stdout"
        reader, self.writer = os.pipe()
        os.set_blocking(reader, False)
        files = [os.open(name, OUTPUT_FLAGS, 0o600) for name in (self.file, f"{self.file}.ring")]
        self.stream = Stream(reader, files[0], limit, files[1], ring_bytes)

    def say(self, data):
        for at in range(0, len(data), 60_000):
            os.write(self.writer, data[at : at + 60_000])
            self.stream.drain()

    def end(self):
        os.close(self.writer)
        self.stream.finish()


@pytest.fixture
def printing(tmp_path):
    return Printing(tmp_path)


def heard(followed, piece=100_000):
    found = b""
    while data := followed.read(piece):
        found += data
    return found


@pytest.mark.parametrize("seed", range(5))
def test_all_that_is_printed_can_be_followed_though_little_of_it_is_kept(printing, seed):
    chance = random.Random(seed)
    followed = Followed(printing.file, 10_000, RING)
    said = got = b""
    for _ in range(40):
        data = chance.randbytes(chance.choice([10, 400, 100_000, 400_000]))
        said += data
        printing.say(data)
        got += heard(followed, chance.choice([1000, 100_000]))
    printing.end()
    assert got + heard(followed) == said
    assert followed.lost == 0
    assert printing.file.stat().st_size < 2000


def test_an_output_that_is_not_cut_is_followed_to_its_end(printing):
    followed = Followed(printing.file, 10_000, RING)
    printing.say(b"x" * 700)
    assert heard(followed) == b"x" * 700
    printing.say(b"y" * 250)
    printing.end()
    assert heard(followed) == b"y" * 250


def test_who_is_too_slow_misses_the_oldest_and_is_told_how_much(printing):
    followed = Followed(printing.file, 10_000, RING)
    data = random.Random(0).randbytes(3 * RING)
    printing.say(data)
    got = heard(followed)
    kept = data[: printing.stream.head_bytes]
    assert got.startswith(kept + b"\n")
    assert data.endswith(got[len(kept) + 1 :])
    assert followed.lost == len(data) - len(got) + 1
    assert len(got) > RING // 2
    printing.end()
    assert heard(followed) == b""


@pytest.mark.parametrize("header", [b"", b"short", b"\xff" * 16, (2**63).to_bytes(8, "little") + bytes(8), bytes(16)])
def test_a_ring_that_was_tampered_with_holds_nobody_up(tmp_path, header):
    (tmp_path / "stdout").write_bytes(b"x" * 100)
    (tmp_path / "stdout.ring").write_bytes(header)
    followed = Followed(tmp_path / "stdout", 1000, RING)
    for _ in range(50):
        assert len(followed.read(1000)) <= 1000


def test_following_is_fast_and_takes_no_memory(printing):
    """Far below the 500 MB/s that are measured, so that a busy machine does not fail it."""
    followed = Followed(printing.file, 10_000, RING)
    tracemalloc.start()
    started = time.perf_counter()
    for _ in range(100):
        printing.say(b"x" * 600_000)
        while followed.read(128 * 1024):
            pass
    took_s = time.perf_counter() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert followed.lost == 0
    assert peak < 4 * RING
    assert took_s < 60_000_000 / 50_000_000
