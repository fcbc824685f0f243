"""A person's repository, the mirror of it, and a pool of workspaces: all real, all in tmp_path."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.executor.mirror import Mirror
from services.executor.workspace import WorkspacePool
from services.git import _inherited

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "LC_ALL": "C.UTF-8",
    **{f"GIT_{role}_NAME": "Person" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_EMAIL": "person@invalid" for role in ("AUTHOR", "COMMITTER")},
}


class Checkout:
    """A repository as a person uses it: with plain git, and hooks that leave a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def git(self, *args: str, ok: tuple[int, ...] = (0,), stdin: bytes | None = None) -> str:
        done = subprocess.run(
            ("git", *args), cwd=self.path, env=ENVIRONMENT, input=stdin, capture_output=True, check=False
        )
        assert done.returncode in ok, (args, done.stderr)
        return done.stdout.decode("utf-8", "surrogateescape").strip("\n")

    def write(self, files: dict[str, bytes | str]) -> None:
        for name, content in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, files: dict[str, bytes | str] | None = None, message: str = "change") -> str:
        self.write(files or {})
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def fingerprint(self) -> dict[str, str]:
        """Everything of the person's that must not change, the bytes of the index and of every file included."""
        git_dir = Path(self.git("rev-parse", "--absolute-git-dir"))
        index = (git_dir / "index").read_bytes() if (git_dir / "index").exists() else b""
        refs = self.git("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        files = sorted(p for p in self.path.rglob("*") if p.is_file() and ".git" not in p.relative_to(self.path).parts)
        return {
            "index": hashlib.sha256(index).hexdigest(),
            "refs": "\n".join(line for line in refs if not line.startswith("refs/heads/swell/")),
            "head": (git_dir / "HEAD").read_text(),
            "config": (git_dir / "config").read_text(),
            "stash": self.git("stash", "list"),
            "hooks": ",".join(sorted(path.name for path in (git_dir / "hooks").iterdir()))
            if (git_dir / "hooks").exists()
            else "",
            "worktrees": self.git("worktree", "list"),
            "files": hashlib.sha256(b"".join(os.fsencode(p) + p.read_bytes() for p in files)).hexdigest(),
            "status": self.git("--no-optional-locks", "status", "--porcelain", "--ignored"),
        }


FILES: dict[str, bytes | str] = {
    "README.md": "# one\n",
    "src/a.py": "a = 1\nb = 2\nc = 3\nd = 4\ne = 5\n",
    "src/b.py": "b = 1\n",
    "docs/crlf.txt": b"one\r\ntwo\r\n",
    "bin/blob": bytes(range(256)),
    "empty": "",
    ".gitignore": "*.log\nbuild/\n",
    'odd/sp ace "quoted" \u00e9.txt': "odd\n",
    "odd/new\nline.txt": "line\n",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Our own environment, to be changed: what git inherits of it is read once a process otherwise."""
    _inherited.cache_clear()
    yield monkeypatch
    _inherited.cache_clear()


@pytest.fixture
def user(tmp_path: Path) -> Checkout:
    path = tmp_path / "user"
    path.mkdir()
    checkout = Checkout(path)
    checkout.git("init", "--quiet", "--initial-branch=main")
    checkout.write(FILES)
    (path / "run.sh").write_text("#!/bin/sh\n")
    (path / "run.sh").chmod(0o755)
    (path / "link").symlink_to("src/a.py")
    checkout.commit(message="first")
    return checkout


@pytest.fixture
def base(user: Checkout) -> str:
    return user.git("rev-parse", "HEAD")


@pytest.fixture
async def mirror(tmp_path: Path, user: Checkout, base: str) -> Mirror:
    made = Mirror(tmp_path / "mirrors", str(user.path))
    await made.ensure(base, run="r1")
    return made


@pytest.fixture
def pool(tmp_path: Path, mirror: Mirror) -> WorkspacePool:
    return WorkspacePool(mirror, tmp_path / "pool", 2)
