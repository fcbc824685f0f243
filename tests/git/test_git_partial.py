"""Mirrors that leave out the content of old files: what runs need is there, and nothing is fetched unasked."""

from pathlib import Path

import pytest

from services.executor import snapshot
from services.executor.merge import Conflict, three_tree
from services.executor.mirror import Mirror, MirrorError, attempt_ref
from services.executor.workspace import WorkspacePool
from services.git import GitError, text
from tests.git.conftest import Checkout

TIME_NS = 1_790_000_000 * 10**9


@pytest.fixture
def server(tmp_path: Path, user: Checkout, environment: pytest.MonkeyPatch) -> Checkout:
    """The person's repository behind what stands in for ssh; it offers partial clones and counts who asks."""
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f'#!/bin/sh\n[ "$1" = -G ] && exit 1\necho asked >> {tmp_path}/asked\nfor last; do :; done\n'
        f'[ -e {tmp_path}/unwilling ] && [ "$(wc -l < {tmp_path}/asked)" -gt 1 ] && exit 1\nexec sh -c "$last"\n'
    )
    ssh.chmod(0o755)
    environment.setenv("GIT_SSH_COMMAND", str(ssh))
    user.git("config", "uploadpack.allowFilter", "true")
    for number in range(5):
        user.commit({"src/a.py": f"a = {number}\n", f"old{number}": f"{number}" * 1000})
    for number in range(5):
        user.git("rm", "--quiet", f"old{number}")
    user.commit({"last": "last\n"})
    return user


def asked(tmp_path: Path) -> int:
    return len((tmp_path / "asked").read_text().splitlines())


async def missing(mirror: Mirror, commit: str) -> int:
    """Objects of a commit and its history that are not here."""
    listed = text(await mirror.git("rev-list", "--objects", "--missing=print", commit))
    return sum(line.startswith("?") for line in listed.splitlines())


@pytest.fixture
async def partial(tmp_path: Path, server: Checkout) -> Mirror:
    made = Mirror(tmp_path / "partial", f"git@host:{server.path}")
    await made.ensure(server.git("rev-parse", "HEAD"), run="r1")
    return made


async def test_history_comes_without_content_and_the_base_whole(partial: Mirror, server: Checkout, tmp_path: Path):
    base = server.git("rev-parse", "HEAD")
    assert await missing(partial, base) == 10  # five old files, and five old states of a.py
    assert await missing(partial, f"{base}^{{tree}}") == 0
    before = asked(tmp_path)
    async with WorkspacePool(partial, tmp_path / "pool", 1).at(base) as workspace:
        assert sorted(path for path in workspace.scan() if "/" not in path and path != ".") == sorted(
            path.name for path in server.path.iterdir() if path.name != ".git"
        )
    assert asked(tmp_path) == before


async def test_what_is_left_out_is_an_error_and_no_fetch(partial: Mirror, server: Checkout, tmp_path: Path):
    before = asked(tmp_path)
    with pytest.raises(GitError):
        await partial.git("cat-file", "blob", "HEAD:old1".replace("HEAD", server.git("rev-parse", "HEAD~1")))
    assert asked(tmp_path) == before
    assert b"host" not in (partial.folder / "config").read_bytes()


async def test_steps_go_from_one_partial_mirror_to_another(partial: Mirror, server: Checkout, tmp_path: Path):
    """Snapshot, bundle, import, merge and patch, none of which asks the server again."""
    base = server.git("rev-parse", "HEAD")
    other = Mirror(tmp_path / "other", partial.location)
    await other.ensure(base, run="r1")
    before = asked(tmp_path)
    made = []
    for number, path in enumerate(("src/a.py", "src/b.py", "src/a.py")):
        async with WorkspacePool(partial, tmp_path / f"pool{number}", 1).at(base) as workspace:
            (workspace.path / path).write_text(f"changed = {number}\n")
            (workspace.path / "old1").write_text("1" * 1000)  # as it stood in a commit whose content is not here
            taken = await snapshot.take(workspace, parent=base, message="edit\n", time_ns=TIME_NS)
        target = tmp_path / f"{number}.bundle"
        await partial.export_bundle(base, taken.commit, attempt_ref("r1", "ws", number), target)
        await other.import_bundle(target, taken.commit)
        assert await missing(other, f"{taken.commit}^{{tree}}") == 0
        made.append(taken.commit)
    merged = await three_tree(other, base=base, ours=made[0], theirs=made[1])
    assert not isinstance(merged, Conflict)
    assert isinstance(await three_tree(other, base=base, ours=made[0], theirs=made[2]), Conflict)
    assert (await snapshot.patch(other.git, base, made[0], 100_000)).complete
    assert await other.prune() >= 0
    assert await missing(other, f"{made[1]}^{{tree}}") == 0
    assert asked(tmp_path) == before
    later = server.commit({"src/b.py": "later\n"})
    await other.ensure(later, run="r2")
    assert await missing(other, f"{later}^{{tree}}") == 0


async def test_a_server_without_the_offer_gives_everything(server: Checkout, tmp_path: Path):
    server.git("config", "uploadpack.allowFilter", "false")
    made = Mirror(tmp_path / "m", f"git@host:{server.path}")
    base = server.git("rev-parse", "HEAD")
    await made.ensure(base, run="r1")
    assert await missing(made, base) == 0


async def test_whoever_wants_all_of_it_gets_it(server: Checkout, tmp_path: Path):
    made = Mirror(tmp_path / "m", f"git@host:{server.path}", partial=False)
    base = server.git("rev-parse", "HEAD")
    await made.ensure(base, run="r1")
    assert await missing(made, base) == 0
    assert b"partialClone" not in (made.folder / "config").read_bytes()


async def test_a_server_that_breaks_off_is_told_and_tried_again(server: Checkout, tmp_path: Path):
    """The first connection succeeds, the one for the content does not."""
    (tmp_path / "unwilling").touch()
    made = Mirror(tmp_path / "m", f"git@host:{server.path}")
    base = server.git("rev-parse", "HEAD")
    with pytest.raises(MirrorError) as caught:
        await made.ensure(base, run="r1")
    assert caught.value.code == "FETCH_FAILED"
    (tmp_path / "unwilling").unlink()
    await made.ensure(base, run="r1")
    assert await missing(made, f"{base}^{{tree}}") == 0
