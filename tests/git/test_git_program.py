"""The wrapper: environment, limits, errors."""

from pathlib import Path

import pytest

from services.git import Git, GitError, GitMissingError, redacted, version_of
from tests.git.conftest import Checkout


async def test_output_is_returned_and_exit_codes_outside_ok_are_errors(user: Checkout):
    git = Git(user.path)
    assert (await git("rev-parse", "HEAD")).strip().decode() == user.git("rev-parse", "HEAD")
    assert (await git.run("rev-parse", "--verify", "--quiet", "nope", ok=(0, 1))).exit_code == 1
    with pytest.raises(GitError) as caught:
        await git("rev-parse", "--verify", "nope")
    assert caught.value.exit_code == 128
    assert "rev-parse --verify nope" in caught.value.command
    assert caught.value.stderr_tail
    assert caught.value.remedy


def test_sync_and_async_agree(user: Checkout):
    assert Git(user.path).sync("rev-parse", "HEAD").stdout.strip().decode() == user.git("rev-parse", "HEAD")
    with pytest.raises(GitError):
        Git(user.path).sync("no-such-command")


async def test_nothing_of_our_environment_or_configuration_reaches_git(
    user: Checkout, tmp_path: Path, environment: pytest.MonkeyPatch
):
    (tmp_path / ".gitconfig").write_text("[user]\n\tname = Leak\n")
    environment.setenv("HOME", str(tmp_path))
    environment.setenv("GIT_DIR", "/nowhere")
    environment.setenv("GIT_CONFIG_COUNT", "1")
    environment.setenv("GIT_CONFIG_KEY_0", "user.name")
    environment.setenv("GIT_CONFIG_VALUE_0", "Leak")
    assert (await Git(user.path).run("config", "user.name", ok=(1,))).stdout == b""
    assert (await Git(user.path, user_config=True)("config", "user.name")).strip() == b"Leak"


async def test_limits_end_a_call(user: Checkout):
    with pytest.raises(GitError) as caught:
        await Git(user.path, output_bytes=100)("cat-file", "blob", "HEAD:bin/blob")
    assert caught.value.exit_code is None
    with pytest.raises(GitError):
        await Git(user.path, timeout_s=0.05)("-c", "alias.wait=!sleep 5", "wait")


async def test_missing_git_says_what_to_install(user: Checkout, environment: pytest.MonkeyPatch, tmp_path: Path):
    environment.setenv("PATH", str(tmp_path))
    with pytest.raises(GitMissingError, match=r"Install git 2\.38"):
        await Git(user.path)("version")


def test_old_versions_are_refused():
    assert version_of("git version 2.39.5 (Debian)\n") == (2, 39)
    for old in ("git version 2.37.1", "something else"):
        with pytest.raises(GitMissingError):
            version_of(old)


def test_credentials_never_show():
    assert (
        redacted("fatal: https://me:secret@host/x and ssh://git@host/y")
        == "fatal: https://***@host/x and ssh://***@host/y"
    )
