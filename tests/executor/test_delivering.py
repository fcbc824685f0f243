"""Delivery by an executor: styles, remotes, credentials, patches, the program afterwards; and taking a merge back."""

import base64
import http.server
import threading

import msgspec
import pytest
from executor_rig import Run, git, sh

from services.events import LINE, Delivered, Destination, Snapshot
from services.executor.delivery import access
from services.executor.secrets import SecretMissingError
from swell.series import parted, write_series

EDIT = sh('for f in "$@"; do echo new >> "$f"; done; printf "a\\000b" > d.txt; printf "x\\r\\n" >> c.txt; rm b.txt')
TOKEN = "tok-0123456789abcdef"


async def line(bench, run, step, **fields):
    command = await run.command(bench.artifacts, step, **{"base": None, **fields})
    scheduled = msgspec.structs.replace(command.step, workstream=LINE)
    return await bench.steps.run(msgspec.structs.replace(command, step=scheduled))


async def merged(bench, run, **fields):
    """A line of one commit: what an EDIT did, merged."""
    made = (await bench.do(run)).snapshot
    done = await line(bench, run, "merge", input=run.base, base=run.base, theirs=made, on_behalf="ws-a", **fields)
    assert done.ok, done.message
    return done.snapshot


def branch(run, repo=None):
    return git(repo or run.repo, "rev-parse", "--verify", "--quiet", f"refs/heads/swell/{run.id}", ok=False)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path, {"tool": EDIT})


async def test_a_commit_of_the_line_says_who_made_it_and_what_it_cost(bench, run):
    head = await merged(bench, run, tools=["codex", "aider"], cost_nano=20_000_000)
    await line(bench, run, "deliver", input=head)
    shown = git(run.repo, "log", "-1", "--format=%(trailers:only,unfold)", branch(run))
    assert shown.splitlines() == [
        f"Swell-Run: {run.id}", "Swell-Workstream: ws-a", "Swell-Attempt: 2", "Swell-Tool: codex", "Swell-Tool: aider",
        "Swell-Cost: $0.02",
    ]  # fmt: skip


@pytest.mark.parametrize("style", ["rebase", "squash", "merge"])
async def test_every_style_delivers_the_tree_that_was_verified(bench, run, style):
    head = await merged(bench, run)
    to = Destination(style=style)
    done = await line(bench, run, "deliver", input=head, delivery=to)
    assert done.ok, done.message
    assert branch(run) == done.snapshot.commit
    assert git(run.repo, "rev-parse", f"{branch(run)}^{{tree}}") == head.tree == done.snapshot.tree
    parents = git(run.repo, "log", "-1", "--format=%P", branch(run)).split()
    assert parents == {"merge": [run.base.commit, head.commit]}.get(style, [run.base.commit])
    again = await line(bench, run, "deliver", input=head, delivery=to, base=None)
    assert (again.ok, again.snapshot) == (True, done.snapshot), "another attempt pushes the same commit"
    named = git(run.repo, "log", "-1", "--format=%(trailers:key=Swell-Workstream,valueonly)", branch(run))
    assert named == "ws-a"


async def test_the_next_delivery_takes_the_place_of_the_one_before(bench, run):
    first = await merged(bench, run)
    pushed = (await line(bench, run, "deliver", input=first, delivery=Destination(style="squash"))).snapshot
    second = await line(bench, run, "merge", input=first, base=first, theirs=run.base, on_behalf="ws-a", reverts=True)
    given = {"input": second.snapshot, "delivery": Destination(style="squash")}
    assert (await line(bench, run, "deliver", **given)).error_class == "delivery_refused"
    done = await line(bench, run, "deliver", base=pushed, **given)
    assert done.ok
    assert git(run.repo, "rev-list", "--count", f"{run.base.commit}..{branch(run)}") == "1"


async def test_a_merge_is_taken_back_as_one_commit(bench, run):
    head = await merged(bench, run)
    done = await line(bench, run, "merge", input=head, base=head, theirs=run.base, on_behalf="ws-a", reverts=True)
    assert done.snapshot.tree == run.base.tree
    await line(bench, run, "deliver", input=done.snapshot, delivery=Destination(style="merge"))
    subject, reverts = git(
        run.repo, "log", "-1", "--format=%s%n%(trailers:key=Swell-Reverts,valueonly)", done.snapshot.commit
    ).splitlines()
    assert (subject, reverts) == ('Revert "ws-a: change it"', "ws-a")
    assert git(run.repo, "log", "-1", "--format=%s", branch(run)) == f"Swell run {run.id}: 0 workstreams"


async def test_what_came_after_it_may_stand_in_its_way(bench, run):
    first = await merged(bench, run)
    later = await bench.do(run, input=first, base=first)
    after = (await line(bench, run, "merge", input=first, base=first, theirs=later.snapshot, on_behalf="ws-a")).snapshot
    done = await line(bench, run, "merge", input=after, base=first, theirs=run.base, on_behalf="ws-a", reverts=True)
    assert (done.error_class, done.snapshot) == ("merge_conflict", None)
    assert "a.txt" in done.conflicts


async def test_another_repository_gets_the_branch_and_the_runs_own_does_not(bench, run, tmp_path):
    other = tmp_path / "other.git"
    git(tmp_path, "init", "--quiet", "--bare", str(other))
    head = await merged(bench, run)
    to = Destination(remote=str(other))
    assert (await line(bench, run, "deliver", input=head, delivery=to)).ok
    assert (branch(run, other), branch(run)) == (head.commit, "")
    git(other, "update-ref", f"refs/heads/swell/{run.id}", run.base.commit)
    moved = await line(bench, run, "deliver", input=head, base=head, delivery=to, request_id="q-12345678")
    assert (moved.error_class, "Somebody else moved it" in moved.message) == ("delivery_refused", True)
    git(other, "update-ref", "-d", f"refs/heads/swell/{run.id}")
    assert not (await line(bench, run, "deliver", input=head, base=head, delivery=to)).ok
    assert (await line(bench, run, "deliver", input=head, base=head, delivery=to, request_id="q-12345678")).ok
    assert branch(run, other) == head.commit, "who asks gets a branch that was deleted again"


async def test_patches_make_the_same_tree(bench, run, tmp_path):
    head = await merged(bench, run)
    done = await line(bench, run, "deliver", input=head, series=True)
    assert branch(run) == ""
    files = write_series(await bench.read(done, "series"), tmp_path / "series")
    assert [file.name for file in files] == ["0001-ws-a-change-it.patch"]
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(run.repo), str(clone))
    git(clone, "am", "--quiet", "--keep-cr", *map(str, files))
    assert git(clone, "rev-parse", "HEAD^{tree}") == head.tree
    assert "Swell-Workstream: ws-a" in git(clone, "log", "-1", "--format=%B")


def test_a_mailbox_is_parted_where_mails_begin_and_names_hold_nothing_strange():
    first = (
        b"From "
        + b"a" * 40
        + b" Mon Sep 17 00:00:00 2001\nSubject: [PATCH 1/2] ../../etc/x: \xff\n longer\n\n+From me\n"
    )
    second = b"From " + b"b" * 64 + b" Mon Sep 17 00:00:00 2001\nnothing\n"
    found = dict(parted(first + second))
    assert list(found) == ["0001-etc-x-longer.patch", "0002-patch.patch"]
    assert b"".join(found.values()) == first + second
    assert list(parted(b"")) == []


def test_a_subject_that_git_encodes_names_its_file_by_its_text():
    mail = (
        b"From " + b"a" * 40 + b" Mon Sep 17 00:00:00 2001\nSubject: [PATCH 1/1] =?%s?q?ws-a:=20Gr=C3=B6=C3=9Fe?=\n\n"
    )
    assert [name for name, _ in parted(mail % b"UTF-8")] == ["0001-ws-a-Gr-e.patch"]
    assert [name for name, _ in parted(mail % b"no-such")] == ["0001-no-such-q-ws-a-20Gr-C3-B6-C3-9Fe.patch"]


GIVEN = ("{branch}", "{base}", "{run}", "{remote}", "{commit}", "{folder}", "{name}", "{title_file}", "{body_file}")


async def hooked(bench, tmp_path, code, name="said"):
    said = 'echo "$1|$2|$3|$4|$5" > "$6/$7"; cat "$8" "$9" >> "$6/$7"; env >> "$6/$7"'
    hook = sh(f"{said}; exit {code}", *GIVEN)
    run = Run(tmp_path, {"tool": EDIT, "open-pr": hook})
    context = {"folder": str(tmp_path), "name": name}
    run.spec = msgspec.structs.replace(run.spec, options=msgspec.structs.replace(run.spec.options, context=context))
    head = await merged(bench, run)
    to = Destination(hook="open-pr", style="squash")
    return run, [await line(bench, run, "deliver", input=head, delivery=to) for _ in range(2)]


async def test_a_program_is_called_with_what_was_delivered_and_the_same_key_each_time(bench, tmp_path):
    run, (first, second) = await hooked(bench, tmp_path, 0)
    assert (first.ok, first.message, second.ok) == (True, "", True)
    said = (tmp_path / "said").read_text().splitlines()
    assert said[0] == f"swell/{run.id}|{run.base.commit}|{run.id}|{run.repo}|{first.snapshot.commit}"
    assert said[1:3] == [f"Swell run {run.id}: 1 workstream", "* ws-a: change it"]
    (key,) = [text for text in said if text.startswith("SWELL_DELIVERY_KEY=")]
    assert len(key) == len("SWELL_DELIVERY_KEY=") + 32


async def test_a_program_that_fails_is_told_and_the_delivery_stands(bench, tmp_path):
    run, (first, _) = await hooked(bench, tmp_path, 3)
    assert first.ok
    assert first.message.startswith("delivered, but open-pr failed: the tool ended with exit code 3")
    assert branch(run) == first.snapshot.commit


# Credentials


class Remote:
    """An HTTP server that lets nobody in, and remembers what it was shown."""

    def __init__(self) -> None:
        seen = self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.headers.get("Authorization", ""))
                self.send_response(403)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/r.git"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def remote():
    made = Remote()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize(("value", "login"), [(TOKEN, f"x-access-token:{TOKEN}"), (f"ann:{TOKEN}", f"ann:{TOKEN}")])
async def test_a_credential_is_shown_to_its_address_and_stands_nowhere_else(
    bench, run, remote, tmp_path, monkeypatch, value, login
):
    monkeypatch.setenv("DELIVERY_TOKEN", value)
    head = await merged(bench, run)
    to = Destination(remote=remote.address, credential="env:DELIVERY_TOKEN")
    done = await line(bench, run, "deliver", input=head, delivery=to)
    assert done.error_class == "delivery_refused"
    assert set(remote.seen) == {f"Basic {base64.b64encode(login.encode()).decode()}"}
    assert TOKEN not in msgspec.json.encode(done).decode()
    assert not [
        path for path in (tmp_path / "state").rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()
    ]


async def test_a_credential_that_is_not_there_is_told_by_its_reference(bench, run, remote):
    head = await merged(bench, run)
    to = Destination(remote=remote.address, credential="env:NOT_THERE_AT_ALL")
    done = await line(bench, run, "deliver", input=head, delivery=to)
    assert (done.error_class, "env:NOT_THERE_AT_ALL" in done.message, remote.seen) == ("delivery_refused", True, [])


def test_ssh_gets_the_file_of_a_key_and_nobody_the_executors_own(tmp_path):
    key = tmp_path / "a key"
    key.write_text("-----BEGIN KEY-----")
    key.chmod(0o600)
    environment, secret = access("git@example.com:r.git", f"file:{key}", ())
    assert environment == {"GIT_SSH_COMMAND": f"ssh -i '{key}' -o IdentitiesOnly=yes -o BatchMode=yes"}
    assert secret == "-----BEGIN KEY-----"
    with pytest.raises(SecretMissingError):
        access("git@example.com:r.git", f"file:{key}", (tmp_path,))
    assert access("https://example.com/r.git", "", ()) == ({}, "")


async def test_every_branch_that_was_delivered_is_withdrawn(bench, run, tmp_path):
    other = tmp_path / "other.git"
    git(tmp_path, "init", "--quiet", "--bare", str(other))
    head = await merged(bench, run)
    places = [Destination(), Destination(remote=str(other), style="squash")]
    delivered = []
    for to in places:
        done = await line(bench, run, "deliver", input=head, delivery=to)
        delivered.append(Delivered(to=to, commit=done.snapshot.commit, head=head.commit))
    undone = await bench.do(run, "compensate", input=head, base=None, action="branch:delete", deliveries=delivered)
    assert undone.ok, undone.message
    assert (branch(run), branch(run, other)) == ("", "")


async def test_only_the_line_is_delivered(bench, run):
    done = await bench.do(run, "deliver", input=Snapshot(commit=run.base.commit, tree=run.base.tree))
    assert done.error_class == "protocol_error"
