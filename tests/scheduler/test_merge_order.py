"""Whatever order work arrives in, the line is what `git merge` makes of it in plan order, and conflicts where git does."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scheduler_harness import Play, broken, bundle, spec

from services.events import IntegrationAdvanced, MergeRefused, Snapshot, StepFinished
from services.executor.merge import Conflict, commit_on, three_tree
from services.executor.mirror import Mirror

TIME_NS = 1_700_000_000_000_000_000
PATHS = ["a.txt", "b.txt", "deep/c.txt", "deep/er/d.txt"]
PERSON = {
    "PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
    **{f"GIT_{role}_{field}": value for role in ("AUTHOR", "COMMITTER") for field, value in (("NAME", "P"), ("EMAIL", "p@i"))},
}  # fmt: skip

Tree = dict[str, tuple[str, bytes]]
"""Mode and content by path."""

lines = st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=3)
files = st.lists(st.sampled_from(["one", "two", "three", "four", "five", "six"]), max_size=12)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    return {path: ("100644", _text(draw(files))) for path in draw(st.sets(st.sampled_from(PATHS), min_size=2))}


@st.composite
def edited(draw: st.DrawFn, base: Tree, number: int) -> Tree:
    """A few edits, anywhere: lines changed, put in or taken out, files added, deleted, made executable or binary."""
    tree = dict(base)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([*PATHS, f"new-{number}.txt", "new.txt"]))
        mode, content = tree.get(path, ("100644", b""))
        if mode == "120000":  # what a link names is no text
            mode, content = "100644", b""
        there = content.splitlines(keepends=True)
        at = draw(st.integers(0, len(there)))
        match draw(st.sampled_from(["change", "insert", "take out", "delete", "mode", "binary", "link"])):
            case "change" if there:
                there[min(at, len(there) - 1)] = _text(draw(lines))
                tree[path] = (mode, b"".join(there))
            case "insert":
                tree[path] = (mode, b"".join([*there[:at], _text(draw(lines)), *there[at:]]))
            case "take out" if there:
                tree[path] = (mode, b"".join(there[:at] + there[at + 1 :]))
            case "delete":
                tree.pop(path, None)
            case "mode":
                tree[path] = ("100755", content)
            case "binary":
                tree[path] = (mode, bytes([0, number, draw(st.integers(0, 3))]))
            case "link":
                tree[path] = ("120000", b"target-%d" % number)
    return tree


def _text(words: list[str]) -> bytes:
    return "".join(f"{word}\n" for word in words).encode()


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tree, list[Tree], int]:
    base = draw(trees())
    count = draw(st.integers(2, 5))
    return base, [draw(edited(base, number)) for number in range(count)], draw(st.integers(0, 2**16))


def fast_import(base: Tree, sides: list[Tree]) -> bytes:
    """All commits in one stream: the base as :1, each side on top of it."""
    said = []
    for number, tree in enumerate([base, *sides], 1):
        said.append(b"commit refs/test/%d\nmark :%d\ncommitter P <p@i> 1 +0000\ndata 1\nx\n" % (number, number))
        if number > 1:
            said.append(b"from :1\n")
        said.append(b"deleteall\n")
        for path, (mode, content) in tree.items():
            said.append(b"M %s inline %s\ndata %d\n%s\n" % (mode.encode(), path.encode(), len(content), content))
    return b"".join(said)


class GitPlay(Play):
    """A run whose EDITs lead to given commits, and whose merges are real."""

    def __init__(self, mirror: Mirror, runner: asyncio.Runner, base: str, sides: dict[str, str]) -> None:
        definition = spec(
            [bundle(name) for name in sides],
            waves=[sorted(sides)],
            recovery={"retries": 0, "conflicts": 0},
            max_workers=len(sides),
        )
        repository = msgspec.structs.replace(definition.repository, base_commit=base)
        self.mirror, self.runner, self.sides = mirror, runner, sides
        super().__init__(msgspec.structs.replace(definition, repository=repository))

    def success(self, scheduled):
        if scheduled.step == "edit":
            commit = self.sides[scheduled.workstream]
            tree = self.runner.run(self.mirror.tree(commit))
            return StepFinished(ok=True, changed=True, snapshot=Snapshot(commit=commit, tree=tree))
        if scheduled.step == "merge":
            return self.runner.run(self.merged(scheduled))
        return super().success(scheduled)

    async def merged(self, scheduled):
        base, head, theirs = scheduled.base.commit, scheduled.input.commit, scheduled.theirs.commit
        found = await three_tree(self.mirror, base=base, ours=head, theirs=theirs)
        if isinstance(found, Conflict):
            return broken("merge_conflict", conflicts=list(found.files))
        commit = await commit_on(
            self.mirror, tree=found.tree, parent=head, subject="x", run="r1", workstream=scheduled.on_behalf,
            attempt=scheduled.attempt, time_ns=TIME_NS,
        )  # fmt: skip
        return StepFinished(ok=True, changed=True, snapshot=Snapshot(commit=commit, tree=found.tree))


def person(folder: Path, *args: str) -> tuple[int, str]:
    done = subprocess.run(["git", *args], cwd=folder, env=PERSON, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mirror, asyncio.Runner, Path]]:
    """A mirror that commits are imported into, and a checkout of it for `git merge`."""
    folder = tmp_path_factory.mktemp("order")
    user = folder / "user"
    user.mkdir()
    person(user, "init", "--quiet", "--initial-branch=main")
    person(user, "commit", "--quiet", "--allow-empty", "-m", "x")
    with asyncio.Runner() as runner:
        mirror = Mirror(folder / "mirrors", str(user))
        runner.run(mirror.ensure(person(user, "rev-parse", "HEAD")[1], run="r1"))
        (user / ".git" / "objects" / "info" / "alternates").write_text(f"{mirror.folder}/objects\n")
        yield mirror, runner, user


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cases())
def test_the_line_is_what_git_merge_makes_in_plan_order(place, case):
    mirror, runner, user = place
    base_tree, sides, seed = case
    runner.run(mirror.git("fast-import", "--quiet", "--force", stdin=fast_import(base_tree, sides)))
    names = runner.run(mirror.git("for-each-ref", "--format=%(objectname)", "refs/test/", "--sort=refname")).decode()
    base, *commits = names.split()[: len(sides) + 1]
    work = {f"ws-{number}": commit for number, commit in enumerate(commits)}

    play = GitPlay(mirror, runner, base, work)
    play.play(Random(seed).choice)

    person(user, "checkout", "--quiet", "--force", "--detach", base)
    refused = []
    for name, commit in sorted(work.items()):
        code, _ = person(
            user, "-c", "merge.renames=false", "merge", "--quiet", "--no-edit", "--no-ff", "-m", name, commit
        )
        if code:
            refused.append(name)
            person(user, "reset", "--quiet", "--hard")
            person(user, "clean", "-fdxq")
    assert [event.workstream for event in play.of(MergeRefused)] == refused
    merged = [event.workstream for event in play.of(IntegrationAdvanced)]
    assert merged == sorted(merged), "in plan order"
    assert runner.run(mirror.tree(play.state.line.head.commit)) == person(user, "rev-parse", "HEAD^{tree}")[1]
