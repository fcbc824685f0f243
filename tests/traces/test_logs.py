"""A line of the log is one JSON object of bounded size without secrets, whatever is logged; and says what it is about."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.secrets import gathered, masked_for_log
from services.masking import Secrets
from services.profiles import ToolProfile
from services.telemetry import _FIRST, CUT, LINE_CHARS_MAX, _Line
from services.trace import of_attempt, of_run

ROOT = Path(__file__).resolve().parents[2]
SECRET = "pa55-word/of+the team"
KEY = "sk-ant-api03-Ab1" + "x9Zq" * 8
IDS = {"run": "r1", "workstream": "ws-a", "attempt": 3, "trace_id": "a" * 32, "span_id": "b" * 16}


def line(**fields) -> str:
    return _Line("executor", Secrets([SECRET]).mask_text)(None, "", {"event": "step.failed", **fields})


def said(**fields) -> dict:
    """What a line says, read back; it keeps to its bounds."""
    text = line(**fields)
    assert len(text) <= LINE_CHARS_MAX
    assert text.isascii()
    assert text.isprintable(), "no line feed, no escape sequence"
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


class Untellable:
    def __str__(self) -> str:
        raise RuntimeError("no")


HOSTILE = {
    "a line feed and more": 'a\nb\r\u2028\x1b[31m\x00\x7f"\\',
    "half a character": "\ud800x",
    "1 MB": "x" * 1_000_000,
    "1 MB of what is long as JSON": "\x00" * 1_000_000,
    "emoji": "\U0001f600" * 10_000,
    "bytes": b"\xff\x00" * 1000,
    "no number": float("nan"),
    "endless": [float("inf"), {"a": -float("inf")}],
    "a number without end": 10**5000,
    "deep": json.loads("[" * 900 + "]" * 900),
    "wide": list(range(100_000)),
    "keys": {1: 2, None: 3, ("a", b"b"): {"x" * 5000: 1}},
    "itself": [],
    "an object": object(),
    "what cannot be told": Untellable(),
    "a set": {1, "a"},
}
HOSTILE["itself"].append(HOSTILE["itself"])


@pytest.mark.parametrize("what", HOSTILE)
def test_whatever_is_logged_is_one_line_and_hides_nothing_else(what):
    found = said(hostile=HOSTILE[what], reason="told after it", **IDS)
    assert {name: found[name] for name in IDS} == IDS
    assert (found["event"], found["reason"]) == ("step.failed", "told after it")
    assert "hostile" in found


def test_hostile_values_in_every_field_leave_the_fields_that_say_what_it_is_about():
    """Also where a caller chose them."""
    found = said(run="\x00" * 10**6, workstream=HOSTILE["emoji"], **{f"f{n}": "x" * 10**5 for n in range(100)})
    assert {"service", "event", "run", "workstream"} <= found.keys()
    assert CUT in found["run"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=200), JSON, max_size=8))
def test_any_fields_make_a_line(fields):
    said(**{name: value for name, value in fields.items() if name != "event"})


def test_a_long_text_keeps_its_beginning_and_its_end():
    found = said(exception="Traceback\n" + "frame\n" * 10_000 + "ValueError: it")["exception"]
    assert found.startswith("Traceback")
    assert found.endswith("ValueError: it")
    assert CUT in found


@pytest.mark.parametrize(
    "hide",
    [
        lambda secret: {"error": f"refused: {secret}"},
        lambda secret: {"event": f"could not use {secret}"},
        lambda secret: {"argv": ["tool", {"--key": secret}]},
        lambda secret: {"table": {secret: 1}},
        lambda secret: {"exception": "x " * 10_000 + secret + " y" * 10_000},
        lambda secret: {"error": "x " * 4095 + secret},
        lambda secret: {"error": ["x " * 4095 + secret]},
        lambda secret: {"error": "x " * 2035 + secret + " x" * 5000},
        lambda secret: {"error": secret.encode()},
    ],
)
@pytest.mark.parametrize("secret", [SECRET, KEY])
def test_no_secret_is_in_a_line(hide, secret):
    """Known, or by its shape; where a text is cut as well."""
    text = line(**hide(secret))
    assert secret not in text
    assert secret[:8] not in text


def test_a_value_that_was_gathered_for_one_attempt_is_in_no_line_of_any(monkeypatch):
    monkeypatch.setenv("TEAM_PASSWORD", SECRET)
    assert masked_for_log(f"it is {SECRET}") == f"it is {SECRET}"
    gathered([ToolProfile(command="t", secrets={"A": "env:TEAM_PASSWORD"})])
    assert masked_for_log(f"it is {SECRET}") == "it is [secret]"


SCRIPT = """
import asyncio, logging, sys, threading, warnings
import structlog
from services import telemetry
from services.trace import of_run, of_attempt

telemetry.configure("executor", {"SWELL_LOG_LEVEL": "info"})
log = structlog.get_logger()
key = ("r1", "ws-a", 3)

async def step():
    log.info("in the task")
    await asyncio.to_thread(lambda: log.info("in its thread"))
    logging.getLogger("asyncio").error("of a library: %s", "a\\nb")
    log.debug("too quiet")

async def main():
    with telemetry.about(run=key[0], workstream=key[1], attempt=key[2], trace=of_attempt(of_run("r1"), key)):
        await asyncio.create_task(step())
    log.info("of nobody")
    with telemetry.about(run="fleet"):
        warnings.warn("mind this")

asyncio.run(main())
crash = threading.Thread(target=lambda: 1 / 0)
crash.start()
crash.join()
raise RuntimeError("the end\\nof it: " + "sk-" + "a1" * 20)
"""


@pytest.fixture(scope="module")
def printed():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return {found["event"].partition(":")[0]: found for found in map(json.loads, done.stderr.splitlines())}


def test_every_line_says_what_it_is_about_until_the_end_of_the_context(printed):
    trace = of_attempt(of_run("r1"), ("r1", "ws-a", 3))
    ids = {"run": "r1", "workstream": "ws-a", "attempt": 3, "trace_id": trace.trace_id, "span_id": trace.span_id}
    for event in ("in the task", "in its thread", "of a library"):
        found = printed[event]
        assert {name: found.get(name) for name in IDS} == ids
        assert list(found)[:4] == ["timestamp", "level", "service", "event"]
        assert found["service"] == "executor"
    assert not IDS.keys() & printed["of nobody"].keys()
    assert "too quiet" not in printed


def test_what_nobody_handled_is_a_line_as_well(printed):
    """Exceptions of the program and of its threads, and warnings."""
    assert "ZeroDivisionError" in printed["service.thread_crashed"]["exception"]
    crashed = printed["service.crashed"]["exception"]
    assert "RuntimeError: the end\nof it: [secret]" in crashed
    assert any(found["level"] == "warning" and found.get("run") == "fleet" for found in printed.values())


def test_a_log_that_cannot_be_written_ends_nothing():
    """A full disk, as the embedded cluster's logs stand on one."""
    script = """
import logging, structlog
from services import telemetry
telemetry.configure("executor", {})
for _ in range(100):
    structlog.get_logger().info("executor.claimed", error="x" * 5000)
print("goes on")
"""
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=full, check=False
        )
    assert done.stdout == b"goes on\n"


def test_the_fields_of_every_line_are_described_in_their_order():
    text = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \| `[^|`]+` \|$", text, re.MULTILINE)
    assert tuple(described) == _FIRST
    told = said(**dict.fromkeys(reversed(_FIRST), "x"))
    assert tuple(told) == _FIRST
