"""A person's repository is judged without touching it."""

import os
from pathlib import Path

import pytest

from services.repository import RepositoryError, inspect, list_files, read_file
from tests.git.conftest import FILES, Checkout


def code_of(caught: pytest.ExceptionInfo[RepositoryError]) -> str:
    assert caught.value.remedy
    return caught.value.code


def test_a_clean_checkout_is_described(user: Checkout, base: str):
    state = inspect(user.path / "src")
    assert (state.root, state.base_commit, state.base_ref, state.branch) == (user.path, base, "refs/heads/main", "main")
    assert state.tree == user.git("rev-parse", "HEAD^{tree}")
    assert not state.bare
    assert state.dirty_count == 0


def test_inspection_changes_nothing(user: Checkout):
    """Not even the times in the index, though they are out of date."""
    os.utime(user.path / "README.md", ns=(1, 1))
    user.write({"new.txt": "x"})
    before = user.fingerprint()
    inspect(user.path, allow_dirty=True)
    assert user.fingerprint() == before


def test_a_dirty_checkout_is_refused_by_name(user: Checkout, base: str):
    user.write({"README.md": "changed", "src/new.py": "x"})
    with pytest.raises(RepositoryError, match=r"README\.md.*src/new\.py") as caught:
        inspect(user.path)
    assert code_of(caught) == "DIRTY"
    state = inspect(user.path, allow_dirty=True)
    assert (state.base_commit, state.dirty, state.dirty_count) == (base, (" M README.md", "?? src/new.py"), 2)


def test_the_list_of_dirt_is_capped(user: Checkout):
    user.write({f"new{n:03}": "x" for n in range(50)})
    with pytest.raises(RepositoryError, match=r"50 uncommitted.*new019 and 30 more"):
        inspect(user.path)


def test_what_is_submitted_is_no_dirt(user: Checkout):
    user.write({"workstreams/one.json": "{}", "two.json": "{}"})
    assert inspect(user.path, exempt=[user.path / "workstreams", user.path / "two.json"]).dirty_count == 0


def test_dirt_does_not_matter_to_another_base(user: Checkout, base: str):
    user.commit({"README.md": "second"})
    user.write({"README.md": "dirty"})
    state = inspect(user.path, base_ref="HEAD~1")
    assert (state.base_commit, state.base_ref) == (base, "HEAD~1")


@pytest.mark.parametrize("ref", ["nope", "--all", "HEAD:src", "-x"])
def test_a_base_that_is_no_commit_is_refused(user: Checkout, ref: str):
    with pytest.raises(RepositoryError) as caught:
        inspect(user.path, base_ref=ref)
    assert code_of(caught) == "BASE_REF_MISSING"


def test_tags_and_detached_heads_are_bases(user: Checkout, base: str):
    user.git("tag", "-a", "-m", "one", "v1")
    user.git("checkout", "--quiet", "--detach")
    state = inspect(user.path, base_ref="v1")
    assert (state.base_commit, state.base_ref, state.branch) == (base, "refs/tags/v1", "")


def test_places_without_repository_are_refused(tmp_path: Path, user: Checkout):
    for place in (tmp_path, tmp_path / "missing", user.path / ".git"):
        with pytest.raises(RepositoryError) as caught:
            inspect(place)
        assert code_of(caught) == "NOT_A_REPOSITORY"


def test_a_repository_without_commit_is_refused(tmp_path: Path):
    checkout = Checkout(tmp_path)
    checkout.git("init", "--quiet")
    for ref in (None, "main"):
        with pytest.raises(RepositoryError) as caught:
            inspect(tmp_path, base_ref=ref)
        assert code_of(caught) == "NO_COMMIT"


def test_a_shallow_clone_is_refused(tmp_path: Path, user: Checkout):
    user.commit({"x": "y"})
    user.git("clone", "--quiet", "--depth=1", f"file://{user.path}", str(tmp_path / "shallow"))
    with pytest.raises(RepositoryError, match="git fetch --unshallow") as caught:
        inspect(tmp_path / "shallow")
    assert code_of(caught) == "SHALLOW"


def test_bare_repositories_and_linked_worktrees_are_accepted(tmp_path: Path, user: Checkout, base: str):
    user.git("clone", "--quiet", "--bare", ".", str(tmp_path / "bare.git"))
    state = inspect(tmp_path / "bare.git")
    assert (state.bare, state.root, state.base_commit) == (True, tmp_path / "bare.git", base)
    user.git("worktree", "add", "--quiet", "-b", "side", str(tmp_path / "linked"))
    state = inspect(tmp_path / "linked")
    assert (state.root, state.branch, state.bare) == (tmp_path / "linked", "side", False)


def test_files_are_read_from_the_commit(user: Checkout, base: str):
    user.write({"README.md": "not committed"})
    assert read_file(user.path, base, "README.md", 100) == b"# one\n"
    assert read_file(user.path, base, "odd/new\nline.txt", 100) == b"line\n"
    assert read_file(user.path, base, "swell.toml", 100) is None
    assert read_file(user.path, base, "", 100) is None


@pytest.mark.parametrize(
    ("path", "code"), [("link", "FILE_UNREADABLE"), ("src", "FILE_UNREADABLE"), ("bin/blob", "FILE_TOO_LARGE")]
)
def test_what_is_no_small_file_is_refused(user: Checkout, base: str, path: str, code: str):
    with pytest.raises(RepositoryError) as caught:
        read_file(user.path, base, path, 100)
    assert code_of(caught) == code


def test_listing_is_limited(user: Checkout, base: str):
    names = list_files(user.path, base, 1000)
    assert set(names) == {*FILES, "run.sh", "link"}
    assert list_files(user.path, base, 3) == names[:3]
