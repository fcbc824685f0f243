"""Checks and FIX loops: what counts as a failure and what as an error, which limit ends a loop, what checks may not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, Outcome, bundle, commit_files, sh, witness

GREP = '{ ! grep -H %s "$@"; } || exit 1'
TELL = 'for f in "$@"; do [ -f "$f" ] && tr -d "\\n" < "$f"; done; '
WORDS = (
    'for word in alpha bravo charlie delta echo foxtrot; do grep -q $word "$1" || { echo $word >> "$1"; break; }; done'
)
"""Each call appends the next word: another tree, and another error, every time."""

TOOLS: dict[str, Any] = {
    "edit": sh('echo new >> "$1"'),
    "edit-bad": sh('echo BAD >> "$1"', fix='sed -i s/BAD/GOOD/ "$1"'),
    "fix-bad": sh("exit 9", fix='sed -i s/BAD/GOOD/ "$1"'),
    "edit-words": sh(WORDS, fix=WORDS),
    "edit-toggle": sh('echo left > "$1"', fix='if grep -q left "$1"; then echo right > "$1"; else echo left > "$1"; fi'),
    "edit-same-error": sh('echo BAD >> "$1"', fix='echo "# tried" >> "$1"'),
    "edit-stubborn": sh('echo BAD >> "$1"', fix="echo 'I know better'"),
    "edit-broken-fix": sh('echo BAD >> "$1"', fix="exit 3"),
    "edit-told": sh('echo UGLY >> "$1"', "{files}", fix='cp "$2" "$3" && sed -i s/UGLY/GOOD/ "$1"'),
    "pass": sh("true", "-"),
    "no-bad": sh(GREP % "BAD"),
    "no-bad-again": sh(GREP % "BAD"),
    "no-words": sh(f"{TELL}exit 1"),
    "no-words-later": sh(f"{TELL}exit 1"),
    "says-something-else": sh("tr -dc 'a-z' < /dev/urandom | head -c 20; exit 1"),
    "crashes": sh("kill -SEGV $$", "-"),
    "reports-nothing": sh("true", "-", report={"format": "junit-xml", "source": "{scratch}/none.xml"}),
    "reports-rubbish": sh("echo '{not json'; exit 1", "-", report={"format": "ruff-json", "source": "stdout"}),
    "takes-forever": sh("sleep 60", "-", timeout_sec=0.5, grace_sec=0.2),
    "is-missing": {"command": "no-such-checker-of-e2e"},
    "scribbles": sh('echo SCRIBBLE >> "$1"; echo x > made-by-check.txt; mkdir -p __pycache__; echo x > __pycache__/a.pyc'),
    "no-scribble": sh('! grep -q SCRIBBLE "$1" && [ ! -e made-by-check.txt ]'),
}  # fmt: skip
TOOLS["edit-told"]["fix_args"] += ["{diagnostics_file}", "f/diagnostics.json"]
SETTINGS: dict[str, dict[str, Any]] = {
    "crash": {"tool": "edit", "swell": {"static_tools": ["crashes", "pass"]}},
    "no-report": {"tool": "edit", "swell": {"static_tools": ["reports-nothing"]}},
    "bad-report": {"tool": "edit", "swell": {"static_tools": ["reports-rubbish"]}},
    "slow": {"tool": "edit", "swell": {"static_tools": ["takes-forever"]}},
    "gone": {"tool": "edit", "swell": {"static_tools": ["is-missing"]}},
    "runtime-crash": {"tool": "edit", "swell": {"runtime_tool": "crashes"}},
    "order": {"tool": "edit-bad", "swell": {"static_tools": ["no-bad", "no-bad-again"]}},
    "runtime": {"tool": "edit-bad", "swell": {"static_tools": ["pass"], "runtime_tool": "no-bad"}},
    "other-fixer": {"tool": "edit-same-error", "swell": {"static_tools": ["no-bad"], "fix_tool": "fix-bad"}},
    "accept": {
        "tool": "edit-told",
        "files_create": ["f/diagnostics.json"],
        "acceptance_tests": ["test -s f/accept.txt", "Users like it.", "$ sh -c '! grep UGLY f/accept.txt'"],
        "swell": {"static_tools": []},
    },
    "limit-static": {"tool": "edit-words", "swell": {"static_tools": ["no-words"]}},
    "limit-runtime": {"tool": "edit-words", "swell": {"static_tools": ["pass"], "runtime_tool": "no-words-later"}},
    "same-error": {"tool": "edit-same-error", "swell": {"static_tools": ["no-bad"]}},
    "same-tree": {"tool": "edit-toggle", "swell": {"static_tools": ["says-something-else"]}},
    "stubborn": {"tool": "edit-stubborn", "swell": {"static_tools": ["no-bad"]}},
    "broken-fix": {"tool": "edit-broken-fix", "swell": {"static_tools": ["no-bad"]}},
    "scribble": {"tool": "edit", "swell": {"static_tools": ["scribbles", "no-scribble"], "runtime_tool": "no-scribble"}},
    "gates": {
        "tool": "edit-bad",
        "test_gates": [{"type": "GATE_LINT", "required": False}, {"type": "GATE_UNIT"}, {"type": "GATE_SECURITY"}],
        "swell": {"static_tools": []},
    },
    "unchecked": {"tool": "edit", "swell": {"static_tools": [], "gates": "none"}},
}  # fmt: skip
GATES = "GATE_LINT: {tool: crashes}\nGATE_UNIT: {tool: no-bad}\nGATE_SECURITY: {tool: pass}\n"
ERRORS = {
    "crash": "signal 11",
    "no-report": "none.xml",
    "bad-report": "JSON",
    "slow": "timeout",
    "gone": "no-such-checker-of-e2e",
    "runtime-crash": "signal 11",
}
LIMITS = {
    "limit-static": ("static", 3, "max_fix_iterations"),
    "limit-runtime": ("runtime", 2, "max_fix_iterations"),
    "same-error": ("static", 1, "oscillation_signature"),
    "same-tree": ("static", 2, "oscillation_tree"),
    "stubborn": ("static", 1, "oscillation_signature"),
    "broken-fix": ("static", 1, "oscillation_signature"),
}
GREEN = ["accept", "gates", "order", "other-fixer", "runtime", "scribble", "unchecked"]


@pytest.fixture(scope="module")
def checked(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One wave of workstreams, each with checks of its own."""
    repo = tmp_path_factory.mktemp("checked") / "repo"
    settings = {"swell.toml": 'static_tools = ["pass"]\ngates_file = "gates.yaml"\n', "gates.yaml": GATES}
    commit_files(repo, {**{f"f/{name}.txt": f"{name}\n" for name in SETTINGS}, **settings})
    before = witness(repo)
    bundles = []
    for name, given in SETTINGS.items():
        fields = dict(given)
        bundles.append(bundle(f"ws-{name}", fields.pop("tool"), f"f/{name}.txt", **fields))
    outcome = lab.run(repo, bundles, TOOLS)
    assert witness(repo) == before
    return outcome


def steps(checked: Outcome, name: str) -> list[str]:
    return [one.step for one in checked.of(f"ws-{name}")]


def test_every_setting_was_tried() -> None:
    assert sorted([*ERRORS, *LIMITS, *GREEN]) == sorted(SETTINGS)


@pytest.mark.parametrize(("name", "said"), ERRORS.items())
def test_a_check_that_cannot_judge_is_an_error_and_nothing_to_fix(checked: Outcome, name: str, said: str) -> None:
    """A crash, a missing or unreadable report, a time-out, a missing program: no FIX is started for them."""
    last = checked.of(f"ws-{name}")[-1]
    assert checked.state(f"ws-{name}") == "failed"
    assert last.error_class == ("timeout" if name == "slow" else "check_error")
    assert "fix" not in steps(checked, name)
    assert set(checked.checks(last).values()) - {"passed"} == {"error"}
    assert said in checked.reason(f"ws-{name}")


def test_a_static_check_that_does_not_pass_ends_the_step(checked: Outcome) -> None:
    """In the order given; after the crash the other check is not run."""
    assert checked.checks(checked.of("ws-crash", "static")[0]) == {"crashes": "error"}
    first, second = checked.of("ws-order", "static")
    assert checked.checks(first) == {"no-bad": "failed"}
    assert checked.checks(second) == {"no-bad": "passed", "no-bad-again": "passed"}


@pytest.mark.parametrize("name", GREEN)
def test_what_is_green_in_the_end_is_completed(checked: Outcome, name: str) -> None:
    assert checked.state(f"ws-{name}") == "completed", checked.reason(f"ws-{name}")
    assert f"f/{name}.txt" in checked.delivered_files()
    assert "BAD" not in checked.delivered(f"f/{name}.txt")


def test_acceptance_tests_are_run_and_prose_is_not(checked: Outcome) -> None:
    first, second = checked.of("ws-accept", "runtime")
    command, prose, forced = SETTINGS["accept"]["acceptance_tests"]
    assert checked.checks(first) == {command: "passed", prose: "not_executable", forced: "failed"}
    # What passed on one tree says nothing of the next: all are asked again.
    assert checked.checks(second) == {command: "passed", prose: "not_executable", forced: "passed"}


def test_a_gate_that_blocks_is_mended_and_one_that_warns_is_only_told(checked: Outcome) -> None:
    """The one that comes after the red one has its say on the mended tree."""
    first, second = checked.of("ws-gates", "runtime")
    assert checked.checks(first) == {"GATE_LINT": "error", "GATE_UNIT": "failed"}
    assert checked.checks(second) == {"GATE_LINT": "error", "GATE_UNIT": "passed", "GATE_SECURITY": "passed"}
    assert (second.ok, "warning: GATE_LINT" in second.message) == (True, True)


def test_fix_is_told_what_failed(checked: Outcome) -> None:
    """The diagnostics file names step, check, command, exit code and output; the prompt shows them, too."""
    told = json.loads(checked.delivered("f/diagnostics.json"))
    assert told["step"] == "runtime"
    (check,) = told["checks"]
    assert check["check"] == SETTINGS["accept"]["acceptance_tests"][2]
    assert check["command"] == ["sh", "-c", "! grep UGLY f/accept.txt"]
    assert check["exit_code"] == 1
    assert "UGLY" in check["output_tail"]
    assert told["previous_attempts"] == []
    prompt = checked.artifact(checked.of("ws-accept", "fix")[0], "prompt").decode()
    assert "RUNTIME step failed" in prompt
    assert "! grep UGLY f/accept.txt" in prompt


def test_fix_is_told_what_was_tried_before(checked: Outcome) -> None:
    """The third FIX prompt holds the patches of the first two."""
    third = checked.artifact(checked.of("ws-limit-static", "fix")[2], "prompt").decode()
    assert third.count("Already tried, without success") == 2
    assert "+bravo" in third
    assert "+charlie" in third


def test_after_a_runtime_fix_the_new_tree_is_checked_statically_again(checked: Outcome) -> None:
    """EDIT, STATIC, RUNTIME, FIX, STATIC, RUNTIME; the last two on the tree that FIX made."""
    assert steps(checked, "runtime") == ["edit", "static", "runtime", "fix", "static", "runtime"]
    attempts = checked.of("ws-runtime")
    assert attempts[1].tree == attempts[2].tree == attempts[0].tree
    assert attempts[4].tree == attempts[5].tree == attempts[3].tree != attempts[0].tree


def test_another_tool_may_be_named_for_fix(checked: Outcome) -> None:
    assert steps(checked, "other-fixer") == ["edit", "static", "fix", "static"]


@pytest.mark.parametrize(("name", "limit"), LIMITS.items())
def test_fix_loops_end_and_say_by_which_limit(checked: Outcome, name: str, limit: tuple[str, int, str]) -> None:
    """Three FIX of STATIC, two of RUNTIME; earlier when the same error or the same tree comes back."""
    step, fixes, tripped = limit
    assert checked.state(f"ws-{name}") == "failed"
    (ended,) = checked.payloads("fix_loop_ended", workstream=f"ws-{name}")
    assert (ended["step"], ended["limit"]) == (step, tripped)
    assert len(checked.of(f"ws-{name}", "fix")) == fixes
    assert checked.workstreams[f"ws-{name}"].fix_limit == tripped
    assert checked.reason(f"ws-{name}").startswith(f"{step}: {tripped}: ")


def test_an_unchanged_tree_is_not_judged_again(checked: Outcome) -> None:
    """A FIX that changed nothing ends the loop without another STATIC."""
    assert steps(checked, "stubborn") == steps(checked, "broken-fix") == ["edit", "static", "fix"]


def test_what_checks_change_is_put_back_and_reported(checked: Outcome) -> None:
    """The next check, and the next step, see the tree as it was."""
    (static,) = _finished(checked, "ws-scribble", "static")
    assert static["ok"]
    assert {"f/scribble.txt", "made-by-check.txt"} <= set(static["discarded"])
    assert checked.delivered("f/scribble.txt") == "scribble\nnew\n"
    assert "made-by-check.txt" not in checked.delivered_files()


def test_droppings_of_checks_are_not_worth_a_word(checked: Outcome) -> None:
    (static,) = _finished(checked, "ws-scribble", "static")
    assert [path for path in static["discarded"] if "__pycache__" in path] == []


def _finished(checked: Outcome, workstream: str, step: str) -> list[dict[str, Any]]:
    numbers = {one.attempt for one in checked.of(workstream, step)}
    return [
        event.payload
        for event in checked.events
        if event.kind == "step_finished" and event.workstream == workstream and event.attempt in numbers
    ]


def test_setup_runs_once_for_the_same_lock_files(lab: Lab, repo: Path, tmp_path: Path) -> None:
    """Before the first tool, with its programs on PATH; again only for other lock files."""
    log = tmp_path / "setups"
    command = f"echo ran >> {log}; mkdir -p $SWELL_SETUP_DIR/bin; printf '#!/bin/sh\\necho from-setup >> \"$1\"' > $SWELL_SETUP_DIR/bin/made; chmod +x $SWELL_SETUP_DIR/bin/made; echo left > stray.txt"
    tools = {"made": {"command": "made", "args": ["{files}"]}, "pass": TOOLS["pass"]}
    settings = f'setup = [["sh", "-c", {json.dumps(command)}]]\nstatic_tools = ["pass"]\nlock_files = ["deps.lock"]\n'
    commit_files(repo, {"a.txt": "", "b.txt": "", "deps.lock": "1", "swell.toml": settings})
    bundles = [bundle("ws-a", "made", "a.txt"), bundle("ws-b", "made", "b.txt")]
    first = lab.run(repo, bundles, tools)
    assert first.run.state == "completed"
    assert first.delivered("a.txt") == "from-setup\n"
    assert first.delivered_files() == {"a.txt", "b.txt"}
    assert log.read_text() == "ran\n"
    assert lab.run(repo, bundles, tools).run.state == "completed"
    assert log.read_text() == "ran\n"
    commit_files(repo, {"deps.lock": "2"})
    assert lab.run(repo, bundles, tools).run.state == "completed"
    assert log.read_text() == "ran\nran\n"


def test_a_setup_that_fails_is_an_error_and_nothing_to_fix(lab: Lab, repo: Path) -> None:
    """The tool is not started, and the reason holds what the setup command said."""
    settings = 'setup = ["sh -c \'echo no network; exit 4\'"]\nstatic_tools = ["pass"]\n'
    commit_files(repo, {"a.txt": "", "swell.toml": settings})
    run = lab.run(repo, [bundle("ws-a", "edit", "a.txt")], TOOLS)
    (attempt,) = run.of("ws-a")
    assert (attempt.step, attempt.error_class) == ("edit", "setup_error")
    assert "no network" in run.reason("ws-a")
