"""Merging three trees, and whose work a conflict met."""

from pathlib import Path

import pytest

from services.executor.merge import (
    Conflict,
    Merged,
    MergeUnavailableError,
    blame_workstreams,
    commit_on,
    three_tree,
)
from services.executor.mirror import Mirror
from services.executor.snapshot import changes, take
from services.executor.workspace import WorkspacePool

TIME_NS = 1_700_000_000_000_000_000


class Line:
    """A run's integration line, advanced the way merge steps do it."""

    def __init__(self, mirror: Mirror, pool: WorkspacePool, base: str) -> None:
        self.mirror, self.pool, self.base, self.head = mirror, pool, base, base
        self.attempt = 0

    async def work(self, files: dict[str, bytes | str | None], base: str | None = None) -> str:
        """A workstream's snapshot on top of `base`."""
        async with self.pool.at(base or self.base) as workspace:
            for name, content in files.items():
                path = workspace.path / name
                if content is None:
                    path.unlink()
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.encode() if isinstance(content, str) else content)
            return (await take(workspace, parent=workspace.commit, message="work", time_ns=TIME_NS)).commit

    async def merge(self, theirs: str, base: str | None = None) -> Merged | Conflict:
        return await three_tree(self.mirror, base=base or self.base, ours=self.head, theirs=theirs)

    async def advance(self, workstream: str, theirs: str, base: str | None = None) -> None:
        outcome = await self.merge(theirs, base)
        assert isinstance(outcome, Merged)
        self.attempt += 1
        self.head = await commit_on(
            self.mirror, tree=outcome.tree, parent=self.head, subject=f"merge {workstream}", run="r1",
            workstream=workstream, attempt=self.attempt, time_ns=TIME_NS,
        )  # fmt: skip

    async def files(self) -> dict[str, str]:
        return {c.path: c.status for c in await changes(self.mirror.git, self.base, self.head)}

    async def read(self, path: str) -> bytes:
        return await self.mirror.git("cat-file", "blob", f"{self.head}:{path}")


@pytest.fixture
def line(mirror: Mirror, pool: WorkspacePool, base: str) -> Line:
    return Line(mirror, pool, base)


async def test_independent_work_is_united(line: Line):
    one = await line.work({"README.md": "# two\n", "new/one.py": "1\n"})
    two = await line.work({"src/b.py": None, "bin/blob": b"\0new", "new/two.py": "2\n"})
    await line.advance("ws-one", one)
    await line.advance("ws-two", two)
    assert await line.files() == {
        "README.md": "M", "new/one.py": "A", "src/b.py": "D", "bin/blob": "M", "new/two.py": "A",
    }  # fmt: skip


async def test_edits_of_one_file_far_apart_are_united(line: Line):
    await line.advance("ws-one", await line.work({"src/a.py": "a = 9\nb = 2\nc = 3\nd = 4\ne = 5\n"}))
    await line.advance("ws-two", await line.work({"src/a.py": "a = 1\nb = 2\nc = 3\nd = 4\ne = 9\n"}))
    assert await line.read("src/a.py") == b"a = 9\nb = 2\nc = 3\nd = 4\ne = 9\n"


async def test_modes_and_links_are_merged(line: Line, pool: WorkspacePool, base: str):
    async with pool.at(base) as workspace:
        (workspace.path / "run.sh").chmod(0o644)
        (workspace.path / "link").unlink()
        (workspace.path / "link").symlink_to("README.md")
        modes = (await take(workspace, parent=base, message="x", time_ns=TIME_NS)).commit
    await line.advance("ws-one", await line.work({"run.sh": "#!/bin/sh\ntrue\n"}))
    await line.advance("ws-two", modes)
    assert (await line.mirror.git("ls-tree", line.head, "run.sh")).startswith(b"100644")
    assert await line.read("run.sh") == b"#!/bin/sh\ntrue\n"
    assert await line.read("link") == b"README.md"


async def test_a_conflict_names_its_files_and_both_sides(line: Line, mirror: Mirror):
    await line.advance("ws-one", await line.work({"src/a.py": "one\n", "odd/new\nline.txt": "one\n"}))
    await line.advance("ws-other", await line.work({"docs/other.txt": "x"}))
    await line.advance("ws-two", await line.work({"src/b.py": None}))
    theirs = await line.work({"src/a.py": "mine\n", "src/b.py": "mine\n", "odd/new\nline.txt": "mine\n", "ok": "x"})
    outcome = await line.merge(theirs)
    assert isinstance(outcome, Conflict)
    assert dict(zip(outcome.files, outcome.kinds, strict=True)) == {
        "src/a.py": "CONFLICT (contents)", "odd/new\nline.txt": "CONFLICT (contents)", "src/b.py": "CONFLICT (modify/delete)",
    }  # fmt: skip
    assert await blame_workstreams(mirror, base=line.base, head=line.head, files=outcome.files) == ["ws-two", "ws-one"]
    assert await blame_workstreams(mirror, base=line.base, head=line.head, files=["src/a.py"]) == ["ws-one"]
    assert await blame_workstreams(mirror, base=line.head, head=line.head, files=["src/a.py"]) == []
    assert await blame_workstreams(mirror, base=line.base, head=line.head, files=[]) == []


async def test_binary_and_kind_conflicts_are_conflicts(line: Line):
    await line.advance("ws-one", await line.work({"bin/blob": b"\0one", "thing": "file"}))
    outcome = await line.merge(await line.work({"bin/blob": b"\0two", "thing/inside": "folder"}))
    assert isinstance(outcome, Conflict)
    assert any(name.startswith("thing") for name in outcome.files)
    assert "bin/blob" in outcome.files


async def test_only_what_changed_since_the_named_base_is_merged(line: Line):
    """A FIX on a later base brings the fix only; and a line that was rebuilt without that base loses nothing."""
    await line.advance("ws-one", await line.work({"one": "1\n"}))
    second_base = line.head
    theirs = await line.work({"two": "2\n"}, base=second_base)
    line.head = line.base
    await line.advance("ws-two", theirs, base=second_base)
    assert await line.files() == {"two": "A"}


async def test_nothing_to_merge_is_the_tree_of_the_line(line: Line, mirror: Mirror):
    one = await line.work({"one": "1\n"})
    await line.advance("ws-one", one)
    for theirs in (one, line.base, line.head):
        outcome = await line.merge(theirs)
        assert outcome == Merged(tree=await mirror.tree(line.head))


async def test_the_same_merge_gives_the_same_commit(line: Line, mirror: Mirror, base: str):
    async def once() -> str:
        return await commit_on(
            mirror, tree=await mirror.tree(base), parent=base, subject="two\nlines", run="r1", workstream="ws",
            attempt=3, time_ns=TIME_NS,
        )  # fmt: skip

    assert await once() == await once()
    body = (await mirror.git("show", "--no-patch", "--format=%B", await once())).decode().strip()
    assert body == "two lines\n\nSwell-Run: r1\nSwell-Workstream: ws\nSwell-Attempt: 3"
    with pytest.raises(ValueError, match="cannot be trailers"):
        await commit_on(
            mirror, tree=base, parent=base, subject="x", run="r1\nSwell-Run: r2", workstream="ws", attempt=1, time_ns=0
        )


async def test_what_git_cannot_judge_is_no_conflict(mirror: Mirror, base: str, line: Line, tmp_path: Path):
    with pytest.raises(MergeUnavailableError) as caught:
        await three_tree(mirror, base=base, ours="1" * 40, theirs=base)
    assert caught.value.remedy
    one = await line.work({"README.md": "one\n"})
    two = await line.work({"README.md": "two\n"})
    blob = (await mirror.git("rev-parse", f"{one}:README.md")).decode().strip()
    (mirror.folder / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(MergeUnavailableError):
        await three_tree(mirror, base=base, ours=one, theirs=two)
