"""What a tool can and cannot do in a sandbox. Where bubblewrap cannot be had, only what follows from that is tested."""

import asyncio
import os
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest
from executor_rig import Bench, Run, git, processes, sh, until

from services.config import load
from services.executor.__main__ import hidden_of
from services.executor.config import PREFIX, ExecutorConfig
from services.executor.installation import needs_of, needs_of_path
from services.executor.sandbox import Bubblewrap, Exposure, _hidden
from services.process import Supervisor
from services.profiles import ToolProfile
from swell.parts import Parts, Ports

APPEND = 'echo new >> "$1"'


@pytest.fixture
def boxed(bench):
    if bench.steps.bubblewrap.reason:
        pytest.skip(f"no sandbox can be had here: {bench.steps.bubblewrap.reason}")
    return bench


def inside(script, *arguments, **fields):
    return sh(script, *arguments, **{"sandbox": "bwrap", **fields})


def python(script, *arguments, **fields):
    """A tool in Python that writes what it finds to a.txt."""
    literal = textwrap.dedent(script).replace("{", "{{").replace("}", "}}")
    return ToolProfile(command="{python}", args=("-c", literal, *arguments), **{"sandbox": "bwrap", **fields})


async def found(bench, run, **fields):
    """What the tool left in a.txt."""
    done = await bench.do(run, **fields)
    assert done.ok, done.message
    return bench.content(run, done.snapshot, "a.txt")


def other_worktree(bench):
    return bench.root / "worktrees" / "other"


# What is there


async def test_nothing_of_the_executor_s_is_there_but_the_attempt_s_own(boxed, tmp_path):
    """Not its state, not its credentials, not the mirror's refs, no other worktree, no key of the machine."""
    password = tmp_path / "bus-password"
    password.write_text("hidden-canary")
    (tmp_path / "journal").mkdir()
    other_worktree(boxed).mkdir(parents=True)
    (other_worktree(boxed) / "theirs.txt").write_text("hidden-canary")
    (boxed.root / "executor-id").write_text("hidden-canary")
    look = """
        import os, pathlib, sys
        said = []
        for top, folders, files in os.walk("/", followlinks=False):
            if top in ("/proc", "/usr", "/sys") or top.startswith(sys.base_prefix) or top.startswith(sys.prefix):
                folders.clear()
                continue
            for name in files:
                said.append(os.path.join(top, name))
        pathlib.Path("a.txt").write_text("\\n".join(said))
    """
    run = Run(tmp_path, {"tool": python(look)})
    there = (await found(boxed, run)).splitlines()
    mirror = next(boxed.root.glob("mirrors/*.git"))
    for secret in (password, boxed.root / "executor-id", other_worktree(boxed) / "theirs.txt", mirror / "HEAD",
                   mirror / "config", run.repo / "a.txt", "/etc/shadow", "/root/.bashrc"):  # fmt: skip
        assert str(secret) not in there
    assert not [path for path in there if path.startswith(f"{mirror}/") or "/refs/swell" in path]
    state = [path for path in there if path.startswith(f"{boxed.root}/")]
    assert {path.removeprefix(f"{boxed.root}/").split("/")[0] for path in state} <= {"worktrees", "scratch"}


async def test_a_canary_is_found_by_no_reading_of_anything(boxed, tmp_path):
    """The same from the other side: a search through every file that can be opened."""
    (tmp_path / "password").write_text("canary-" + "x" * 20)
    (boxed.root / "secret").write_text("canary-" + "x" * 20)
    words = "'canary-x''xxx'"
    script = f"grep -rlsF {words} /tmp /run /etc /var /home /srv /mnt > a.txt; echo end >> a.txt"
    assert await found(boxed, Run(tmp_path, {"tool": inside(script)})) == "end"


@pytest.mark.parametrize(
    "target",
    ["/usr/stray", "/etc/stray", "/stray", "/dev/stray", "/run/swell/objects/stray", "/opt/stray"],
)
async def test_a_write_outside_the_worktree_is_refused(boxed, tmp_path, target):
    path = target
    script = (
        f"(mkdir -p $(dirname {path}) && echo x > {path}) 2>/dev/null && echo written > a.txt || echo refused > a.txt"
    )
    assert await found(boxed, Run(tmp_path, {"tool": inside(script)})) == "refused"
    assert not Path(path).exists()  # noqa: ASYNC240 - the loop has nothing else to do


@pytest.mark.parametrize("setting", ["kernel/core_pattern", "vm/overcommit_memory"])
async def test_settings_of_the_machine_cannot_be_written(boxed, tmp_path, setting):
    """Root without any capability could: a core pattern is a command that the kernel runs as root."""
    script = f"cat /proc/sys/{setting} > v; (cat v > /proc/sys/{setting}) 2>/dev/null && echo written > a.txt || echo refused > a.txt; rm v"
    assert await found(boxed, Run(tmp_path, {"tool": inside(script)})) == "refused"


async def test_home_scratch_and_temporary_folder_are_its_own_and_writable(boxed, tmp_path):
    script = 'set -e; touch "$HOME/x" "$TMPDIR/x" /tmp/y /var/tmp/z "$1/x" "$SWELL_CACHE_DIR/x" /dev/shm/x; ls /tmp > a.txt; id -u >> a.txt'
    run = Run(tmp_path, {"tool": inside(script, "{scratch}")})
    assert {"x", "y", "z", str(os.getuid())} <= set((await found(boxed, run)).split())


async def test_the_environment_is_as_it_is_outside(boxed, tmp_path):
    show = {"env": {"SPECIAL": "{run}"}}
    listing = "env | grep -v '^PWD=\\|^_=\\|^SHLVL=\\|^OLDPWD=\\|SWELL_ATTEMPT\\|TRACEPARENT\\|_CACHE_\\|_cache=\\|^HOME=\\|^TMPDIR=' | sort > a.txt"
    run = Run(tmp_path, {"tool": inside(listing, **show), "plain": sh(listing, **show)})
    assert await found(boxed, run) == await found(boxed, run, tool="plain")


async def test_only_its_own_processes_are_there_and_none_of_them_has_capabilities(boxed, tmp_path):
    script = "cat /proc/[0-9]*/comm > a.txt; grep CapEff /proc/self/status >> a.txt"
    said = (await found(boxed, Run(tmp_path, {"tool": inside(script)}))).split()
    assert set(said[:-2]) <= {"bwrap", "cat", "sh"}
    assert int(said[-1], 16) == 0


async def test_programs_in_a_home_folder_are_brought_along_with_what_they_need(boxed, tmp_path):
    """An npm prefix and a Python environment, which a PATH or a link names."""
    modules = tmp_path / "home" / ".local" / "lib" / "node_modules" / "tool" / "bin"
    modules.mkdir(parents=True)
    (modules / "helper").write_text("echo helped > a.txt\n")
    (modules / "tool.js").write_text(f'#!/bin/sh\n. "{modules}/helper"\n')
    (modules / "tool.js").chmod(0o755)
    bin_folder = tmp_path / "home" / ".local" / "bin"
    bin_folder.mkdir()
    (bin_folder / "tool").symlink_to(modules / "tool.js")
    (tmp_path / "home" / ".local" / "key").write_text("a")
    run = Run(tmp_path, {"tool": ToolProfile(command=str(bin_folder / "tool"), sandbox="bwrap")})
    assert await found(boxed, run) == "helped"
    venv = ToolProfile(
        command=sys.executable, args=("-c", "import msgspec; open('a.txt', 'w').write('imported')"), sandbox="bwrap"
    )
    assert await found(boxed, Run(tmp_path, {"tool": venv})) == "imported"


async def test_a_program_that_is_not_there_is_missing_inside_as_outside(bench, tmp_path):
    run = Run(tmp_path, {"tool": ToolProfile(command="no-such-program", type="ai", sandbox="auto")})
    done = await bench.do(run)
    assert (done.error_class, "no-such-program is in no folder" in done.message) == ("tool_missing", True)


async def test_what_a_profile_names_is_readable_and_what_is_hidden_stays_so(boxed, tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "model.json").write_text("known")
    (folder / "password").write_text("hidden-canary")
    boxed.steps.config = msgspec.structs.replace(boxed.steps.config, hidden=(folder / "password",))
    script = 'cat "$1/model.json" > a.txt; cat "$1/password" >> a.txt; touch "$1/x" 2>/dev/null && echo written >> a.txt; true'
    run = Run(tmp_path, {"tool": inside(script, str(folder), sandbox_read=(str(folder),))})
    assert await found(boxed, run) == "known"
    assert (folder / "password").read_text() == "hidden-canary"


async def test_a_file_that_an_allowed_variable_names_is_readable(boxed, tmp_path, monkeypatch):
    file = tmp_path / "metadata.json"
    file.write_text("prices")
    monkeypatch.setenv("METADATA_FILE", str(file))
    run = Run(tmp_path, {"tool": inside('cat "$METADATA_FILE" > a.txt', env_allow=("METADATA_FILE",))})
    assert await found(boxed, run) == "prices"


async def test_a_folder_that_an_allowed_variable_names_is_not_shown_be_it_a_home(boxed, tmp_path, monkeypatch):
    home = tmp_path / "home" / "me"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id").write_text("hidden-canary")
    names = ("HOME", "TMPDIR", "PWD", "OLDPWD")
    for name in names:
        monkeypatch.setenv(name, str(home))
    run = Run(tmp_path, {"tool": inside(f"cat {home}/.ssh/id > a.txt; true", env_allow=names)})
    assert await found(boxed, run) == ""


def test_a_project_that_is_a_python_environment_itself_is_not_shown_as_a_whole(tmp_path):
    for folder in ("bin", "lib", ".git"):
        (tmp_path / "project" / folder).mkdir(parents=True)
    for name in ("pyvenv.cfg", ".env", "bin/agent"):
        (tmp_path / "project" / name).write_text("#!/bin/sh\n")
    (tmp_path / "project" / "bin" / "agent").chmod(0o755)
    needed = needs_of([tmp_path / "project" / "bin" / "agent"], "").paths
    shown = {str(path.relative_to(tmp_path)) for path in needed if path.is_relative_to(tmp_path)}
    assert shown == {f"project/{name}" for name in ("bin", "bin/agent", "lib", "pyvenv.cfg")}


def test_a_home_folder_is_never_shown_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = f"{tmp_path}/bin:{tmp_path}/.cargo/bin:/home/somebody/bin:/opt/tool/bin:relative:/srv/tools"
    assert [str(path) for path in needs_of_path(given)] == [
        f"{tmp_path}/bin", f"{tmp_path}/.cargo/bin", "/home/somebody/bin", "/opt/tool/bin", "/srv/tools",
    ]  # fmt: skip
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "x").touch()
    assert tmp_path not in needs_of([tmp_path / "bin" / "x"], "").paths


def test_what_is_hidden_is_hidden_by_every_name(tmp_path):
    real, alias = tmp_path / "real", tmp_path / "alias"
    (real / "state").mkdir(parents=True)
    (real / "password").touch()
    alias.symlink_to(real)
    words, sealed = _hidden([alias, real], [alias / "state", real / "password", tmp_path / "nothing"])
    assert words == [
        "--tmpfs", f"{alias}/state", "--tmpfs", f"{real}/state",
        "--ro-bind", "/dev/null", f"{alias}/password", "--ro-bind", "/dev/null", f"{real}/password",
    ]  # fmt: skip
    assert sealed == [alias / "state", real / "state"]
    whole = ["--tmpfs", f"{real}/state"]
    (real / "state" / "executor").mkdir()
    assert _hidden([real], [real / "state" / "executor", real / "state"])[0] == whole


async def test_the_state_of_a_whole_cluster_is_hidden_even_in_a_visible_folder(boxed, tmp_path):
    """The executor's own folder lies in it, and the attempt's own in that."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text("hidden-canary")
    boxed.steps.config = msgspec.structs.replace(
        boxed.steps.config, hidden=(tmp_path, tmp_path / "secrets" / "token"), sandbox_read=(tmp_path.parent,)
    )
    script = f"(cat {tmp_path}/secrets/token; ls {tmp_path}; ls {tmp_path}/secrets) > a.txt 2>/dev/null; true"
    run = Run(tmp_path, {"tool": inside(script), "given": inside(script, sandbox_read=(f"{tmp_path}/secrets",))})
    assert await found(boxed, run) == "state"
    assert await found(boxed, run, tool="given") == "state"


def test_an_embedded_cluster_hides_its_whole_state_from_tools(tmp_path):
    (tmp_path / "config").mkdir()
    Parts(tmp_path, Ports()).write("executor")
    config = load(ExecutorConfig, tmp_path / "config" / "executor.toml", {}, PREFIX)
    assert tmp_path in hidden_of(config)
    assert (tmp_path / "secrets" / "bus_executor") in hidden_of(config)


async def test_arguments_may_be_others_inside(boxed, tmp_path):
    args = {"args_in_sandbox": {"own": "none", "deep": "flat"}}
    script = ToolProfile(
        command="sh", args=("-c", 'echo "$@" > a.txt', "t", "own", ("deep", "{run}")), sandbox="bwrap", **args
    )
    run = Run(tmp_path, {"tool": script, "plain": msgspec.structs.replace(script, sandbox="none")})
    assert await found(boxed, run) == f"none flat {run.id}"
    assert await found(boxed, run, tool="plain") == f"own deep {run.id}"


# Git


async def test_git_works_inside_and_changes_nothing_of_the_mirror_s(boxed, tmp_path):
    """Status, diff, log, commit, branch, tag, stash, config: none reaches the refs or the configuration of the mirror."""
    script = """set -e
        git log --format=%s > log.txt; git status --porcelain > status.txt
        echo more >> a.txt; git diff --stat >> status.txt
        git checkout -q -b mine; git commit -qam mine; git tag t; git config core.pager evil
        echo s >> b.txt; git stash -q; git stash pop -q
        git update-ref refs/swell/base/x HEAD; git gc -q --prune=now
        git fsck --no-dangling 2>&1 | grep -v ^notice >> status.txt || true
    """
    run = Run(tmp_path, {"tool": inside(script)}, files_scope=("*",))
    done = await boxed.do(run)
    assert done.ok, done.message
    assert boxed.content(run, done.snapshot, "log.txt") == "first"
    assert boxed.content(run, done.snapshot, "a.txt") == "a\nmore"
    assert "a.txt | 1 +" in boxed.content(run, done.snapshot, "status.txt")
    (mirror,) = boxed.root.glob("mirrors/*.git")
    refs = git(mirror, "for-each-ref", "--format=%(refname)").split()
    assert refs == [f"refs/swell/attempts/{run.id}/ws-a/1", f"refs/swell/base/{run.id}"]
    assert "evil" not in (mirror / "config").read_text()
    assert git(mirror, "fsck", "--no-dangling") == ""
    assert (await boxed.do(run)).ok, "the worktree can be used again"


@pytest.mark.parametrize("spoil", ["rm -rf .git", "rm -f .git; mkdir .git", "rm -f .git; ln -s /etc .git"])
async def test_a_spoilt_link_to_the_repository_is_put_right(boxed, tmp_path, spoil):
    """The repository's setup runs before, outside of the sandbox."""
    run = Run(tmp_path, {"tool": inside("git rev-parse HEAD > a.txt")})
    setup = msgspec.structs.replace(run.spec.checks, setup=(("sh", "-c", spoil),))
    run.spec = msgspec.structs.replace(run.spec, checks=setup)
    assert await found(boxed, run) == run.base.commit


# Network


NETWORK = """
    import pathlib, socket
    server = None
    said = []
    try:
        server = socket.socket()
        server.bind(("127.0.0.1", 0))
        server.listen()
        socket.create_connection(server.getsockname(), 2)
        said.append("itself")
    except OSError:
        pass
    try:
        socket.create_connection(("127.0.0.1", int({port})), 2)
        said.append("machine")
    except OSError:
        pass
    pathlib.Path("a.txt").write_text(" ".join(said) or "nothing")
"""


@pytest.mark.parametrize(
    ("network", "reached"),
    [
        ("all", "itself machine"),
        ("loopback", "itself"),
        ("none", "nothing"),
        (True, "itself machine"),
        (False, "nothing"),
    ],
)
async def test_the_network_reaches_as_far_as_the_profile_says(boxed, tmp_path, network, reached):
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        tool = python(NETWORK.replace("{port}", str(port)), network=network)
        if reached == "nothing" and boxed.steps.supervisor.mode != "pidns":
            reached = "itself"
        assert await found(boxed, Run(tmp_path, {"tool": tool})) == reached


# Limits and ends


@pytest.mark.parametrize("sandbox", ["bwrap", "none"])
async def test_a_tool_that_multiplies_is_ended_and_nothing_is_left(bench, tmp_path, sandbox):
    if sandbox == "bwrap" and bench.steps.bubblewrap.reason:
        pytest.skip(bench.steps.bubblewrap.reason)
    bomb = "echo new >> a.txt; for i in $(seq 400); do sleep 60 & done; sleep 60"
    run = Run(tmp_path, {"tool": sh(bomb, sandbox=sandbox, processes=40)})
    done = await bench.do(run)
    if os.getuid() == 0:
        assert (done.error_class, done.ok) == ("tool_failed", False)
        assert "more than 40 processes" in done.message
        assert "raise processes" in done.message
    assert processes(f"SWELL_ATTEMPT={run.id}/") == {}


@pytest.mark.parametrize("sandbox", ["bwrap", "none"])
async def test_a_few_processes_are_no_bomb(bench, tmp_path, sandbox):
    if sandbox == "bwrap" and bench.steps.bubblewrap.reason:
        pytest.skip(bench.steps.bubblewrap.reason)
    if os.getuid() != 0:
        pytest.skip("the kernel counts all processes of this user")
    run = Run(tmp_path, {"tool": sh(f"sleep 0.4 & sleep 0.4 & {APPEND}; wait", sandbox=sandbox, processes=3)})
    assert (await bench.do(run)).ok


async def test_a_memory_hog_is_refused_its_memory(boxed, tmp_path):
    hog = """
        import pathlib
        try:
            bytearray(500_000_000)
        except MemoryError:
            pathlib.Path("a.txt").write_text("refused")
    """
    assert await found(boxed, Run(tmp_path, {"tool": python(hog, memory_bytes=200_000_000)})) == "refused"


async def test_shared_memory_is_bounded(boxed, tmp_path):
    script = "head -c 100000000 /dev/zero > /dev/shm/x 2>/dev/null; wc -c < /dev/shm/x > a.txt; true"
    assert int(await found(boxed, Run(tmp_path, {"tool": inside(script)}))) == 64 * 1024 * 1024


@pytest.mark.parametrize("containment", ["pidns", "sweep"])
async def test_a_cancelled_tool_has_its_grace_and_leaves_nothing(boxed, tmp_path, containment):
    """SIGTERM reaches the tool and not the sandbox around it; what ignores it dies with the sandbox."""
    supervisor = Supervisor(containment)
    await supervisor.start()
    try:
        own = Bench(tmp_path, supervisor, boxed.artifacts, boxed.steps.bus, root=tmp_path / "own")
        await own.steps.prepare()
        script = "trap 'echo graceful >> a.txt; exit 0' TERM; (trap '' TERM; setsid sleep 61) & (setsid sleep 62 &); touch \"$1/ready\"; while :; do sleep 0.05; done"
        run = Run(tmp_path, {"tool": inside(script, "{scratch}")})
        command = await run.command(own.artifacts)
        task = asyncio.create_task(own.steps.run(command))
        await until(lambda: list(own.root.glob("scratch/*/ready")))
        task.cancel()
        await asyncio.wait({task})
        left = own.steps.stopped((run.id, "ws-a", 1))
        assert own.content(run, left.kept.snapshot, "a.txt") == "a\ngraceful"
        assert left.processes >= 1
        assert processes(f"SWELL_ATTEMPT={run.id}/") == {}
    finally:
        await supervisor.close()


@pytest.mark.parametrize("containment", ["pidns", "sweep"])
async def test_exit_codes_signals_and_silence_are_seen_through_the_sandbox(boxed, tmp_path, containment):
    supervisor = Supervisor(containment)
    await supervisor.start()
    try:
        own = Bench(tmp_path, supervisor, boxed.artifacts, boxed.steps.bus, root=tmp_path / "own")
        await own.steps.prepare()
        run = Run(tmp_path, {"tool": inside("exit 41"), "dead": inside("kill -9 $$"), "idle": inside("sleep 60")})
        assert (await own.do(run)).exit_code == 41
        assert (await own.do(run, tool="dead")).exit_code == 137
        assert (await own.do(run, tool="idle", idle_timeout_s=0.4)).error_class == "idle_timeout"
        busy = Run(tmp_path, {"tool": inside(f"{APPEND}; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")})
        assert (await own.do(busy, idle_timeout_s=0.4, timeout_s=60)).ok
    finally:
        await supervisor.close()


# Where there is none


async def test_without_one_auto_goes_on_and_says_so_and_bwrap_does_not(bench, tmp_path):
    bench.steps.bubblewrap = Bubblewrap(reason="bubblewrap is not installed: install it")
    run = Run(
        tmp_path,
        {"tool": sh(APPEND, type="ai", sandbox="auto"), "must": sh(APPEND, sandbox="bwrap"), "plain": sh(APPEND)},
    )
    done = await bench.do(run)
    assert (done.ok, done.message) == (True, "it ran without a sandbox: bubblewrap is not installed: install it")
    refused = await bench.do(run, tool="must")
    assert (refused.error_class, refused.message) == ("tool_missing", "bubblewrap is not installed: install it")
    assert (await bench.do(run, tool="plain")).message == ""


async def test_a_checker_has_a_sandbox_as_well(boxed, tmp_path):
    check = sh("test -e /etc/shadow && exit 1; git status --porcelain", sandbox="bwrap")
    run = Run(tmp_path, {"tool": sh(APPEND), "check": check})
    assert (await boxed.do(run, "static", every_check=True)).ok


async def test_it_is_looked_for_by_running_it(supervisor, tmp_path, monkeypatch):
    """A program of that name that does not work is as good as none."""
    from services.executor.sandbox import look

    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'setting up uid map: Operation not permitted' >&2; exit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    had = await look(supervisor, tmp_path)
    assert "Operation not permitted" in had.reason
    assert "user namespaces" in had.reason
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert "not installed" in (await look(supervisor, tmp_path)).reason


def test_nothing_is_exposed_by_default():
    assert (Exposure().readable, Exposure().hidden) == ((), ())
