"""Workspaces of large repositories: how long until a tool can begin, beside what git needs for the same.

By default 5,000 files and a few commits. SWELL_BENCH_FILES and SWELL_BENCH_HISTORY_MB make it larger: 50000 and 1000 are
the repository that Swell is to work with, and take a few minutes and 5 GB of the disk.
"""

import asyncio
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from services.executor.merge import Merged, commit_on, three_tree
from services.executor.mirror import Mirror, attempt_ref
from services.executor.repositories import bytes_in
from services.executor.snapshot import take
from services.executor.workspace import WorkspacePool
from services.git import _inherited

FILES = int(os.environ.get("SWELL_BENCH_FILES", "5000"))
HISTORY_MB = int(os.environ.get("SWELL_BENCH_HISTORY_MB", "50"))
COMMIT_MB = 10
MB = 1024 * 1024
_HEAD = b"commit refs/heads/main\n"
SAMPLES = 5
MERGES = 50
TIME_NS = 1_790_000_000 * 10**9


def git(folder: Path, *arguments: str) -> str:
    """Git as a person would call it."""
    identity = {f"GIT_{role}_{field}": "bench" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_GLOBAL": "/dev/null", **identity}
    done = subprocess.run(("git", *arguments), cwd=folder, env=environment, capture_output=True, check=True)
    return done.stdout.decode().strip()


def generated(folder: Path) -> list[str]:
    """A repository with FILES files in 200 folders, and HISTORY_MB of content that no file has any more; its commits."""
    folder.mkdir()
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main")
    with subprocess.Popen(("git", "fast-import", "--quiet"), cwd=folder, stdin=subprocess.PIPE) as importing:
        assert importing.stdin is not None
        for part in _stream():
            importing.stdin.write(part)
    if importing.returncode:
        raise RuntimeError("git could not make the repository")
    git(folder, "config", "uploadpack.allowFilter", "true")
    return git(folder, "rev-list", "-2", "main").split()


def _stream() -> Iterator[bytes]:
    """What git fast-import makes the repository of."""
    draw = random.Random(1)
    for number in range(HISTORY_MB // COMMIT_MB):
        yield _HEAD + _who(number) + b"M 100644 inline big.bin\n" + b"data %d\n" % (COMMIT_MB * MB)
        yield draw.randbytes(COMMIT_MB * MB) + b"\n"
    yield _HEAD + _who(10_000) + (b"D big.bin\n" if HISTORY_MB >= COMMIT_MB else b"")
    for number in range(FILES):
        text = f"VALUE_{number} = {number}\n".encode() * 20
        yield b"M 100644 inline src/p%d/s%d/m%d.py\ndata %d\n" % (number % 20, number % 200, number, len(text))
        yield text + b"\n"
    yield _HEAD + _who(10_001) + b"M 100644 inline src/p0/s0/m0.py\ndata 2\nx\n\n"


def _who(moment: int) -> bytes:
    return b"committer bench <bench@invalid> %d +0000\ndata 2\nx\n" % moment


def _ms(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3


async def _waited_ms(call: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await call()
    return (time.perf_counter() - started) * 1e3


async def _handed_out(pool: WorkspacePool, commit: str) -> None:
    async with pool.at(commit):
        pass


async def _measured(root: Path) -> list[dict[str, Any]]:
    source = root / "source.git"
    second, first = generated(source)
    size = f"{FILES:,} files"
    # Git alone: a checkout of a worktree, and going to and fro between two commits that differ in one file.
    plain = root / "plain"
    git(root, "clone", "--quiet", "--bare", str(source), str(plain))
    checkout_ms = _ms(lambda: git(plain, "worktree", "add", "--quiet", "--detach", str(root / "tree"), first))
    switches = [_ms(lambda to=to: git(root / "tree", "checkout", "--quiet", to)) for to in [second, first] * SAMPLES]
    mirror = Mirror(root / "mirrors", str(source))
    copied_ms = await _waited_ms(lambda: mirror.ensure(second, run="bench"))
    cloned_ms = _ms(lambda: git(root, "clone", "--quiet", "--bare", str(source), str(root / "again")))
    strays = [0]
    pool = WorkspacePool(mirror, root / "pool", 1, strays=lambda: strays[0])
    cold_ms = await _waited_ms(lambda: _handed_out(pool, first))
    moved = [await _waited_ms(lambda to=to: _handed_out(pool, to)) for to in [second, first] * SAMPLES]
    strange = []
    for to in [second, first] * SAMPLES:
        strays[0] += 1
        strange.append(await _waited_ms(lambda to=to: _handed_out(pool, to)))
    warm = [await _waited_ms(lambda: _handed_out(pool, first)) for _ in range(10 * SAMPLES)]
    async with pool.at(first) as workspace:
        proven = [_ms(workspace.changed) for _ in range(2 * SAMPLES)]
    looked = []
    for _ in range(2 * SAMPLES):
        strays[0] += 1
        looked.append(await _waited_ms(lambda: _handed_out(pool, first)))
    status = [_ms(lambda: git(root / "tree", "status", "--porcelain")) for _ in range(SAMPLES)]
    asked_ms = _p50(status)
    rows = [
        _row(f"mirror of a local repository, {size}, {HISTORY_MB} MB of history", copied_ms, "ms", cloned_ms),
        _row(f"worktree made, {size}", cold_ms, "ms", checkout_ms),
        _row(f"worktree brought to another commit, {size}, p50", _p50(moved), "ms", _p50(switches)),
        _row(f"the same after a tool without a sandbox, {size}, p50", _p50(strange), "ms", _p50(switches)),
        _row(f"warm worktree, {size}, p50", _p50(warm), "ms", 10.0),
        _row(f"warm worktree after a tool without a sandbox, {size}, p50", _p50(looked), "ms", asked_ms),
        _row(f"proof that a tool changed nothing, {size}, p50", _p50(proven), "ms", asked_ms),
    ]
    rows += await _merged(mirror, pool, first, size)
    return rows + await _partial(root, source, second)


async def _merged(mirror: Mirror, pool: WorkspacePool, base: str, size: str) -> list[dict[str, Any]]:
    """Fifty workstreams, each with a file of its own, onto one line that grows: the merge, its commit, and its bundle."""
    made = []
    for number in range(MERGES):
        async with pool.at(base) as workspace:
            (workspace.path / f"new{number}").write_text("new\n")
            taken = await take(workspace, parent=base, message="edit\n", time_ns=TIME_NS)
        made.append(taken.commit)
    spent: dict[str, list[float]] = {"merge": [], "commit": [], "bundle": []}
    head = base
    for number, theirs in enumerate(made, 1):
        started = time.perf_counter()
        merged = await three_tree(mirror, base=base, ours=head, theirs=theirs)
        assert isinstance(merged, Merged)
        spent["merge"].append((time.perf_counter() - started) * 1e3)
        started = time.perf_counter()
        head = await commit_on(
            mirror, tree=merged.tree, parent=head, subject="bench", run="bench", workstream=f"ws-{number}",
            attempt=number, time_ns=TIME_NS,
        )  # fmt: skip
        spent["commit"].append((time.perf_counter() - started) * 1e3)
        started = time.perf_counter()
        ref = attempt_ref("bench", "_line", number)
        await mirror.export_bundle(base, head, ref, mirror.folder.parent / "bench.bundle")
        spent["bundle"].append((time.perf_counter() - started) * 1e3)
    rows = [
        _row(f"{part} of one workstream of {MERGES}, {size}, mean", statistics.mean(times), "ms", 25.0)
        for part, times in spent.items()
    ]
    total = sum(sum(times) for times in spent.values())
    return [*rows, _row(f"all of {MERGES} workstreams onto the line, {size}", total, "ms", MERGES * 25.0)]


async def _partial(root: Path, source: Path, commit: str) -> list[dict[str, Any]]:
    """By a server: without the content of old files, beside all of it."""
    ssh = root / "ssh"
    ssh.write_text('#!/bin/sh\n[ "$1" = -G ] && exit 1\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    os.environ["GIT_SSH_COMMAND"] = str(ssh)
    _inherited.cache_clear()  # what git inherits is read once a process otherwise
    found = {}
    for partial in (True, False):
        mirror = Mirror(root / f"partial-{partial}", f"git@host:{source}", partial=partial)
        spent_s = await _waited_ms(lambda mirror=mirror: mirror.ensure(commit, run="bench")) / 1e3
        found[partial] = spent_s, bytes_in(mirror.folder) / 1e6
    return [
        _row("mirror by a server, partial clone", found[True][0], "s", found[False][0]),
        _row("its size, beside a whole one", found[True][1], "MB", found[False][1]),
    ]


def measure() -> list[dict[str, Any]]:
    """The rows of this benchmark."""
    root = Path(tempfile.mkdtemp(prefix="swell-bench-"))
    try:
        return asyncio.run(_measured(root))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _p50(values: list[float]) -> float:
    return statistics.median(values)


def _row(name: str, value: float, unit: str, baseline: float) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": value / baseline}
