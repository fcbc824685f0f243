"""What tools wrote is read as what it is: bytes from outside."""

import base64
import os
import urllib.parse

import pytest

from services.executor.output import MASK, Secrets, read_output

SECRET = 'pass"word/12+34'


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


@pytest.mark.parametrize(
    "form",
    [
        SECRET.encode(),
        base64.b64encode(SECRET.encode()),
        base64.urlsafe_b64encode(SECRET.encode()),
        urllib.parse.quote(SECRET, safe="").encode(),
        b'pass\\"word/12+34',
    ],
)
def test_a_secret_is_masked_in_all_its_forms(form):
    assert Secrets([SECRET]).mask(b"key=" + form + b";") == b"key=" + MASK + b";"


def test_short_values_and_other_text_are_left_alone():
    assert Secrets(["1", "debug"]).mask_text("debug level 1") == "debug level 1"
    assert Secrets([SECRET]).mask_text("nothing here") == "nothing here"
