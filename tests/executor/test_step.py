"""Steps on a real repository, with real tools under the real supervisor."""

import asyncio
import os
import subprocess
import sys

import msgspec
import pytest
from executor_rig import Bench, Run, git, processes, sh, until

from services.aim import AimTool, Registry, Route, Security
from services.artifacts import Artifacts
from services.events import FixInput, Snapshot
from services.outcome import Cost
from services.profiles import ToolProfile

APPEND = 'echo new >> "$1"'


# Which tool, on which files, within which limits


async def test_the_steps_own_tool_replaces_the_one_of_the_definition(bench, tmp_path):
    run = Run(tmp_path, {"tool": sh("exit 9"), "other": sh(APPEND)})
    for step in ("edit", "fix"):
        done = await bench.do(run, step, tool="other")
        assert (done.ok, done.files) == (True, ["a.txt"])
    missing = await bench.do(run, tool="nobody")
    assert (missing.error_class, "'nobody'" in missing.message) == ("tool_missing", True)


async def test_a_formatter_without_a_file_of_its_kind_is_not_started(bench, tmp_path):
    """Without files many programs take all there are."""
    run = Run(tmp_path, {"tool": sh("echo changed >> a.txt", "{files}", type="formatter", file_extensions=(".py",))})
    for step in ("edit", "fix"):
        done = await bench.do(run, step)
        assert (done.ok, done.error_class, done.snapshot) == (False, "no_change", None)
        assert "no file of the scope ends in .py" in done.message


LIMITED = Registry(
    capabilities={"refactoring": Route(primary="one")},
    tools={"one": AimTool(profile="tool")},
    security=Security(forbidden_paths=("**/b.txt",)),
)


@pytest.mark.parametrize(("capability", "refused"), [("refactoring", ["b.txt"]), ("testing", None), (None, None)])
async def test_a_routed_tool_may_not_change_what_the_registry_forbids(bench, tmp_path, capability, refused):
    """Also where the declared scope has it, which may be a glob."""
    script = sh("touch nothing; echo new >> a.txt; echo new >> b.txt", "{files}")
    run = Run(tmp_path, {"tool": script}, capability=capability, files_scope=("*.txt", "nothing"))
    run.spec = msgspec.structs.replace(run.spec, registry=LIMITED)
    done = await bench.do(run)
    assert (done.error_class, done.violations) == (("scope_violation", refused) if refused else (None, []))


async def test_what_a_capability_is_given_is_in_the_prompt_and_no_placeholder(bench, tmp_path):
    payload = {"language": "python", "model": "huge"}
    run = Run(tmp_path, {"tool": sh(APPEND), "other": sh("true", "{language}")}, capability_payload=payload)
    prompt = (await bench.read(await bench.do(run), "prompt")).decode()
    assert '"language": "python"' in prompt
    refused = await bench.do(run, tool="other")
    assert not refused.ok
    assert "unknown placeholder {language}" in refused.message


@pytest.mark.parametrize(("reduction", "left"), [(0, "abcd"), (1, "ab"), (2, "a"), (9, "a")])
async def test_a_reduction_halves_the_files_that_are_handed_over_and_named(bench, tmp_path, reduction, left):
    run = Run(tmp_path, {"tool": sh('printf "%s " "$@" > a.txt')})
    done = await bench.do(run, reduction=reduction)
    names = [f"{name}.txt" for name in left]
    assert bench.content(run, done.snapshot, "a.txt").split() == names
    prompt = (await bench.read(done, "prompt")).decode()
    assert [name for name in ("a.txt", "b.txt", "c.txt", "d.txt") if f"- {name}" in prompt] == names


async def test_a_reduction_reaches_the_prompt_of_a_tool_that_is_handed_no_files(bench, tmp_path):
    run = Run(tmp_path, {"tool": sh('cp "$1" a.txt', "{prompt_file}")})
    done = await bench.do(run, reduction=1)
    prompt = bench.content(run, done.snapshot, "a.txt")
    assert "- b.txt" in prompt
    assert "- c.txt" not in prompt


async def test_the_files_that_matter_are_left_when_fewer_are_handed_over(bench, tmp_path):
    """EDIT keeps those that the bundle names first, FIX those that diagnostics name."""
    named = {"tool": sh('printf "%s " "$@" > d.txt')}
    run = Run(tmp_path, named, capability_payload={"files": ["c.txt", 7]})
    for reduction, left in ((1, "a.txt c.txt"), (9, "c.txt")):
        done = await bench.do(run, reduction=reduction)
        assert bench.content(run, done.snapshot, "d.txt") == left
    found = [{"tool": "t", "path": "b.txt", "message": "bad"}, {"tool": "t", "message": "of no file"}]
    stored = await bench.artifacts.put(
        "diagnostics", msgspec.json.encode({"step": "static", "checks": [], "diagnostics": found})
    )
    fixed = await bench.do(run, "fix", reduction=9, fix=FixInput(step="static", attempt=1, diagnostics=stored))
    assert bench.content(run, fixed.snapshot, "d.txt") == "b.txt"
    prompt = (await bench.read(fixed, "prompt")).decode()
    assert "- b.txt:" in prompt
    assert "```text\n- b.txt\n```" in prompt


# What a model's window has room for

LISTS = 'printf "%s " "$@" > a.txt'
TOKENS = 4  # characters of text, for a model that nobody knows


def sized(folder, profile=None, **bundle):
    """A run whose b.txt is estimated at 5,000 tokens and c.txt at 10,000, in a window that has room for 12,000."""
    repo = folder / "repo"
    profile = profile or sh(LISTS, type="ai", context_tokens=24_000)
    run = Run(folder, {"tool": profile}, **bundle)
    (repo / "b.txt").write_text("b" * 5_000 * TOKENS)
    (repo / "c.txt").write_text("c" * 10_000 * TOKENS)
    git(repo, "commit", "--quiet", "--all", "--message", "larger")
    run.base = run.snapshot("HEAD")
    run.spec = msgspec.structs.replace(
        run.spec, repository=msgspec.structs.replace(run.spec.repository, base_commit=run.base.commit)
    )
    return run


def handed(bench, run, done):
    return bench.content(run, done.snapshot, "a.txt").split()


async def test_what_a_window_has_no_room_for_is_left_out_and_told(bench, tmp_path):
    run = sized(tmp_path)
    done = await bench.do(run)
    assert handed(bench, run, done) == ["a.txt", "b.txt", "d.txt"]
    assert (done.context.decision, done.context.files, done.context.left_out) == ("reduced", 3, 1)
    assert 5_000 < done.context.tokens < done.context.limit_tokens == 12_000
    log = (await bench.read(done, "log")).decode()
    assert "[swell: context reduced" in log
    assert "left out: c.txt (window)]" in log
    prompt = (await bench.read(done, "prompt")).decode()
    assert "- b.txt" in prompt
    assert "- c.txt" not in prompt


async def test_what_fits_is_handed_over_and_its_measure_is_told(bench, tmp_path):
    run = sized(tmp_path, sh(LISTS, type="ai"))
    done = await bench.do(run)
    assert handed(bench, run, done) == ["a.txt", "b.txt", "c.txt", "d.txt"]
    assert (done.context.decision, done.context.left_out, done.context.limit_tokens) == ("fits", 0, 112_000)
    assert 15_000 < done.context.tokens < 18_000
    assert [one.role for one in done.artifacts if one.role == "log"] == []


@pytest.mark.parametrize(
    "bundle",
    [
        {"capability_payload": {"files": ["c.txt"]}},
        {"files_scope": ("a.txt", "b.txt", "d.txt"), "files_create": ("c.*",)},
    ],
)
async def test_priority_files_stay_and_others_give_way(bench, tmp_path, bundle):
    run = sized(tmp_path, **bundle)
    done = await bench.do(run)
    assert sorted(handed(bench, run, done)) == ["a.txt", "c.txt", "d.txt"]
    assert (done.context.decision, done.context.left_out) == ("reduced", 1)


async def test_a_fix_keeps_the_files_that_diagnostics_name(bench, tmp_path):
    found = {"step": "static", "checks": [], "diagnostics": [{"tool": "t", "path": "c.txt", "message": "bad"}]}
    stored = await bench.artifacts.put("diagnostics", msgspec.json.encode(found))
    run = sized(tmp_path)
    done = await bench.do(run, "fix", fix=FixInput(step="static", attempt=1, diagnostics=stored))
    assert handed(bench, run, done) == ["a.txt", "c.txt", "d.txt"]


async def test_a_reduction_comes_before_the_window(bench, tmp_path):
    run = sized(tmp_path)
    done = await bench.do(run, reduction=1)
    assert handed(bench, run, done) == ["a.txt", "b.txt"]
    assert (done.context.decision, done.context.files, done.context.left_out) == ("reduced", 2, 2)
    assert "c.txt (reduction), d.txt (reduction)" in (await bench.read(done, "log")).decode()


async def test_what_cannot_be_made_to_fit_starts_no_tool(bench, tmp_path):
    touched = tmp_path / "touched"
    profile = sh(f"touch '{touched}'", type="ai", context_tokens=24_000, cost_cap_usd=1.0)
    run = sized(tmp_path, profile, capability_payload={"files": ["b.txt", "c.txt"]})
    done = await bench.do(run, cap="soft", cap_nano=10**9)
    assert (done.ok, done.error_class, done.context.decision) == (False, "context_window", "too_large")
    assert (done.context.files, done.context.left_out, done.cost.nano_usd) == (2, 2, 0)
    assert "narrow files_scope" in done.message
    assert "a.txt (window)" in (await bench.read(done, "log")).decode()
    assert not touched.exists()


async def test_the_window_is_that_of_the_model_which_the_context_names(bench, tmp_path):
    """gpt-4 takes 8,192 tokens, of which half are kept free."""
    profile = ToolProfile(
        command="sh", args=("-c", LISTS, "tool", ("--model", "{some_model}"), "{files}"), type="ai", sandbox="none"
    )
    run = sized(tmp_path, profile)
    options = msgspec.structs.replace(run.spec.options, context={"some_model": "openai/gpt-4"})
    run.spec = msgspec.structs.replace(run.spec, options=options)
    done = await bench.do(run)
    assert (done.context.limit_tokens, done.context.left_out) == (4_096, 2)


async def test_a_name_of_any_bytes_is_told_in_one_line(bench, tmp_path):
    run = sized(tmp_path, files_scope=("a.txt", "*.bin"))
    name = b"repo/\xff\n[swell: forged].bin"
    (tmp_path / os.fsdecode(name)).write_bytes(b"x" * 60_000)
    git(run.repo, "add", "--all")
    git(run.repo, "commit", "--quiet", "--message", "odd")
    run.base = run.snapshot("HEAD")
    repository = msgspec.structs.replace(run.spec.repository, base_commit=run.base.commit)
    run.spec = msgspec.structs.replace(run.spec, repository=repository)
    done = await bench.do(run)
    assert (done.error_class, done.context.left_out) == (None, 1)
    [line] = (await bench.read(done, "log")).decode().splitlines()
    assert line.endswith("left out: \\udcff [swell: forged].bin (window)]")


@pytest.mark.parametrize("profile", [sh(LISTS), sh("echo x >> a.txt", "{prompt_file}", type="ai", context_tokens=10)])
async def test_who_has_no_window_or_is_handed_no_files_is_not_measured(bench, tmp_path, profile):
    done = await bench.do(sized(tmp_path, profile))
    assert (done.ok, done.context) == (True, None)


async def test_a_prompt_that_is_too_long_starts_no_tool(bench, tmp_path):
    touched = tmp_path / "touched"
    run = Run(tmp_path, {"tool": sh(f"touch {touched}")}, tasks=("word " * 3_900,) * 30)
    done = await bench.do(run)
    assert (done.ok, done.error_class) == (False, "context_window")
    assert "tokens, over the limit of" in done.message
    assert "split the workstream" in done.message
    assert not touched.exists()


async def test_the_prompt_is_written_for_the_tool_that_gets_it(bench, tmp_path):
    run = Run(tmp_path, {"tool": sh(APPEND), "aider": sh(APPEND)})
    texts = [(await bench.read(await bench.do(run, tool=name), "prompt")).decode() for name in ("tool", "aider")]
    assert texts[0] != texts[1].replace("ws-a/2", "ws-a/1")


async def test_hints_are_quoted_in_both_prompts(bench, tmp_path):
    run = Run(tmp_path, {"tool": sh(APPEND)}, hints=("use a set\n# not a heading", "and test it"))
    for step in ("edit", "fix"):
        prompt = (await bench.read(await bench.do(run, step), "prompt")).decode()
        assert "## What a reviewer says\n\n> use a set\n> # not a heading\n> \n> and test it\n" in prompt


SILENT = {"idle_timeout_s": 0.4, "timeout_s": 30.0}


async def test_the_steps_idle_limit_ends_a_silent_tool(bench, tmp_path):
    done = await bench.do(Run(tmp_path, {"tool": sh(f"{APPEND}; sleep 60")}), **SILENT)
    assert (done.ok, done.error_class) == (False, "idle_timeout")
    assert "no progress for 0.4 s" in done.message
    assert "idle_timeout_sec in its profile" in done.message
    assert "timeouts.idle" in done.message
    assert (done.changed, done.files) == (True, ["a.txt"])


async def test_the_profiles_idle_limit_comes_first(bench, tmp_path):
    own = await bench.do(Run(tmp_path, {"tool": sh("sleep 60", idle_timeout_sec=0.3)}), idle_timeout_s=20.0)
    assert own.error_class == "idle_timeout"
    assert "no progress for 0.3 s" in own.message
    none = await bench.do(Run(tmp_path, {"tool": sh(f"sleep 1.2; {APPEND}", idle_timeout_sec=0.0)}), **SILENT)
    assert none.ok


async def test_a_model_that_thinks_has_no_idle_limit_but_its_own(bench, tmp_path):
    run = Run(
        tmp_path,
        {"tool": sh(f"sleep 1.2; {APPEND}", type="ai"), "own": sh("sleep 60", type="ai", idle_timeout_sec=0.3)},
    )
    assert (await bench.do(run, **SILENT)).ok
    assert (await bench.do(run, tool="own")).error_class == "idle_timeout"


@pytest.mark.parametrize(
    ("profile_s", "step_s", "key"), [(0.3, 30.0, "timeout_sec in its profile"), (60.0, 0.3, "time limit of the step")]
)
async def test_a_timeout_names_the_limit_that_was_reached(bench, tmp_path, profile_s, step_s, key):
    done = await bench.do(Run(tmp_path, {"tool": sh("sleep 60", timeout_sec=profile_s)}), timeout_s=step_s)
    assert done.error_class == "timeout"
    assert "timeout of 0.3 s" in done.message
    assert key in done.message


@pytest.mark.parametrize(("limits", "expected"), [(SILENT, "idle_timeout"), ({"timeout_s": 0.4}, "timeout")])
async def test_a_check_that_was_ended_says_by_which_limit(bench, tmp_path, limits, expected):
    run = Run(tmp_path, {"tool": sh(APPEND), "check": sh("sleep 60")})
    done = await bench.do(run, "static", every_check=True, **limits)
    assert (done.ok, done.error_class, [check.outcome for check in done.checks]) == (False, expected, ["error"])
    assert "0.4 s" in done.message


async def test_exit_codes_mean_what_the_profile_says(bench, tmp_path):
    tool = sh('exit "$1"', "{code}", error_classes={"41": "auth", "173": "rate_limited"})
    run = Run(tmp_path, {"tool": tool})
    for code, expected in ((41, "auth"), (173, "rate_limited"), (1, "tool_failed")):
        run.spec = msgspec.structs.replace(
            run.spec, options=msgspec.structs.replace(run.spec.options, context={"code": code})
        )
        run.stored = None
        done = await bench.do(run)
        assert (done.error_class, done.exit_code) == (expected, code)


# What counts as a change


async def test_an_edit_that_finds_its_work_done_succeeds(bench, tmp_path):
    """It goes on from the snapshot of an attempt that was stopped; the change is that of the workstream, not its own."""
    run = Run(tmp_path, {"tool": sh(f"{APPEND}; exit 3"), "idle": sh("true"), "undo": sh('echo a > "$1"')})
    first = await bench.do(run)
    assert (first.ok, first.changed) == (False, True)
    done = await bench.do(run, tool="idle", input=first.snapshot)
    assert (done.ok, done.changed, done.files, done.snapshot) == (True, True, ["a.txt"], first.snapshot)
    assert b"+new" in await bench.read(done, "patch")
    nothing = await bench.do(run, tool="idle")
    assert nothing.error_class == "no_change"
    undone = await bench.do(run, tool="undo", input=first.snapshot)
    assert (undone.error_class, undone.changed, undone.snapshot.tree) == ("no_change", False, run.base.tree)


async def test_a_base_may_be_named_by_its_commit_alone(bench, tmp_path):
    run = Run(tmp_path, {"tool": sh('touch "$1"')})
    bare = Snapshot(commit=run.base.commit, tree="")
    assert (await bench.do(run, base=bare, input=bare)).error_class == "no_change"


async def test_a_fix_has_to_change_its_own_input(bench, tmp_path):
    run = Run(tmp_path, {"tool": sh(APPEND), "idle": sh("true")})
    first = await bench.do(run)
    assert (await bench.do(run, "fix", tool="idle", input=first.snapshot)).error_class == "no_change"


async def test_the_scope_is_judged_from_the_base(bench, tmp_path):
    run = Run(tmp_path, {"tool": sh("echo x > stray.txt; exit 1"), "idle": sh("true")})
    first = await bench.do(run)
    again = await bench.do(run, tool="idle", input=first.snapshot)
    assert (again.error_class, again.violations) == ("scope_violation", ["stray.txt"])


# Being stopped


async def stopped(bench, command, ready):
    """Cancel a step once `ready`; what it left."""
    task = asyncio.create_task(bench.steps.run(command))
    await until(ready)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    return bench.steps.stopped((command.run, "ws-a", command.step.attempt))


def worked(bench) -> bool:
    """Whether the tool has changed its file; it has been running for a moment then."""
    return any("new" in (path / "a.txt").read_text() for path in bench.worktrees() if (path / "a.txt").exists())


async def test_the_work_of_a_stopped_step_is_kept(bench, tmp_path):
    """Snapshot, patch and log are there; the tool and its children are dead and counted; the worktree is clean again."""
    busy = f"{APPEND}; echo said; sleep 61 & (setsid sleep 62 &); sleep 63"
    run = Run(tmp_path, {"tool": sh(busy), "look": sh('ls > "$1"; cat b.txt a.txt >> "$1"', "d.txt")})
    command = await run.command(bench.artifacts)
    marker = f"SWELL_ATTEMPT={run.id}/ws-a/1"
    left = await stopped(bench, command, lambda: len(processes(marker)) >= 4)
    assert processes(marker) == {}
    assert left.processes >= 1
    assert left.kept.changed
    assert bench.content(run, left.kept.snapshot, "a.txt") == "a\nnew"
    assert await bench.read(left.kept, "log") == b"said\n"
    assert b"+new" in await bench.read(left.kept, "patch")
    assert await bench.read(left.kept, "bundle")
    assert bench.steps.stopped((run.id, "ws-a", 1)).kept is None
    after = await bench.do(run, tool="look")
    assert bench.content(run, after.snapshot, "d.txt").split() == ["a.txt", "b.txt", "c.txt", "d.txt", "b", "a"]


async def test_keeping_the_work_is_bounded(tmp_path, supervisor, bench):
    """An object store that takes nothing any more holds a stopped step up for no longer than the limit."""

    class Stuck:
        async def write(self, name, data):
            if not name.startswith("spec"):
                await asyncio.Event().wait()

        read = staticmethod(bench.steps.bus.objects.read)

    slow = Bench(tmp_path, supervisor, Artifacts(Stuck()), bench.steps.bus, root=bench.root, keep_work_timeout_s=0.2)
    run = Run(tmp_path, {"tool": sh(f"sleep 0.2; {APPEND}; sleep 60")})
    left = await stopped(slow, await run.command(bench.artifacts), lambda: worked(slow))
    assert left.kept is None
    assert left.processes >= 1


async def test_a_stopped_check_leaves_no_work(bench, tmp_path):
    run = Run(tmp_path, {"tool": sh(APPEND), "check": sh("sleep 0.2; echo new >> a.txt; sleep 60")})
    command = await run.command(bench.artifacts, "static", every_check=True)
    left = await stopped(bench, command, lambda: worked(bench))
    assert left.kept is None
    assert left.processes >= 1
    assert processes(f"SWELL_ATTEMPT={run.id}/") == {}


# Undoing


async def undo(bench, run, action, **fields):
    return await bench.do(run, "compensate", action=action, **fields)


async def test_a_command_undoes_in_a_worktree_at_the_head(bench, tmp_path):
    run = Run(tmp_path, {"tool": sh(APPEND)})
    head = (await bench.do(run)).snapshot
    told = tmp_path / "told"
    done = await undo(
        bench, run, f"cmd:sh -c 'cat a.txt; echo {{prompt}} $SWELL_ATTEMPT; touch {told}; rm b.txt'", input=head
    )
    assert (done.ok, done.exit_code) == (True, 0)
    assert await bench.read(done, "log") == f"a\nnew\n{{prompt}} {run.id}/ws-a/2\n".encode()
    assert told.exists()
    assert (await undo(bench, run, "cmd:test -f b.txt", input=head)).ok, "what a command leaves is discarded"


@pytest.mark.parametrize(
    ("action", "limits", "expected"),
    [
        ("cmd:sh -c 'echo sorry; exit 4'", {}, "tool_failed"),
        ("cmd:no-such-program", {}, "tool_missing"),
        ("cmd:sleep 60", {"timeout_s": 0.3}, "timeout"),
        ("cmd:sleep 60", {"idle_timeout_s": 0.3}, "idle_timeout"),
        ("git:revert", {}, "protocol_error"),
        ("reboot", {}, "protocol_error"),
        ("", {}, "protocol_error"),
    ],
)
async def test_what_does_not_undo_says_why(bench, tmp_path, action, limits, expected):
    done = await undo(bench, Run(tmp_path, {"tool": sh(APPEND)}), action, **limits)
    assert (done.ok, done.error_class) == (False, expected)
    assert done.message


async def test_a_delivered_branch_is_deleted_once(bench, tmp_path):
    run = Run(tmp_path, {"tool": sh(APPEND)})
    head = (await bench.do(run)).snapshot
    ref = f"refs/heads/swell/{run.id}"
    for base in (head, None):
        repository = await bench.steps.repositories.open(str(run.repo))
        await repository.mirror.deliver(head.commit, ref=ref, expected_old=None)
        assert git(run.repo, "rev-parse", ref) == head.commit
        assert (await undo(bench, run, "branch:delete", input=head, base=base)).ok
        assert git(run.repo, "for-each-ref", "--format=%(refname)") == "refs/heads/main"
        again = await undo(bench, run, "branch:delete", input=head, base=base)
        assert (again.ok, "nothing to delete" in again.message) == (True, True)


async def test_a_branch_that_somebody_moved_or_uses_is_not_deleted(bench, tmp_path):
    run = Run(tmp_path, {"tool": sh(APPEND)})
    head = (await bench.do(run)).snapshot
    branch = f"swell/{run.id}"
    git(run.repo, "branch", branch)
    for base in (head, None):
        done = await undo(bench, run, "branch:delete", input=head, base=base)
        assert (done.error_class, "not where this run left it" in done.message) == ("delivery_refused", True)
    git(run.repo, "worktree", "add", "--quiet", str(tmp_path / "elsewhere"), branch)
    used = await undo(bench, run, "branch:delete", input=run.base, base=run.base)
    assert (used.error_class, "checked out in" in used.message) == ("delivery_refused", True)
    assert git(run.repo, "rev-parse", branch) == run.base.commit


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.getuid() != 0
        or subprocess.run(
            ("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder), capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(("umount", "--lazy", folder), check=True)


async def test_a_full_disk_fails_the_step_and_not_the_executor(tmp_path, supervisor, bench, small_disk):
    small = Bench(tmp_path, supervisor, bench.artifacts, bench.steps.bus, root=small_disk / "state")
    await small.steps.prepare()
    fill = sh(f'{APPEND}; head -c 4000000 /dev/urandom > "$1"')
    run = Run(tmp_path, {"tool": sh(APPEND), "fill": fill})
    assert (await small.do(run)).ok
    for _ in range(2):
        full = await small.do(run, tool="fill")
        assert not full.ok
    stuffing = small_disk / "stuffing"
    with stuffing.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            pass
    full = await small.do(run, tool="fill")
    assert (full.ok, full.error_class) == (False, "workspace_error"), full.message
    assert str(small.root) in full.message
    assert "free space" in full.message
    stuffing.unlink()
    assert (await small.do(run)).ok
    assert (await small.do(run, "compensate", action="cmd:true")).ok


async def test_python_is_the_interpreter_that_runs_us(bench, tmp_path):
    run = Run(
        tmp_path,
        {"tool": ToolProfile(command="{python}", args=("-c", "import sys; open('a.txt', 'w').write(sys.executable)"))},
    )
    done = await bench.do(run)
    assert bench.content(run, done.snapshot, "a.txt") == sys.executable


# What an attempt leaves for us to trip over, and what it costs


async def test_a_link_that_a_tool_leaves_where_we_write_leads_nowhere(bench, tmp_path):
    """The commit's bundle is written by us, who may write anywhere."""
    outside = tmp_path / "outside"
    outside.write_text("mine")
    leave = sh(
        f'echo x >> a.txt; ln -sf "{outside}" "$1/snapshot.bundle"; mkdir -p "$1/snapshot.bundle.lock"', "{scratch}"
    )
    done = await bench.do(Run(tmp_path, {"tool": leave}))
    assert done.ok, done.message
    assert outside.read_text() == "mine"


async def test_an_attempt_that_started_no_tool_has_cost_nothing(bench, tmp_path):
    missing = ToolProfile(command="no-such-program", type="ai", cost_cap_usd=1.0)
    done = await bench.do(Run(tmp_path, {"tool": missing}), cap="soft", cap_nano=10**9)
    assert (done.error_class, done.cost) == ("tool_missing", Cost(nano_usd=0, basis="list"))
    silent = sh(APPEND, type="ai", cost_cap_usd=1.0)
    done = await bench.do(Run(tmp_path, {"tool": silent}), cap="soft", cap_nano=10**9)
    assert (done.ok, done.cost) == (True, None)


async def test_a_prompt_that_no_argument_holds_is_too_large(bench, tmp_path):
    profile = sh(APPEND, "{prompt}")
    done = await bench.do(Run(tmp_path, {"tool": profile}, tasks=tuple("ж" * 1000 for _ in range(70))))
    assert done.error_class == "context_window"
    assert "prompt_file" in done.message


async def test_an_ordinary_value_of_the_environment_is_no_secret(bench, tmp_path, monkeypatch):
    """Else ordinary work that contains it would be held back."""
    monkeypatch.setenv("NODE_ENV", "production")
    monkeypatch.setenv("SERVICE_API_KEY", "hush-hush-hush-1234")
    run = Run(tmp_path, {"tool": sh("echo production >> a.txt", env_allow=("NODE_ENV", "SERVICE_API_KEY"))})
    assert (await bench.do(run)).ok
    leak = Run(tmp_path, {"tool": sh('echo "$SERVICE_API_KEY" >> a.txt', env_allow=("SERVICE_API_KEY",))})
    done = await bench.do(leak)
    assert (done.error_class, done.snapshot) == ("scope_violation", None)


async def test_what_a_setup_made_belongs_to_its_repository(bench: Bench, tmp_path):
    """The same command, no lock file: another repository's own code would fill the same folder."""
    made = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run = Run(tmp_path / name, {"tool": sh('cat "$SWELL_SETUP_DIR/who" > a.txt')})
        (run.repo / "boot.sh").write_text(f'echo {name} > "$SWELL_SETUP_DIR/who"')
        git(run.repo, "add", "--all")
        git(run.repo, "commit", "--quiet", "--message", "boot")
        run.base = run.snapshot("HEAD")
        repository = msgspec.structs.replace(run.spec.repository, base_commit=run.base.commit)
        checks = msgspec.structs.replace(run.spec.checks, setup=(("sh", "boot.sh"),))
        run.spec = msgspec.structs.replace(run.spec, repository=repository, checks=checks)
        made[name] = await bench.do(run)
    patches = [(await bench.read(done, "patch")).decode() for done in made.values()]
    assert ["+one" in patches[0], "+two" in patches[1]] == [True, True]
