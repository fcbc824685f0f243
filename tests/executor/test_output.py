"""What tools wrote is read as what it is: bytes from outside."""

import os

import pytest

from services.executor.output import read_output


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
