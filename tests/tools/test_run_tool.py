"""`run_tool` and `invoke` with real programs."""

import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from services.executor.tools import RESULT_BYTES, invoke, run_tool
from services.process import Supervisor, child_environment
from services.profiles import ToolProfile


def profile(*argv, **fields) -> ToolProfile:
    return ToolProfile(command=argv[0], args=argv[1:], **fields)


def python(code: str, *arguments: str, **fields) -> ToolProfile:
    return profile("{python}", "-c", code.replace("{", "{{").replace("}", "}}"), *arguments, **fields)


def test_success_sets_every_field(tmp_path):
    result = run_tool("t", {"worktree_path": str(tmp_path), "prompt": "a b"}, {"t": profile("echo", "{prompt}")})
    assert result.success
    assert (result.tool_id, result.exit_code, result.stdout, result.stderr) == ("t", 0, "a b\n", "")
    assert result.command_line == "echo 'a b'"
    assert not result.timed_out
    assert not result.truncated
    assert result.elapsed_sec == result.duration_sec > 0
    assert datetime.fromisoformat(result.started_at) < datetime.fromisoformat(result.completed_at)
    assert result.content == {}


@pytest.mark.parametrize("sandbox", [None, "auto"])
def test_a_tool_that_wants_a_sandbox_has_none_here_and_that_is_told(tmp_path, sandbox):
    tool = profile("sh", "-c", "echo own >&2", type="ai", sandbox=sandbox)
    first, *rest = run_tool("t", {"worktree_path": tmp_path}, {"t": tool}).stderr.splitlines()
    assert first.startswith("it ran without a sandbox: there are sandboxes in executors only: submit a run")
    assert rest == ["own"]
    own = profile("sh", "-c", "echo own >&2", type="ai", sandbox="none")
    assert run_tool("t", {"worktree_path": tmp_path}, {"t": own}).stderr == "own\n"
    missing = profile("no-such-program", type="ai", sandbox=sandbox)
    assert "without a sandbox" not in run_tool("t", {"worktree_path": tmp_path}, {"t": missing}).stderr


def test_the_shipped_profiles_are_the_default(tmp_path):
    assert run_tool("echo", {"worktree_path": tmp_path, "prompt": "hello"}).stdout == "hello\n"


def test_an_unknown_tool_is_a_key_error():
    with pytest.raises(KeyError, match=r"no-tool.*known are"):
        run_tool("no-tool", {})


@pytest.mark.parametrize(
    ("tool", "exit_code", "success"),
    [
        (profile("sh", "-c", "exit 5"), 5, False),
        (profile("sh", "-c", "exit 5", success_exit_codes=(0, 5)), 5, True),
        (profile("sh", "-c", "kill -KILL $$"), 137, False),
        (profile("no-such-program"), -2, False),
        (profile("/"), -3, False),
        (profile("true", working_dir="absent"), -3, False),
        (profile("true", "{nope}"), -3, False),
        (profile("true", env={"A": "{nope}"}), -3, False),
    ],
)
def test_exit_codes(tmp_path, tool, exit_code, success):
    result = run_tool("t", {"worktree_path": tmp_path}, {"t": tool})
    assert (result.exit_code, result.success) == (exit_code, success)
    assert exit_code >= 0 or result.stderr


@pytest.mark.parametrize("containment", ["auto", "sweep"])
def test_time_out_is_minus_one(tmp_path, containment):
    started = time.monotonic()
    tool = {"t": profile("sh", "-c", "echo begun; sleep 60", timeout_sec=50)}
    result = run_tool(
        "t", {"worktree_path": tmp_path, "timeout_sec": 0.3}, tool, "run", "ws-a", containment=containment
    )
    assert (result.exit_code, result.timed_out, result.success) == (-1, True, False)
    assert result.stdout == "begun\n"
    assert time.monotonic() - started < 6


def test_silence_is_a_time_out_too(tmp_path):
    result = run_tool("t", {"worktree_path": tmp_path}, {"t": profile("sleep", "60", idle_timeout_sec=0.2)})
    assert (result.exit_code, result.timed_out) == (-1, True)


def test_an_unknown_placeholder_starts_nothing(tmp_path):
    result = run_tool("t", {"worktree_path": tmp_path}, {"t": profile("sh", "-c", "touch made", "{nope}")})
    assert "unknown placeholder {nope}" in result.stderr
    assert not (tmp_path / "made").exists()


def test_arguments_reach_the_tool_as_they_are(tmp_path):
    prompt = "$(touch made) {files} ; `id` \"'"
    tool = python("import sys; print(sys.argv[1:])", "{prompt}", "{files}", "{repo_root}")
    result = run_tool("t", {"worktree_path": tmp_path, "prompt": prompt, "files": ["a b", "c"]}, {"t": tool})
    assert result.stdout == f"{[prompt, 'a b', 'c', str(tmp_path)]}\n"
    assert not (tmp_path / "made").exists()


def test_the_prompt_comes_as_a_file_too(tmp_path):
    tool = python(
        "import sys; print(open(sys.argv[1]).read(), sys.stdin.read())", "{prompt_file}", stdin="{prompt_file}"
    )
    result = run_tool("t", {"worktree_path": tmp_path, "prompt": "söme text"}, {"t": tool})
    assert result.stdout == "söme text söme text\n"


def test_the_environment_is_an_allow_list(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    monkeypatch.setenv("API_KEY", "key")
    tool = profile("env", env={"WHO": "{workstream}"}, env_allow=("API_KEY", "ABSENT"))
    result = run_tool("t", {"worktree_path": tmp_path, "workstream": "ws-a"}, {"t": tool})
    found = dict(line.split("=", 1) for line in result.stdout.splitlines())
    assert "SECRET_TOKEN" not in found
    assert (found["API_KEY"], found["WHO"]) == ("key", "ws-a")
    assert found["HOME"] != os.environ.get("HOME")
    assert found["PATH"].endswith(str(Path(sys.executable).parent))


def test_long_output_is_cut_and_says_so(tmp_path):
    result = run_tool("t", {"worktree_path": tmp_path}, {"t": python("print('x' * 3_000_000)")})
    assert result.success
    assert result.truncated
    assert "bytes left out here" in result.stdout
    assert len(result.stdout) < RESULT_BYTES + 200


def test_a_tool_runs_in_its_working_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    assert run_tool("t", {"worktree_path": tmp_path}, {"t": profile("pwd")}).stdout == f"{tmp_path}\n"
    tool = profile("pwd", working_dir="{worktree_path}/sub")
    assert run_tool("t", {"worktree_path": tmp_path}, {"t": tool}).stdout == f"{tmp_path}/sub\n"


async def test_run_tool_works_inside_an_event_loop(tmp_path):
    assert run_tool("echo", {"worktree_path": tmp_path, "prompt": "x"}).success


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    (folder / "kept.txt").write_text("old\n")
    (folder / "gone.txt").write_text("old\n")
    (folder / ".gitignore").write_text("*.log\n")
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "base"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True)
    return folder


def test_content_tells_what_the_tool_changed_in_git(repository):
    """New and deleted files too; what was changed before, and ignored files, are not the tool's doing."""
    (repository / "before.txt").write_text("mine\n")
    objects = sorted(path for path in (repository / ".git").rglob("*") if path.is_file())
    tool = profile("sh", "-c", "echo new > kept.txt; echo x > 'a b.txt'; rm gone.txt; echo l > x.log")
    result = run_tool("t", {"worktree_path": repository}, {"t": tool})
    assert result.content["files_modified"] == ["a b.txt", "gone.txt", "kept.txt"]
    assert "-old\n+new\n" in result.content["diff"]
    assert "before.txt" not in result.content["diff"]
    assert result.content["tool"] == "t"
    assert sorted(path for path in (repository / ".git").rglob("*") if path.is_file()) == objects


def test_content_works_before_the_first_commit(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    result = run_tool("t", {"worktree_path": tmp_path}, {"t": profile("touch", "new")})
    assert result.content["files_modified"] == ["new"]


@pytest.fixture
async def supervisor():
    started = Supervisor()
    await started.start()
    yield started
    await started.close()


async def call(supervisor, tool, folder, **options):
    settings = {
        "cwd": folder,
        "env": child_environment(),
        "scratch": folder,
        "timeout_s": 30,
        "output_bytes": 10_000,
        "marker": "test/invoke/1",
    }
    return await invoke(supervisor, tool, options.pop("context", {}), **{**settings, **options})


async def test_fix_takes_the_fix_arguments(supervisor, tmp_path):
    tool = profile("echo", "check", fix_args=("fix",))
    await call(supervisor, tool, tmp_path)
    assert (tmp_path / "stdout").read_text() == "check\n"
    await call(supervisor, tool, tmp_path, fix=True)
    assert (tmp_path / "stdout").read_text() == "fix\n"
    await call(supervisor, profile("echo", "only"), tmp_path, fix=True)
    assert (tmp_path / "stdout").read_text() == "only\n"


async def test_errors_are_values(supervisor, tmp_path):
    (tmp_path / "plain").write_text("text")
    for tool, error in (
        (profile("no-such-program"), "not_found"),
        (profile("./plain"), "spawn_failed"),
        (profile("true", "{nope}"), "placeholder"),
        (profile("cat", stdin="{scratch}/absent"), "spawn_failed"),
    ):
        done = await call(supervisor, tool, tmp_path)
        assert (done.error, done.exit, done.ok) == (error, None, False)
        assert done.message


@pytest.mark.parametrize("bad", ["a\0b", "a\ud800b"])
@pytest.mark.parametrize("containment", ["pidns", "sweep"])
async def test_what_no_argument_can_hold_is_refused_and_the_supervisor_lives(tmp_path, bad, containment):
    """In profiles made in Python; those of a file are refused when they are read."""
    supervisor = Supervisor(containment)
    await supervisor.start()
    for tool in (
        profile(bad),
        profile(f"./{bad}"),
        profile("echo", bad),
        profile("cat", stdin=bad),
        profile("true", working_dir=bad),
        profile("true", env={"A": bad}),
        profile("true", env={bad: "a"}),
        profile("true", env={"PATH": bad}),
    ):
        done = await call(supervisor, tool, tmp_path)
        assert done.error in {"spawn_failed", "not_found"}, tool
        assert done.message
        assert "".join(done.argv).isprintable() or "\0" in bad
    done = await call(supervisor, profile("echo", "{prompt}"), tmp_path, context={"prompt": bad})
    assert done.error in {"placeholder", "spawn_failed"}
    assert supervisor.alive
    assert (await call(supervisor, profile("true"), tmp_path)).ok
    await supervisor.close()


async def test_a_file_whose_name_is_not_utf_8_reaches_the_tool(supervisor, tmp_path):
    name = os.fsdecode(b"caf\xe9.txt")
    (tmp_path / name).write_text("content")
    done = await call(supervisor, profile("cat", "{files}"), tmp_path, context={"files": [name]})
    assert done.ok
    assert (tmp_path / "stdout").read_text() == "content"
    assert done.argv == ("cat", "caf\\udce9.txt")


def test_a_context_that_will_not_do_is_a_result(tmp_path):
    for context in (
        {"worktree_path": tmp_path, "prompt": "a\0b"},
        {"worktree_path": tmp_path, "prompt": "a\ud800b"},
        {"worktree_path": f"{tmp_path}/a\0b", "prompt": "a"},
        {"worktree_path": f"{tmp_path}/a\ud800b", "prompt": "a"},
        {"worktree_path": tmp_path, "prompt": "a", "timeout_sec": "nan"},
        {"worktree_path": tmp_path, "prompt": "a", "timeout_sec": 1e9},
    ):
        result = run_tool("echo", context)
        assert (result.exit_code, result.success) == (-3, False)
        assert result.stderr


async def test_the_lower_limit_counts(supervisor, tmp_path):
    done = await call(supervisor, profile("sleep", "60", timeout_sec=0.2), tmp_path)
    assert done.exit.ended_by == "timeout"
    done = await call(supervisor, profile("sleep", "60"), tmp_path, timeout_s=0.2)
    assert done.exit.ended_by == "timeout"


async def test_a_started_tool_can_be_stopped_and_is_never_ok(supervisor, tmp_path):
    """Its exit code after our SIGTERM means nothing, 0 included."""
    pids = []

    def stop(tool) -> None:
        pids.append(tool.pid)
        tool.stop()

    done = await call(supervisor, profile("sh", "-c", "trap 'exit 0' TERM; sleep 60"), tmp_path, on_started=stop)
    assert done.exit.ended_by == "cancel"
    assert not done.ok
    assert pids[0] > 0
