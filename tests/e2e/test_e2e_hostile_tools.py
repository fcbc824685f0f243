"""Tools that do what they should not. One run holds them all: what one does must not reach the others, nor the user."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import SECRETS, Lab, Outcome, bundle, commit_files, git, processes, sh, until, witness

SLEEP = "98765.4321"
"""An argument that no other process has."""
LOUD_BYTES = 300_000_000
KEPT_BYTES = 10 * 1024 * 1024
PROMPT = "say $(id) `id` ${HOME} {files} {{ x }} {% raw %} %s \\n 'single' \"double\" ; rm -rf / # é ☃ {worktree_path}"

EDIT = 'echo new >> "$1"'
COMMIT = "git -c user.name=t -c user.email=t@invalid commit -q --no-verify -am evil"
TOOLS = {
    "pass": sh("true", "-"),
    "missing": {"command": "no-such-tool-of-e2e", "args": ["{files}"]},
    "loud": sh(f"yes loud-noise | head -c {LOUD_BYTES}; echo; echo the-end; {EDIT}", timeout_sec=60),
    "undying": sh(
        f"trap '' TERM INT HUP; for i in 1 2 3; do (setsid env -i sh -c \"trap '' TERM; sleep {SLEEP}; :\" &) & done; "
        f"{EDIT}; while :; do sleep {SLEEP}; done",
        timeout_sec=1, grace_sec=0.3,
    ),
    "daemon": sh(f"{EDIT}; (setsid env -i sleep {SLEEP} >/dev/null 2>&1 &); (setsid sleep {SLEEP} &)"),
    "no-git": sh(f"rm -rf .git; {EDIT}"),
    "commits": sh(f"{EDIT}; {COMMIT} && git rev-parse HEAD"),
    "branches": sh(f'git checkout -q -b evil; {EDIT}; {COMMIT}; git tag evil; git stash list; echo more >> "$1"; git stash -q; {EDIT}'),
    "wanders": sh(f"{EDIT}; echo mine >> f/untouched.txt; rm f/chmod.txt; echo x > stray.txt"),
    "links-out": sh(f"{EDIT}; ln -s /etc/passwd f/link"),
    "nests": sh(f"{EDIT}; git init -q f/nested; echo x > f/nested/file"),
    "submodules": sh(
        f"{EDIT}; git init -q f/sub && git -C f/sub -c user.name=t -c user.email=t@invalid commit -q --allow-empty -m x; "
        "git add f/sub 2>/dev/null; git update-index --add --cacheinfo 160000,$(git -C f/sub rev-parse HEAD),f/sub"
    ),
    "chmods": sh('chmod +x "$1"'),
    "idles": sh('echo thinking; touch "$1"'),
    "litters": sh("mkdir -p ignored __pycache__; echo x > ignored/x; echo x > .aider.chat.history.md; echo x > __pycache__/a.pyc"),
    "homely": sh(f'echo x > "$HOME/.rc"; echo x > "$TMPDIR/t"; mktemp -d; mkdir -p "$HOME/.config/t"; {EDIT}; pwd >> "$1"'),
    "spies": sh(f"{EDIT}; env; echo ---; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; git config --list; git remote -v"),
    "quotes": sh('printf %s "$2" > "$1"; printf %s "$3" >> "$1"; cmp -s "$4" - <<E || true\nE\ncat "$4" >> "$1"',
                 "{files}", "{prompt}", "|", "{prompt_file}"),
    "fails": sh(f"{EDIT}; echo half done; exit 3"),
    "removes-itself": sh('rm -rf "$PWD"'),
}  # fmt: skip
NAMES = sorted(set(TOOLS) - {"pass"})


@pytest.fixture(scope="module")
def hostile(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    repo = tmp_path_factory.mktemp("hostile") / "repo"
    files = {f"f/{name}.txt": f"{name}\n" for name in [*NAMES, "untouched", "chmod"]}
    commit_files(repo, {**files, ".gitignore": "ignored/\n", "swell.toml": 'static_tools = ["pass"]\n'})
    before = witness(repo)
    outcome = lab.run(
        repo,
        [
            bundle(
                f"ws-{name}",
                name,
                f"f/{name}.txt",
                files_create=[f"f/{name}.txt", *(["f/link"] if name == "links-out" else [])],
                tasks=[PROMPT],
            )
            for name in NAMES
        ],
        TOOLS,
        max_workers=4,
    )
    assert witness(repo) == before, "the user's checkout was touched"
    return outcome


def edit(hostile: Outcome, name: str) -> dict[str, object]:
    """The fact that closed the EDIT of a tool's workstream."""
    (fact,) = [
        e.payload
        for e in hostile.events
        if e.kind == "step_finished" and (e.workstream, e.attempt) == (f"ws-{name}", 1)
    ]
    return fact


GOOD = ["branches", "chmods", "commits", "daemon", "homely", "loud", "no-git", "quotes", "spies"]
BAD = {
    "missing": "tool_missing",
    "undying": "timeout",
    "wanders": "scope_violation",
    "links-out": "scope_violation",
    "nests": "scope_violation",
    "submodules": "scope_violation",
    "idles": "no_change",
    "litters": "no_change",
    "fails": "tool_failed",
    "removes-itself": "scope_violation",
}


@pytest.mark.parametrize("name", GOOD)
def test_odd_habits_do_no_harm(hostile: Outcome, name: str) -> None:
    """Whatever else it did, what it changed inside its scope is merged."""
    assert hostile.state(f"ws-{name}") == "completed", hostile.reason(f"ws-{name}")


@pytest.mark.parametrize(("name", "error_class"), BAD.items())
def test_failures_are_told_apart(hostile: Outcome, name: str, error_class: str) -> None:
    """The workstream fails by its class of error, without a FIX, and nothing of it is merged."""
    assert hostile.state(f"ws-{name}") == "failed"
    assert edit(hostile, name)["error_class"] == error_class
    assert [one.step for one in hostile.of(f"ws-{name}")] == ["edit"]
    assert f"f/{name}.txt" not in hostile.delivered_files()


def test_every_tool_was_tried() -> None:
    assert sorted([*GOOD, *BAD]) == NAMES


def test_300_megabytes_are_cut_and_the_run_goes_on(hostile: Outcome) -> None:
    """Beginning and end are kept, with a mark where something is missing."""
    log = hostile.artifact(hostile.of("ws-loud", "edit")[0], "log")
    assert len(log) < KEPT_BYTES + 1024 * 1024
    assert log.startswith(b"loud-noise\n")
    assert b"the-end" in log[-200:]
    cut = log.replace(b"loud-noise\n", b"")
    assert any(word in cut.lower() for word in (b"truncated", b"cut", b"left out", b"omitted")), cut[:300]


def test_nothing_of_a_timed_out_tool_lives(hostile: Outcome) -> None:
    """It ignores SIGTERM, and its grandchildren left its session and its environment; all of them are gone."""
    assert "timeout" in str(edit(hostile, "undying")["message"])
    assert processes(SLEEP) == {}
    assert float(str(edit(hostile, "undying")["wall_s"])) < 5


def test_a_close_by_the_executor_comes_after_the_last_process(lab: Lab, repo: Path) -> None:
    """When the fact of a finished step stands in the log, no process of it lives."""
    commit_files(repo, {"a.txt": "", "swell.toml": 'static_tools = ["pass"]\n'})
    run = lab.submit(repo, [bundle("ws-a", "daemon", "a.txt")], TOOLS)
    for event in lab.watch(run):
        if event.kind == "step_finished":
            assert processes(SLEEP) == {}


def test_files_outside_the_scope_are_listed(hostile: Outcome) -> None:
    assert edit(hostile, "wanders")["violations"] == ["f/chmod.txt", "f/untouched.txt", "stray.txt"]
    assert "f/untouched.txt" in hostile.reason("ws-wanders")
    assert hostile.delivered("f/untouched.txt") == "untouched\n"


@pytest.mark.parametrize(("name", "path"), [("links-out", "f/link"), ("nests", "f/nested"), ("submodules", "f/sub")])
def test_what_no_tree_should_hold_is_named(hostile: Outcome, name: str, path: str) -> None:
    violations = edit(hostile, name)["violations"]
    assert isinstance(violations, list)
    assert any(str(text).startswith(path) for text in violations), violations


def test_a_change_of_mode_is_a_change(hostile: Outcome) -> None:
    tree = git(hostile.repo, "ls-tree", str(hostile.run.delivered_ref), "f/chmods.txt")
    assert tree.startswith("100755 ")


def test_the_work_of_a_failed_tool_is_kept(hostile: Outcome) -> None:
    """Its patch can be read although its workstream failed."""
    assert b"+new" in hostile.artifact(hostile.of("ws-fails", "edit")[0], "patch")
    assert "exit code 3: half done" in hostile.reason("ws-fails")


def test_branches_tags_and_commits_of_a_tool_stay_with_it(hostile: Outcome) -> None:
    """Only the branch of the run is new in the user's repository, and holds one commit for each merge."""
    heads = set(git(hostile.repo, "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags").splitlines())
    assert heads == {"main", f"swell/{hostile.run.run}"}
    assert git(hostile.repo, "rev-list", "--count", f"main..swell/{hostile.run.run}") == str(len(hostile.merged()))
    assert hostile.delivered("f/branches.txt") == "branches\nnew\nnew\n"


def test_home_and_temporary_folder_are_the_attempts_own(hostile: Outcome) -> None:
    assert hostile.delivered("f/homely.txt").startswith("homely\nnew\n/")
    assert hostile.of("ws-homely", "edit")[0].files == ["f/homely.txt"]
    log = hostile.artifact(hostile.of("ws-homely", "edit")[0], "log").decode().strip()
    assert log.startswith("/")
    assert not Path(log).exists()


def test_a_tool_sees_no_secret(lab: Lab, hostile: Outcome) -> None:
    """Neither in its environment, nor in any environment or command line that it can read."""
    log = hostile.artifact(hostile.of("ws-spies", "edit")[0], "log").decode(errors="replace")
    environment, _, everything = log.partition("---\n")
    own = {line.partition("=")[0] for line in environment.splitlines()}
    assert {name for name in own if name.startswith("SWELL_")} == {
        "SWELL_ATTEMPT", "SWELL_CACHE_DIR", "SWELL_PORT_COUNT", "SWELL_PORT_FIRST",
    }  # fmt: skip
    assert own.isdisjoint(SECRETS)
    for name in ("bus_executor", "bus_scheduler", "token"):
        secret = (lab.state_dir / "secrets" / name).read_text().strip()
        assert len(secret) > 20
        assert secret not in log, name
    for name, value in SECRETS.items():
        assert value not in environment, name
    assert SECRETS["E2E_API_KEY"] not in everything


def test_a_prompt_arrives_verbatim(hostile: Outcome) -> None:
    """As an argument and as a file; nothing in it is interpreted on its way."""
    content = hostile.delivered("f/quotes.txt")
    argument, _, file = content.partition("|")
    assert PROMPT in argument
    assert argument == file.rstrip("\n") or argument == file
    assert hostile.artifact(hostile.of("ws-quotes", "edit")[0], "prompt").decode() == argument


def test_nothing_is_left_in_scratch(lab: Lab, hostile: Outcome) -> None:
    """The attempts' folders are gone with them, but for those that are empty and used again."""
    assert hostile.run.state == "partial"
    scratch = lab.state_dir / "executor" / "scratch"

    def files() -> list[Path]:
        return [path for path in scratch.rglob("*") if not path.is_dir()]

    until(lambda: not files(), "the end of scratch files")
    assert {path.name for path in scratch.glob("attempt-*/*")} <= {"cache", "home", "tmp"}
    assert list(scratch.glob("attempt-*/*/*")) == []
