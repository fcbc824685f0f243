"""The mirror: fetching, pinning, bundles, delivery; and the person's repository stays as it was."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from services.executor.mirror import (
    DeliveryRefusedError,
    Mirror,
    MirrorError,
    attempt_ref,
    check_location,
    delivery_ref,
)
from services.executor.snapshot import commit_tree
from services.git import Git, GitError, text
from tests.git.conftest import Checkout

REF = delivery_ref("r1")


async def refs_of(mirror: Mirror) -> dict[str, str]:
    listed = text(await mirror.git("for-each-ref", "--format=%(refname) %(objectname)"))
    return dict(line.split(" ") for line in listed.splitlines())


async def new_commit(mirror: Mirror, parent: str, message: str = "work") -> str:
    """A commit with a file more than its parent."""
    blob = text(await mirror.git("hash-object", "-w", "--stdin", stdin=message.encode()))
    listed = await mirror.git("ls-tree", "-z", parent)
    tree = text(await mirror.git("mktree", "-z", stdin=listed + f"100644 blob {blob}\tnew-{message}\0".encode()))
    return await commit_tree(mirror.git, tree, [parent], message, 0)


@pytest.mark.parametrize(
    "location",
    ["", "-x", "--upload-pack=touch x", "ext::sh -c x", "fd::17", "relative/path", "ftp://host/x", "https://", "/a\nb",
     "ssh://-oProxyCommand=x/y", "-oProxyCommand=x:y", "git://host/x"],
)  # fmt: skip
def test_locations_that_could_run_something_are_refused(location: str):
    with pytest.raises(MirrorError) as caught:
        check_location(location)
    assert caught.value.code == "LOCATION_REFUSED"
    assert caught.value.remedy


@pytest.mark.parametrize(
    "location",
    ["/srv/repo", "https://host/x.git", "ssh://git@host/x", "git@host:x/y.git", "file:///srv/x", "ssh://git@[::1]/x"],
)
def test_ordinary_locations_are_accepted(location: str):
    assert check_location(location) == location


async def test_the_base_is_pinned_and_nothing_else_is_taken_over(mirror: Mirror, base: str, user: Checkout):
    assert await refs_of(mirror) == {"refs/swell/base/r1": base}
    assert not (mirror.folder / "objects/info/alternates").exists()
    assert await mirror.tree(base) == user.git("rev-parse", "HEAD^{tree}")
    await mirror.git("fsck", "--full", "--strict")


async def test_the_mirror_survives_the_loss_of_its_source(mirror: Mirror, base: str, user: Checkout, tmp_path: Path):
    user.path.rename(tmp_path / "elsewhere")
    await mirror.git("rev-list", "--objects", base)


async def test_later_commits_are_fetched_even_when_no_ref_names_them(mirror: Mirror, user: Checkout, base: str):
    orphan = user.commit({"x": "1"})
    user.git("reset", "--quiet", "--hard", base)
    before = user.fingerprint()
    await mirror.ensure(orphan, run="r2")
    assert await refs_of(mirror) == {"refs/swell/base/r1": base, "refs/swell/base/r2": orphan}
    assert user.fingerprint() == before


async def test_a_repository_with_alternates_is_copied_whole(tmp_path: Path, user: Checkout, base: str):
    user.git("clone", "--quiet", "--shared", ".", str(tmp_path / "shared"))
    made = Mirror(tmp_path / "m", str(tmp_path / "shared"))
    await made.ensure(base, run="r1")
    assert not (made.folder / "objects/info/alternates").exists()
    await made.git("rev-list", "--objects", base)


async def test_addresses_are_fetched_as_well(tmp_path: Path, user: Checkout, base: str):
    made = Mirror(tmp_path / "m", f"file://{user.path}")
    await made.ensure(base, run="r1")
    assert await made.has(base)


async def test_sha256_repositories_work(tmp_path: Path):
    (tmp_path / "u").mkdir()
    checkout = Checkout(tmp_path / "u")
    checkout.git("init", "--quiet", "--object-format=sha256")
    commit = checkout.commit({"a": "b"})
    for location in (str(checkout.path), f"file://{checkout.path}"):
        made = Mirror(tmp_path / "m", location)
        await made.ensure(commit, run="r1")
        assert await made.has(commit)


async def test_a_commit_that_is_not_there_is_named(mirror: Mirror):
    with pytest.raises(MirrorError) as caught:
        await mirror.ensure("1" * 40, run="r9")
    assert caught.value.code == "COMMIT_MISSING"
    assert not await mirror.has("1" * 40)


async def test_a_server_that_refuses_object_ids_is_asked_for_its_branches(
    tmp_path: Path, user: Checkout, base: str, environment: pytest.MonkeyPatch
):
    """The oldest protocol, over what stands in for ssh, gives out the tips of branches only."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\n[ "$1" = -G ] && exit 1\nunset GIT_PROTOCOL\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    environment.setenv("GIT_SSH_COMMAND", str(ssh))
    tip = user.commit({"x": "1"})
    made = Mirror(tmp_path / "m", f"git@host:{user.path}")
    await made.ensure(base, run="r1")
    assert await refs_of(made) == {"refs/swell/base/r1": base, "refs/swell/source/main": tip}
    with pytest.raises(MirrorError) as caught:
        await made.ensure("1" * 40, run="r2")
    assert caught.value.code == "COMMIT_MISSING"
    await made.deliver(tip, ref=REF, expected_old=None)
    assert user.git("rev-parse", REF) == tip


async def test_a_place_without_repository_is_a_failed_fetch(tmp_path: Path):
    with pytest.raises(MirrorError, match="cannot fetch") as caught:
        await Mirror(tmp_path / "m", str(tmp_path / "nothing")).ensure("1" * 40, run="r1")
    assert caught.value.code == "FETCH_FAILED"


async def test_concurrent_callers_agree(tmp_path: Path, user: Checkout, base: str):
    second = user.commit({"x": "1"})
    mirrors = [Mirror(tmp_path / "m", str(user.path)) for _ in range(3)]
    await asyncio.gather(*(m.ensure(c, run=f"r{n}") for n in range(2) for m in mirrors for c in (base, second)))
    await mirrors[0].git("fsck", "--full")


def test_processes_exclude_each_other(tmp_path: Path, user: Checkout, base: str):
    script = (
        "import asyncio, sys; from pathlib import Path; from services.executor.mirror import Mirror\n"
        "asyncio.run(Mirror(Path(sys.argv[1]), sys.argv[2]).ensure(sys.argv[3], run=sys.argv[4]))"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "m"), str(user.path), base]
    started = [subprocess.Popen([*argv, f"r{n}"]) for n in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]


async def test_a_configuration_that_a_tool_wrote_is_put_back(mirror: Mirror, user: Checkout, tmp_path: Path):
    mark = tmp_path / "ran"
    await mirror.git("config", "core.fsmonitor", f"touch {mark}")
    await mirror.git("config", "filter.evil.clean", f"touch {mark}")
    (mirror.folder / "info").mkdir(exist_ok=True)
    (mirror.folder / "info/attributes").write_text("* filter=evil\n")
    mirror.guard()
    assert b"evil" not in await mirror.git("config", "--list", "--local")
    assert not (mirror.folder / "info/attributes").exists()


async def test_a_bundle_from_the_base_carries_a_commit_to_another_mirror(
    mirror: Mirror, user: Checkout, base: str, tmp_path: Path
):
    first = await new_commit(mirror, base, "one")
    second = await new_commit(mirror, first, "two")
    ref, target = attempt_ref("r1", "ws", 2), tmp_path / "b.bundle"
    await mirror.export_bundle(base, second, ref, target)
    other = Mirror(tmp_path / "other", str(user.path))
    await other.ensure(base, run="r1")
    assert not await other.has(second)
    await other.import_bundle(target, second)
    assert await other.has(first)
    assert await refs_of(other) == {"refs/swell/base/r1": base, ref: second}
    await other.git("rev-list", "--objects", second)


async def test_bundles_that_do_not_fit_are_refused(mirror: Mirror, user: Checkout, base: str, tmp_path: Path):
    commit = await new_commit(mirror, base)
    target = tmp_path / "b.bundle"
    await mirror.export_bundle(base, commit, attempt_ref("r1", "ws", 1), target)
    (tmp_path / "damaged").write_bytes(target.read_bytes()[:-30])
    (tmp_path / "nonsense").write_bytes(b"hello")
    other = Mirror(tmp_path / "other", str(user.path))
    await other.ensure(base, run="r1")
    for path, wanted in ((tmp_path / "damaged", commit), (tmp_path / "nonsense", commit), (target, "2" * 40)):
        with pytest.raises(MirrorError) as caught:
            await other.import_bundle(path, wanted)
        assert caught.value.code == "BUNDLE_REFUSED"
    unrelated = Checkout(tmp_path / "unrelated")
    unrelated.path.mkdir()
    unrelated.git("init", "--quiet")
    elsewhere = Mirror(tmp_path / "elsewhere", str(unrelated.path))
    await elsewhere.ensure(unrelated.commit({"a": "b"}), run="r1")
    with pytest.raises(MirrorError, match="Ensure the run's base commit"):
        await elsewhere.import_bundle(target, commit)


async def test_a_bundle_moves_no_other_ref(mirror: Mirror, user: Checkout, base: str, tmp_path: Path):
    """A bundle is somebody's data: names outside the attempts do not count."""
    commit = await new_commit(mirror, base)
    await mirror.git("update-ref", "refs/swell/base/victim", commit)
    await mirror.git("bundle", "create", "--quiet", str(tmp_path / "b"), f"^{base}", "refs/swell/base/victim")
    other = Mirror(tmp_path / "other", str(user.path))
    await other.ensure(base, run="victim")
    with pytest.raises(MirrorError):
        await other.import_bundle(tmp_path / "b", commit)
    assert await refs_of(other) == {"refs/swell/base/victim": base}


async def test_nothing_to_carry_and_foreign_refs_are_refused(mirror: Mirror, base: str, tmp_path: Path):
    with pytest.raises(MirrorError, match="nothing to carry"):
        await mirror.export_bundle(base, base, attempt_ref("r1", "ws", 1), tmp_path / "b")
    with pytest.raises(MirrorError, match="no attempt's ref"):
        await mirror.export_bundle(base, "2" * 40, "refs/heads/main", tmp_path / "b")
    with pytest.raises(MirrorError, match="cannot be part of a ref"):
        attempt_ref("r1", "../../heads/x", 1)


async def test_delivery_touches_its_branch_only(mirror: Mirror, user: Checkout, base: str, tmp_path: Path):
    """Neither the index, the files, the configuration nor a hook of the person's takes part."""
    hook = user.path / ".git/hooks/post-receive"
    hook.parent.mkdir(exist_ok=True)
    for name in ("pre-receive", "update", "post-receive", "reference-transaction", "post-update"):
        hook.with_name(name).write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
        hook.with_name(name).chmod(0o755)
    user.write({"README.md": "stashed"})
    user.git("stash")
    user.write({"README.md": "dirty", "src/a.py": "staged", "x.log": "ignored"})
    user.git("add", "src/a.py")
    (tmp_path / "hooked").unlink(missing_ok=True)
    before = user.fingerprint()
    first = await new_commit(mirror, base, "one")
    second = await new_commit(mirror, base, "two")  # not a descendant of the first: the line was rebuilt
    await mirror.deliver(first, ref=REF, expected_old=None)
    await mirror.deliver(first, ref=REF, expected_old=None)
    assert not (tmp_path / "hooked").exists()
    assert user.git("rev-parse", REF) == first
    await mirror.deliver(second, ref=REF, expected_old=first)
    assert user.git("rev-parse", REF) == second
    assert user.fingerprint() == before


async def test_a_branch_that_somebody_moved_is_not_overwritten(mirror: Mirror, user: Checkout, base: str):
    first = await new_commit(mirror, base, "one")
    await mirror.deliver(first, ref=REF, expected_old=None)
    user.git("update-ref", REF, base)
    second = await new_commit(mirror, first, "two")
    for expected in (first, None):
        with pytest.raises(DeliveryRefusedError, match=base) as caught:
            await mirror.deliver(second, ref=REF, expected_old=expected)
        assert caught.value.found == base
        assert caught.value.remedy
    user.git("update-ref", "-d", REF)
    with pytest.raises(DeliveryRefusedError, match="no commit") as caught:
        await mirror.deliver(second, ref=REF, expected_old=first)
    assert caught.value.found == ""


@pytest.mark.parametrize("policy", ["refuse", "ignore", "updateInstead"])
async def test_a_branch_that_is_checked_out_is_not_moved(mirror: Mirror, user: Checkout, base: str, policy: str):
    first = await new_commit(mirror, base, "one")
    await mirror.deliver(first, ref=REF, expected_old=None)
    user.git("checkout", "--quiet", "swell/r1")
    user.git("config", "receive.denyCurrentBranch", policy)
    before = user.fingerprint()
    with pytest.raises(DeliveryRefusedError, match="Check out another branch"):
        await mirror.deliver(await new_commit(mirror, first, "two"), ref=REF, expected_old=first)
    assert user.fingerprint() == before
    assert user.git("rev-parse", REF) == first


@pytest.mark.parametrize(
    "ref", ["refs/heads/main", "refs/heads/swell/../main", "refs/heads/swell/a/b", "refs/heads/swell/", "main"]
)
async def test_only_swells_branches_are_delivered(mirror: Mirror, user: Checkout, base: str, ref: str):
    with pytest.raises(DeliveryRefusedError):
        await mirror.deliver(base, ref=ref, expected_old=None)


async def test_delivery_goes_to_another_repository_too(mirror: Mirror, user: Checkout, base: str, tmp_path: Path):
    await Git(tmp_path)("init", "--quiet", "--bare", "remote.git")
    await mirror.deliver(base, ref=REF, expected_old=None, location=str(tmp_path / "remote.git"))
    assert text(await Git(tmp_path / "remote.git")("rev-parse", REF)) == base
    with pytest.raises(GitError):
        await Git(user.path)("rev-parse", "--verify", REF)
    with pytest.raises(DeliveryRefusedError) as caught:
        await mirror.deliver(base, ref=REF, expected_old=None, location=str(tmp_path / "gone.git"))
    assert caught.value.found is None
