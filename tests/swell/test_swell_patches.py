"""Patches of a run from the command line: listed, shown, exported, applied to the checkout, and taken back."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_repository import bundle, git
from typer.testing import Result

from swell.errors import SwellError
from swell.export import export
from swell.values import Artifact, Patch

pytestmark = pytest.mark.usefixtures("cluster")

Swell = Callable[..., Result]
Bundles = Callable[..., Path]

STRAY = {
    "command": "{python}",
    "args": ["-c", "open('stray.txt', 'w').write('x\\n'); open('src/c.py', 'a').write('C = 2\\n')"],
}
REPAIRED = {"swell": {"static_tools": ["no-bad"]}}


@pytest.fixture
def ran(swell: Swell, bundles: Bundles, repo: Path, at_once: Path, tmp_path: Path) -> str:
    """A run of three: one was fixed and merged, one merged, one left its scope and waits for a person."""
    run = f"patches-{os.getpid()}-{tmp_path.name}"
    profiles = tmp_path / "stray.json"
    profiles.write_text(json.dumps({f"stray-{run}": STRAY}))
    folder = bundles(
        bundle("ws-a", "repair", metadata=REPAIRED),
        bundle("ws-b", scope="src/b.py"),
        bundle("ws-c", f"stray-{run}", "src/c.py"),
    )
    swell("run", folder, "--repo", repo, "--recovery", at_once, "--run", run, "--tool-profiles", profiles)
    return run


def ok(shown: Result) -> str:
    assert shown.exit_code == 0, shown.output
    return shown.stdout


def test_patches_of_a_run_are_listed_shown_exported_applied_and_reversed(
    swell: Swell, repo: Path, ran: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = json.loads(ok(swell("patch", "list", ran, "--json")))
    states = {(one["workstream"], one["attempt"]): (one["step"], one["state"]) for one in listed}
    assert states["ws-a", 1] == ("edit", "dropped")
    assert states["ws-b", 1] == ("edit", "committed")
    assert states["ws-c", 1] == ("edit", "quarantined")
    (fixed,) = (attempt for (name, attempt), said in states.items() if said == ("fix", "committed"))
    assert "quarantined" in ok(swell("patch", "list", ran, "--state", "quarantined"))
    assert "replaces it" in ok(swell("patch", "list", ran, "ws-a"))

    shown = ok(swell("patch", "show", ran, "ws-a"))
    assert f"ws-a/{fixed} of run {ran}: committed" in shown
    assert [word in shown for word in ("created", "validated", "queued", "applied", "verified")] == [True] * 5
    told = json.loads(ok(swell("patch", "show", ran, "ws-a", "--attempt", 1, "--json")))
    assert [move["to_state"] for move in told["history"]] == ["created", "validated", "dropped"]
    assert "GOOD" in ok(swell("diff", ran, "ws-a"))
    assert "+BAD" in ok(swell("diff", ran, "ws-a", "--attempt", 1))
    assert "stray.txt" not in ok(swell("diff", ran))

    monkeypatch.chdir(tmp_path)
    assert ok(swell("patch", "export", ran)) == f"wrote {ran}.patch\n"
    assert ok(swell("patch", "export", ran, "ws-a")) == f"wrote {ran}-ws-a.patch\n"
    digest = next(one["digest"] for one in listed if (one["workstream"], one["attempt"]) == ("ws-a", fixed))
    assert hashlib.sha256(Path(f"{ran}-ws-a.patch").read_bytes()).hexdigest() == digest
    before = Path(f"{ran}.patch").read_bytes()
    refused = swell("patch", "export", ran, "ws-b", "--output", f"{ran}.patch")
    assert (refused.exit_code, "--force" in refused.stderr, Path(f"{ran}.patch").read_bytes()) == (2, True, before)
    written = ok(swell("patch", "export", ran, "--series", "series")).splitlines()
    assert len(written) == 2
    series = sorted(Path("series").iterdir())
    assert {file.name for file in series} in (
        {"0001-ws-a.patch", "0002-ws-b.patch"},
        {"0001-ws-b.patch", "0002-ws-a.patch"},
    )
    assert b"".join(file.read_bytes() for file in series) == before
    series[0].unlink()
    assert swell("patch", "export", ran, "--series", "series").exit_code == 2
    assert sorted(Path("series").iterdir()) == series[1:], "nothing of a series that cannot be written whole"
    ok(swell("patch", "export", ran, "--series", "series", "--force"))

    quarantined = swell("patch", "export", ran, "ws-c")
    assert (quarantined.exit_code, "in quarantine" in quarantined.stderr) == (2, True)
    ok(swell("patch", "export", ran, "ws-c", "--quarantined"))

    whole, was = f"{ran}.patch", git(repo, "status", "--porcelain")
    assert "would apply: 2 files" in ok(swell("patch", "apply", whole, "--repo", repo, "--check"))
    assert git(repo, "status", "--porcelain") == was
    assert ok(swell("patch", "apply", *series, "--repo", repo)) == "applied: 2 files\n  M src/a.py\n  M src/b.py\n"
    merged = git(repo, "show", f"swell/{ran}:src/a.py")
    assert (repo / "src/a.py").read_text().strip() == merged
    again = swell("patch", "apply", whole, "--repo", repo)
    assert (again.exit_code, "src/a.py" in again.stderr) == (2, True)
    assert "reversed: 2 files" in ok(swell("patch", "reverse", whole, "--repo", repo))
    assert git(repo, "status", "--porcelain") == was


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("diff", "last", "--attempt", 1), "Name it behind the run"),
        (("patch", "export", "last", "--attempt", 1), "Name it behind the run"),
        (("patch", "export", "last", "--output", "x", "--series", "y"), "exclude each other"),
        (("patch", "apply", "no-such-file"), "cannot be read"),
        (("patch", "list", "last", "--state", "lost"), "Use one of created, validated"),
    ],
)
def test_what_cannot_be_meant_is_refused(swell: Swell, words: tuple[object, ...], said: str) -> None:
    shown = swell(*words)
    assert (shown.exit_code, said in shown.stderr) == (2, True), shown.stderr


class Kept:
    """Stored bytes, given in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    def read_artifact(self, artifact: Artifact) -> Iterator[bytes]:
        yield from self.pieces


def test_what_is_too_long_to_be_kept_is_never_exported_as_a_patch(tmp_path: Path) -> None:
    patch = Patch(
        run="r1", workstream="ws-a", attempt=1, step="edit", state="committed", reason="", digest="d" * 64, artifact="p",
        size_bytes=9, files=[], files_total=0, created_ns=0, changed_ns=0, moves=1, refused_moves=0, refused="",
    )  # fmt: skip
    with pytest.raises(SwellError, match="too long to be kept") as caught:
        export(Kept(b"The patch is over 9 bytes\n"), [patch], tmp_path / "x.patch", series=False, force=False)
    assert (caught.value.reason, list(tmp_path.iterdir())) == ("PATCH_INCOMPLETE", [])
    whole = Kept(b"diff --git a/x b/x\nnew file", b" mode 100644")
    (file,) = export(whole, [patch], tmp_path / "deep" / "x.patch", series=False, force=False)
    assert file.read_bytes() == b"diff --git a/x b/x\nnew file mode 100644\n"
    assert list(file.parent.iterdir()) == [file]


def test_a_series_is_not_mixed_with_another_one(tmp_path: Path) -> None:
    patch = Patch(
        run="r1", workstream="ws-a", attempt=1, step="edit", state="committed", reason="", digest="d" * 64, artifact="p",
        size_bytes=9, files=[], files_total=0, created_ns=0, changed_ns=0, moves=1, refused_moves=0, refused="",
    )  # fmt: skip
    whole = Kept(b"diff --git a/x b/x\n")
    (tmp_path / "0002-ws-z.patch").write_text("of another run\n")
    with pytest.raises(SwellError, match=r"0002-ws-z\.patch is no part of this series"):
        export(whole, [patch], tmp_path, series=True, force=True)
    (tmp_path / "0002-ws-z.patch").unlink()
    for _ in range(2):
        (file,) = export(whole, [patch], tmp_path, series=True, force=True)
        assert list(tmp_path.iterdir()) == [file]


def test_what_has_no_patch_is_said_so(swell: Swell, bundles: Bundles, repo: Path) -> None:
    run = f"dry-{os.getpid()}-patches"
    swell("run", bundles(bundle("ws-a")), "--repo", repo, "--dry-run", "--run", run)
    assert ok(swell("patch", "list", run)) == "no patches\n"
    for words in (("show", run, "ws-a"), ("export", run), ("export", run, "ws-a"), ("list", run, "ws-zzz")):
        shown = swell("patch", *words)
        assert (shown.exit_code, "next:" in shown.stderr or "ws-a" in shown.stderr) == (2, True), shown.stderr
