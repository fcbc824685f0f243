"""What is said of a run while it is followed: a line for what happens, and none that could steer a terminal."""

import io
from typing import Any

import msgspec
import pytest
from rich.console import Console

from services.events import AnyEvent
from swell.follow import review_lines
from swell.listing import attempt_lines
from swell.progress import Progress
from swell.values import Attempt, Event, Review
from swell.view import table

SILENT = {"result_refused", "run_requested", "step_requested"}
"""Kinds that the line before or after them tells of."""


def event(kind: str, position: int = 1, workstream: str = "", attempt: int = 0, **fact: Any) -> Event:
    if workstream:
        fact = {"workstream": workstream, "attempt": attempt, **fact}
    return Event(
        position=position, index=0, kind=kind, run="r1", workstream=workstream, attempt=attempt,
        time_ns=position * 1_000_000_000, by="scheduler", payload={"kind": kind, **fact}, entry="e", cause="",
    )  # fmt: skip


@pytest.mark.parametrize("kind", sorted(str(k.__struct_config__.tag) for k in AnyEvent.__args__))
def test_every_kind_is_told_of_whatever_its_payload_holds(kind: str) -> None:
    """A newer or older service may leave any field out."""
    assert hasattr(Progress, f"_on_{kind}") or kind in SILENT
    assert isinstance(Progress("r1").take(event(kind)), list)


def test_a_run_that_waits_for_a_person_is_known_until_it_goes_on() -> None:
    progress = Progress("r1")
    assert not progress.awaits_review
    said = progress.take(event("run_transitioned", to_state="paused", cause="review", reason="waits for ws-a"))
    assert said == ["[    0.0s] run r1 paused: waits for ws-a"]
    assert progress.awaits_review
    said = progress.take(event("run_transitioned", 2, to_state="running", reason="reviewed"))
    assert said == ["[    1.0s] run r1 goes on: reviewed"]
    assert not progress.awaits_review
    progress.take(event("run_transitioned", 3, to_state="paused", cause="request"))
    assert not progress.awaits_review


def test_what_a_step_waits_for_is_shown_until_it_is_scheduled() -> None:
    progress = Progress("r1")
    delayed = {"workstream": "ws-a", "step": "edit"}
    (said,) = progress.take(
        event("step_delayed", step=delayed, cause="tool_breaker", reason="aider fails", until_ns=61_000_000_000)
    )
    assert said == "[    0.0s] ws-a edit waits for tool breaker: aider fails (for 1 min 00 s)"
    assert "waits for tool breaker" in drawn(progress)
    progress.take(event("step_scheduled", 2, workstream="ws-a", attempt=1, step="edit"))
    assert "waits for" not in drawn(progress)


def drawn(progress: Progress) -> str:
    out = io.StringIO()
    Console(file=out, width=160).print(table(progress, progress.now_ns, 40))
    return out.getvalue()


def test_what_recovery_chose_names_the_other_tool() -> None:
    fact = {"workstream": "ws-a", "step": "edit", "attempt": 2, "strategy": "fallback_tool", "tool": "codex"}
    (said,) = Progress("r1").take(event("recovery_chosen", **fact, reason="timeout: codex in place of aider"))
    assert said.endswith("ws-a edit (attempt 2) recovery: fallback_tool with codex: timeout: codex in place of aider")


def test_a_rollback_is_over_when_it_says_so() -> None:
    progress = Progress("r1")
    progress.take(event("rollback_started", workstreams=2))
    assert progress.rollback == "running"
    (said,) = progress.take(
        event("rollback_finished", state="compensation_failed", compensated=1, failed=1, remaining=["ws-b"])
    )
    assert progress.rollback == "compensation_failed"
    assert said.endswith("(1 compensated, 1 failed, 0 without actions); remaining: ws-b")


def test_a_revert_takes_workstreams_off_and_is_over_when_it_says_so() -> None:
    progress = Progress("r1")
    progress.take(event("integration_advanced", workstream="ws-a", to={"commit": "a" * 40}))
    progress.take(event("revert_started", workstreams=["ws-a"]))
    assert (progress.rollback, progress.workstream("ws-a").merged) == ("running", True)
    (said,) = progress.take(event("integration_reverted", workstreams=["ws-a"], to={"commit": "b" * 40}))
    assert said.endswith("ws-a taken off the line: bbbbbbbbbbbb")
    assert not progress.workstream("ws-a").merged
    progress.take(event("revert_finished", state="reverted", workstreams=["ws-a"]))
    assert progress.rollback == "reverted"


def test_a_delivery_elsewhere_names_the_place_and_what_failed_afterwards() -> None:
    progress = Progress("r1")
    fact = {
        "ref": "refs/heads/swell/r1",
        "commit": "c" * 40,
        "to": {"remote": "https://x/r"},
        "warning": "open-pr failed",
    }
    delivered, warning = progress.take(event("line_delivered", **fact))
    assert delivered.endswith("delivered: branch swell/r1 of https://x/r at cccccccccccc")
    assert warning.endswith("warning: open-pr failed")
    progress.take(event("request_answered", request_id="q", answer="done", ok=False, reason="no"))
    assert progress.done == {"q": (False, "no")}


def test_many_reviews_are_counted_not_listed() -> None:
    one = Review(run="r", workstream="ws-a", step="edit", error_class="auth", reason="a\x1b[2Jb", since_ns=0, attempts=1,
                 commit="")  # fmt: skip
    lines = review_lines([msgspec.structs.replace(one, workstream=f"ws-{n}") for n in range(25)])
    assert len(lines) == 21
    assert lines[-1] == "and 5 more"
    assert "\x1b" not in "".join(lines)


def an_attempt(**given: object) -> Attempt:
    told = {"run": "r1", "workstream": "a", "attempt": 1, "step": "edit", "state": "finished", "ok": True}
    empty = {"str": "", "int": 0, "bool": False, "float": 0.0}
    required = [field for field in msgspec.structs.fields(Attempt) if field.required]
    fields = {field.name: empty.get(getattr(field.type, "__name__", ""), []) for field in required}
    return msgspec.convert({**fields, "exit_code": None, "tool": "aider", **told, **given}, Attempt)


def test_an_attempt_says_how_many_of_its_files_were_left_out():
    assert attempt_lines(an_attempt(left_out=3))[0] == "a/1 edit: ok, with aider, 3 of its files left out"
    assert "left out" not in attempt_lines(an_attempt())[0]


def test_an_attempt_shows_what_its_checks_said():
    told = '[{"name":"c","outcome":"passed","message":"noop: none"},{"name":"d","outcome":"passed","message":""}]'
    assert attempt_lines(an_attempt(checks_json=told))[1:] == ["  check c: passed: noop: none", "  check d: passed"]


@pytest.mark.parametrize(
    ("kind", "payload", "said"),
    [
        ("limits_set", {"fleet_nano": 5 * 10**9, "tools_nano": {"a": 10**9}, "rates": {"p": {}}},
         "limits across runs: the fleet may spend $5.00 a day, tool a may spend $1.00 a day, p has a rate"),
        ("limits_set", {}, "limits across runs: none"),
        ("attempt_granted", {"run": "r", "workstream": "w", "attempt": 2, "tool": "a", "cap_nano": 10**9},
         "r/w/2 has its share: a, $1.00 reserved"),
        ("grant_returned", {"workstream": "w", "attempt": 2, "reason": "late"}, "fleet/w/2 gives its share back: late"),
        ("budget_changed", {"scope": "tool", "name": "a", "limit_nano": 10**9, "actor": "ann"},
         "tool a (each day) has a budget of $1.00, by ann"),
        ("budget_requested", {"scope": "fleet", "actor": "ann"}, "the fleet (each day): ann asks for no budget"),
        ("budget_reached", {"tool": "a", "day": "2026-11-23", "limit_nano": 10**9, "spent_nano": 10**9},
         "tool a on 2026-11-23 comes near its budget: $1.00 of $1.00 spent, $0.00 reserved"),
    ],
)  # fmt: skip
def test_what_runs_share_is_told_in_words(kind: str, payload: dict[str, Any], said: str) -> None:
    told = msgspec.structs.replace(event(kind), run="fleet", payload=payload)
    assert Progress("fleet").take(told) == [f"[    0.0s] {said}"]
