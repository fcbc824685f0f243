"""I12 over a whole cluster: planted secrets stand in no byte of its log, artifacts, ledger, logs, metrics and answers."""

import base64
import json
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
from small_repository import PROFILES, bundle, git
from typer.testing import Result

from swell.client import Client
from swell.cluster import connected

CANARY = 'canary-Kx81&mm/q2"Zz7+'
SAY = """import base64, json, os, sys, urllib.parse
key = os.environ["API_KEY"]
for text in (key, base64.b64encode(b"u:" + key.encode()).decode(), urllib.parse.quote(key, safe=""), json.dumps({"k": key})):
    print("the key is", text); print("failed with", text, file=sys.stderr)
"""
CHANGE = SAY + "open(sys.argv[1], 'a').write('GOOD = 1\\n')\n"
LEAK = SAY + "open(sys.argv[1], 'a').write('KEY = ' + repr(key) + '\\n')\n"
CHECK = SAY + "sys.exit('GOOD' not in open(sys.argv[1]).read())\n"


def forms(value: str) -> list[bytes]:
    """What is looked for, made here: as it is, and as base64 (that part that does not depend on its place), URL and JSON."""
    raw = value.encode()
    found = [raw, urllib.parse.quote(value, safe="").encode(), json.dumps(value)[1:-1].encode()]
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        found += [encode(before + raw)[4:-4] for before in (b"", b"x", b"xy")]
    return found


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below, but the tools' worktrees and mirrors, where a snapshot with a secret is kept and goes nowhere."""
    for file in folder.rglob("*"):
        kept_back = {"mirrors", "worktrees", "pool", "scratch"} & set(file.relative_to(folder).parts)
        if file.is_file() and not file.is_symlink() and not kept_back:
            yield str(file.relative_to(folder)), file.read_bytes()


def rows(folder: Path, target: Path) -> Iterator[tuple[str, bytes]]:
    """Every row of the ledger, from a copy: its file is compressed, so its bytes alone would prove nothing."""
    [ledger] = folder.rglob("*.duckdb")
    target.write_bytes(ledger.read_bytes())
    wal = ledger.with_name(ledger.name + ".wal")
    if wal.exists():
        target.with_name(target.name + ".wal").write_bytes(wal.read_bytes())
    with duckdb.connect(str(target)) as database:
        for (table,) in database.execute("select table_name from information_schema.tables").fetchall():
            for row in database.table(table).fetchall():
                yield f"ledger {table}", repr(row).encode()
                yield f"ledger {table}", b"".join(one for one in row if isinstance(one, bytes))


def test_no_canary_is_in_any_byte_that_a_cluster_keeps(
    repo: Path,
    bundles: Callable[..., Path],
    swell: Callable[..., Result],
    cluster: Path,
    at_once: Path,
    tmp_path: Path,
    tell: Callable[[str], None],
) -> None:
    key = tmp_path / "key"
    key.write_text(CANARY + "\n")
    key.chmod(0o600)
    secret = {"command": sys.executable, "secrets": {"API_KEY": f"file:{key}"}}
    tools = {name: {**secret, "args": ["-c", text, "{files}"]} for name, text in
             {"change": CHANGE, "leak": LEAK, "check": CHECK, "fail": SAY + "sys.exit(key)"}.items()}  # fmt: skip
    (repo / "tools.json").write_text(json.dumps(PROFILES | tools))
    (repo / "swell.toml").write_text('static_tools = ["check"]\nfix_tool = "change"\ntool_profiles = "tools.json"\n')
    (repo / "src" / "d.py").write_text("D = 1\n")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "tools with a key")
    folder = bundles(
        bundle("ws-changes", "change", scope="src/a.py"),
        bundle("ws-is-fixed", "append", scope="src/b.py"),
        bundle("ws-leaks", "leak", scope="src/c.py"),
        bundle("ws-fails", "fail", scope="src/d.py"),
    )
    ran = swell("run", folder, "--repo", repo, "--recovery", at_once, "--review", "fail", "--run", "run-canary")
    assert ran.exit_code == 1, ran.output
    with connected(cluster) as found, Client(found) as client:
        states = {one.workstream: one.state for one in client.list_workstreams("run-canary")}
    assert states == {
        "ws-changes": "completed", "ws-is-fixed": "completed", "ws-leaks": "failed", "ws-fails": "failed",
    }  # fmt: skip
    said = [swell(*words) for words in (
        ("show", "run-canary"), ("events", "run-canary"), ("logs", "run-canary", "ws-fails"),
        ("logs", "run-canary", "ws-leaks"), ("diff", "run-canary", "ws-changes"),
        ("report", "run-canary"), ("report", "run-canary", "--html", "-"),
    )]  # fmt: skip
    pieces = [("run output", ran.output.encode()), *(("answers", one.output.encode()) for one in said)]
    pieces += [*files(cluster), *rows(cluster, tmp_path / "copy.duckdb")]
    for place, data in pieces:
        for form in forms(CANARY):
            assert form not in data, f"{form!r} is in {place}"
    masked = sum(data.count(b"[secret]") for _, data in pieces)
    size = sum(len(data) for _, data in pieces)
    tell(f"scanned for canaries: {len(pieces)} pieces, {size:,} bytes; {masked} masked")
    assert masked > 20
    assert {place.split("/")[0].split()[0] for place, _ in pieces} >= {"ledger", "answers"}
    assert any("jetstream" in place.lower() for place, _ in pieces), sorted({place for place, _ in pieces})[:50]
