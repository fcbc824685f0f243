"""A secret reaches the tool that it is meant for, and nothing that is kept."""

import asyncio
import base64
import json
import os
import re
import time
import urllib.parse

import msgspec
import pytest
from executor_rig import Desk, Run, git, sh
from hypothesis import given
from hypothesis import strategies as st
from memory_bus import MemoryBus, MemoryServer

from services.artifacts import Artifacts
from services.events import FixInput
from services.executor.journal import Journal
from services.executor.metrics import ExecutorMetrics
from services.executor.pulse import Pulse
from services.executor.secrets import SECRET_BYTES_MAX, SecretMissingError, gathered, resolved
from services.executor.step import StepConfig, Steps
from services.executor.worker import Executor
from services.masking import HELD_BYTES, MASK, Secrets
from services.metrics import Exposition
from services.profiles import ProfileError, Report, ToolProfile, parse_tool_profiles
from services.wire import live_subject

SECRET = 'pass"word/12+34'
KEY = "sk-ant-api03-Ab1" + "x9Zq" * 8
APPEND = 'echo new >> "$1"'


# References


def tool(**secrets):
    return ToolProfile(command="t", secrets=secrets)


def test_references_are_resolved_from_the_environment_and_from_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TEAM_KEY", KEY)
    (tmp_path / "key").write_text(SECRET + "\n")
    (tmp_path / "key").chmod(0o600)
    assert resolved(tool(A="env:TEAM_KEY", B=f"file:{tmp_path}/key")) == {"A": KEY, "B": SECRET}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"x" * (SECRET_BYTES_MAX + 1), "larger than"),
        (b"short", "fewer than"),
        (b"a\0" * 9, "NUL"),
    ],
)
def test_what_cannot_be_resolved_is_named_by_its_reference_alone(tmp_path, content, said):
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(SecretMissingError, match=said) as failure:
        resolved(tool(API_KEY=f"file:{tmp_path}/key"))
    assert f"API_KEY (file:{tmp_path}/key)" in str(failure.value)
    assert content is None or content[:5].decode() not in str(failure.value).replace(str(tmp_path), "")


def test_pipes_missing_variables_and_the_executor_s_own_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "password").write_text(KEY)
    (tmp_path / "alias").symlink_to(tmp_path / "own")
    for reference, said in (
        (f"file:{tmp_path}/pipe", "no regular file"),
        ("env:NOBODY_SETS_THIS", "set NOBODY_SETS_THIS in the executor's environment"),
        (f"file:{tmp_path}/alias/password", "executor's own"),
    ):
        with pytest.raises(SecretMissingError, match=re.escape(said)):
            resolved(tool(A=reference), hidden=(tmp_path / "own",))


def test_a_file_that_others_may_read_is_warned_of_once(tmp_path, capsys):
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0o640)
    for _ in range(2):
        resolved(tool(A=f"file:{tmp_path}/key"))
    said = capsys.readouterr()
    assert (said.out + said.err).count("secret_file_open_to_others") == 1


@pytest.mark.parametrize(
    ("secrets", "said"),
    [
        ({"A": KEY}, "no reference"),
        ({"A": "file:relative"}, "no reference"),
        ({"A B": "env:X"}, "no name of a variable"),
    ],
)
def test_a_profile_holds_references_and_never_shows_what_is_none(secrets, said):
    with pytest.raises(ProfileError, match=said) as failure:
        parse_tool_profiles(json.dumps({"t": {"command": "t", "secrets": secrets}}).encode(), "profiles.json")
    assert KEY not in str(failure.value)


async def test_the_tool_gets_its_secrets_and_no_other(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("TEAM_KEY", KEY)
    monkeypatch.setenv("OTHER_KEY", "other" + KEY)
    script = f'test "$API_KEY" = "{KEY}" && test -z "$OTHER" && test -z "$TEAM_KEY" && {APPEND}'
    for box in ("auto", "none"):
        profiles = {
            "tool": sh(script, secrets={"API_KEY": "env:TEAM_KEY"}, sandbox=box),
            "b": tool(OTHER="env:OTHER_KEY"),
        }
        assert (await bench.do(Run(tmp_path, profiles))).ok


async def test_a_missing_secret_starts_nothing(bench, tmp_path):
    run = Run(tmp_path, {"tool": sh(APPEND, secrets={"API_KEY": "env:NOBODY_SETS_THIS"})})
    done = await bench.do(run)
    assert (done.error_class, done.changed) == ("auth", False)
    assert "API_KEY (env:NOBODY_SETS_THIS)" in done.message


# Masking


@pytest.mark.parametrize(
    "form",
    [
        SECRET.encode(),
        base64.b64encode(SECRET.encode()),
        base64.urlsafe_b64encode(SECRET.encode()),
        urllib.parse.quote(SECRET, safe="").encode(),
        urllib.parse.quote(SECRET).encode().lower(),
        urllib.parse.quote_plus(SECRET).encode(),
        b'pass\\"word/12+34',
        b'pass\\"word\\/12+34',
        json.dumps(json.dumps(SECRET))[3:-3].encode(),
    ],
)
def test_a_secret_is_masked_in_all_its_forms(form):
    assert Secrets([SECRET]).mask(b"key: " + form + b";") == b"key: " + MASK + b";"


@given(st.binary(max_size=5), st.binary(max_size=5), st.text("abcdefgh12345", min_size=12, max_size=40))
def test_a_secret_is_masked_inside_of_longer_base64(before, after, value):
    """As in an HTTP header: the user's name stands before the password."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        masked = Secrets([value]).mask(encode(before + value.encode() + after))
        left = masked.replace(MASK, b"")
        assert MASK in masked
        assert len(left) <= len(encode(before + after)) + 6


def test_short_values_and_other_text_are_left_alone():
    assert Secrets(["1", "debug"]).mask_text("debug level 1") == "debug level 1"
    assert Secrets([SECRET]).mask_text("nothing here") == "nothing here"


def test_each_line_of_a_long_secret_is_one():
    assert Secrets(["first-line-of-a-key\nshort\n"]).mask(b"x first-line-of-a-key y short") == b"x [secret] y short"


SHAPES = (
    "sk-ant-api03-" + "aB3" * 20, "sk-proj-" + "aB3" * 10, "ghp_" + "aB3" * 12, "github_pat_" + "aB3_" * 20, "glpat-" + "aB3-" * 6,
    "xoxb-123456789-abcdef", "AKIAIOSFODNN7EXAMPLE", "AIza" + "b" * 35, "npm_" + "a" * 36, "hf_" + "a" * 34,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w", "key_" + "a1" * 12,
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----",
)  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_what_looks_like_a_key_is_masked_unknown_as_it_is(shape):
    assert Secrets([]).mask(f"a {shape} b".encode()) == b"a [secret] b"


HEX = "3f786850e387550fdab836ed7e6dc881de23001b"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"token={HEX}", "token=[secret]"),
        (f'"api_key": "{HEX}"', '"api_key": "[secret]"'),
        (f"Authorization: Bearer {HEX}", "Authorization: Bearer [secret]"),
        (f'\\"client_secret\\": \\"{HEX}\\"', '\\"client_secret\\": \\"[secret]\\"'),
        (f"PASSWORD={HEX} next", "PASSWORD=[secret] next"),
        ("https://user:hunter22@example.com/x", "https://user:[secret]@example.com/x"),
    ],
)
def test_random_text_beside_a_secret_s_name_is_masked(text, masked):
    assert Secrets([]).mask_text(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        f"commit {HEX}", f"index {HEX[:7]}..{HEX[7:14]} 100644", f"sha256:{HEX}{HEX[:24]}", '"input_tokens": 123456789012345',
        "token = tokenizer.next_token()", "password = request.form['password']", "secret: str | None = None",
        "disk-usage-of-a-very-long-name-2024", "https://example.com/a:80@b", "sk-learn", "see https://example.com/token/abc",
    ],
)  # fmt: skip
def test_what_only_resembles_one_is_left_alone(text):
    """Git ids above all: they are no secrets, and logs without them are of no use."""
    assert Secrets([]).mask_text(text) == text


@given(st.data())
def test_a_stream_is_masked_whatever_its_pieces_are(data):
    values = [SECRET, KEY, "first line of it\nsecond line of it"]
    words = st.sampled_from(
        [
            *values,
            SECRET[:9],
            KEY[:20],
            "\n",
            "plain text ",
            "x" * 5000,
            "x " * 2500,
            "\n\n",
            base64.b64encode(KEY.encode()).decode(),
        ]
    )
    whole = "".join(data.draw(st.lists(words, max_size=8))).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    masking = Secrets(values).stream()
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    shown = b"".join([masking.feed(piece) for piece in pieces] + [masking.flush()])
    for value in values:
        assert value.encode() not in shown
        assert base64.b64encode(value.encode()) not in shown
    if not re.search(rb"[A-Za-z0-9+/_.~=-]{%d}" % HELD_BYTES, whole):  # a word by its shape, as far as it is held back
        assert shown == Secrets(values).mask(whole)


def test_what_may_be_a_known_value_and_ends_a_suspicious_word_is_held_back_with_all_of_it():
    whole = (KEY[:20] + SECRET[:9] + "x" * 5000).encode()
    masking = Secrets([SECRET, KEY]).stream()
    shown = masking.feed(whole) + masking.flush()
    assert shown == Secrets([SECRET, KEY]).mask(whole)
    assert shown.startswith(b"[secret]")


def test_a_stream_goes_on_line_by_line():
    masking = Secrets([KEY]).stream()
    assert masking.feed(b"one\ntw") == b"one\n"
    assert masking.feed(b"o\n") == b"two\n"
    assert masking.flush() == b""


def test_what_a_cut_has_left_of_a_secret_is_masked():
    """The supervisor cuts long outputs wherever the limit is."""
    cut = f"a {KEY[:20]}\n[swell: 99 bytes left out here]\n{KEY[20:]} b".encode()
    assert Secrets([KEY]).mask(cut) == b"a [secret]\n[swell: 99 bytes left out here]\n[secret] b"


def test_values_that_are_no_secrets_by_their_name_are_not_masked(monkeypatch):
    """A model's name or an address in the output is what prices and errors are read from."""
    for name, value in {
        "A_MODEL": "claude-sonnet-4-5",
        "A_BASE_URL": "https://example.com",
        "B_URL": "https://u:pw-of-u@h",
        "A_KEY": KEY,
    }.items():
        monkeypatch.setenv(name, value)
    known = gathered([ToolProfile(command="t", env_allow=("A_MODEL", "A_BASE_URL", "B_URL", "A_KEY"))])
    assert known.mask_text("claude-sonnet-4-5 https://example.com") == "claude-sonnet-4-5 https://example.com"
    assert known.holds(KEY.encode())
    assert known.holds(b"https://u:pw-of-u@h")


def test_ten_megabytes_take_less_than_a_second():
    """Of processor time: output of a tool with usual content, ten secrets."""
    line = json.dumps(
        {"usage": {"input_tokens": 5, "output_tokens": 9}, "text": "the token = next(tokens) " + "word " * 40}
    )
    data = (line + "\n").encode() * (10_000_000 // len(line))
    known = Secrets(f"{n}{KEY}" for n in range(10))
    started = time.process_time()
    known.mask(data)
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize(
    "piece",
    [b"token ", b"token=", b"sk-", b"eyJ", b"eyJa.", b"-----BEGIN PRIVATE KEY-----", b"key_", b"ghp_", b"://a:b", b"github_pat_",
     b"Bearer ", b"\n[swell: 1 bytes left out here]\n", b"AKIA", b"xoxb-", b"password: 'aaaaaaaaaaaaaaaaaaaa"],
)  # fmt: skip
def test_hostile_output_takes_no_longer(piece):
    """In processor time, for what is made to be looked at again and again."""
    data = piece * (1_000_000 // len(piece))
    known = Secrets([SECRET, KEY])
    started = time.process_time()
    known.mask(data)
    masking = known.stream()
    for start in range(0, len(data), 32_768):
        masking.feed(data[start : start + 32_768])
    masking.flush()
    assert time.process_time() - started < 1.0


# Quarantine


@pytest.mark.parametrize(
    "script",
    ['echo "$API_KEY" > a.txt', 'printf %s "$API_KEY" | base64 -w0 > a.txt', 'mkdir -p x; touch "a.txt" "$API_KEY"'],
)
async def test_a_snapshot_with_a_secret_in_it_is_kept_here_and_published_nowhere(bench, tmp_path, monkeypatch, script):
    monkeypatch.setenv("TEAM_KEY", KEY)
    run = Run(tmp_path, {"tool": sh(script, secrets={"API_KEY": "env:TEAM_KEY"})}, files_scope=("*",))
    done = await bench.do(run)
    assert (done.ok, done.error_class, done.snapshot, done.changed) == (False, "scope_violation", None, True)
    assert {artifact.role for artifact in done.artifacts} <= {"prompt", "log"}
    assert "holds a secret" in done.message
    ref = f"refs/swell/quarantine/{run.id}/ws-a/1"
    assert ref in done.message
    (mirror,) = bench.root.glob("mirrors/*.git")
    assert git(mirror, "diff", "--name-only", run.base.commit, ref)
    assert KEY not in msgspec.json.encode(done).decode()


async def test_large_and_many_files_are_searched(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("TEAM_KEY", KEY)
    script = 'for n in 1 2 3 4; do head -c 20000000 /dev/zero | tr "\\0" "$n" > $n.txt; done; echo "$API_KEY" >> 3.txt'
    run = Run(tmp_path, {"tool": sh(script, secrets={"API_KEY": "env:TEAM_KEY"})}, files_scope=("*",))
    done = await bench.do(run)
    assert done.violations == ["3.txt: holds a secret"]


# I12


def canaries(value: str) -> list[bytes]:
    """The forms that are looked for: made here, not by what is tested. Of base64 the part that does not depend on its place."""
    raw = value.encode()
    forms = [
        raw,
        urllib.parse.quote(value, safe="").encode(),
        urllib.parse.quote_plus(value).encode(),
        json.dumps(value)[1:-1].encode(),
    ]
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        forms += [encode(before + raw)[4:-4] for before in (b"", b"x", b"xy")]
    return [form for form in forms if len(form) >= 12]


async def test_no_canary_is_in_any_byte_that_is_kept(tmp_path, supervisor, monkeypatch, capfd, tell):
    """Planted in the environment, a file, prompts, reports, outputs, file names; looked for in stream, artifacts, logs, metrics."""
    of_env, of_file = 'canary-env/"Q7+zz9', "canary-file=Kx81&mmq2"
    monkeypatch.setenv("TEAM_KEY", of_env)
    (tmp_path / "key").write_text(of_file + "\n")
    (tmp_path / "key").chmod(0o600)
    secrets = {"secrets": {"A": "env:TEAM_KEY", "B": f"file:{tmp_path}/key"}}
    say = """for x in "$A" "$B"; do echo "$x"; echo "$x" >&2; printf 'u:%s' "$x" | base64 -w0; echo
        python3 -c 'import json,sys,urllib.parse as u; v=sys.argv[1]; print(json.dumps({"k":json.dumps(v)}), u.quote(v,safe=""), u.quote_plus(v))' "$x"
        done"""
    report = """python3 -c 'import json,os; print(json.dumps([{"code": os.environ["A"], "filename": "a.txt", "message": "bad " + os.environ["B"] + os.environ["A"],
        "location": {"row": 1, "column": 1}, "end_location": {"row": 1, "column": 2}}]))'; exit 1"""
    profiles = {
        "tool": sh(f"{say}\n{APPEND}", **secrets), "fails": sh(f"{say}\nexit 3", **secrets),
        "content": sh(f'{say}\necho "$A" > a.txt', **secrets), "name": sh('cd "$(dirname "$1")"; touch "x$B"', **secrets),
        "slow": sh(f"{say}\n{APPEND}; sleep 60", timeout_sec=1.0, **secrets),
        "missing": sh("true", secrets={"C": "env:NOBODY_SETS_THIS"}),
        "check": sh(report, report=Report(format="ruff-json"), success_exit_codes=(0,), **secrets),
        "check-b": sh(f'{say}\ntouch "x$B"; exit 1', **secrets),
    }  # fmt: skip
    told = (f"Use the key {of_env} and {of_file}", f"or base64 {base64.b64encode(of_env.encode()).decode()}")
    run = Run(tmp_path, profiles, tasks=told, hints=told, files_scope=("*",))
    server = MemoryServer()
    bus, beats = MemoryBus(server), MemoryBus()
    metrics = ExecutorMetrics(exposition := Exposition("executor"))
    steps = Steps(
        StepConfig(root=tmp_path / "state", slots=2), Artifacts(metrics.counted(bus.objects)), supervisor, bus
    )
    await steps.prepare()

    async def connected():
        return beats

    pulse = Pulse(connected, executor="e", boot="b", pool="p", slots=2)
    pulse.start()
    executor = Executor(bus, steps, pulse, Journal(tmp_path / "journal"), metrics)
    desk = Desk(MemoryBus(server))
    results = {}
    async with bus.hear(live_subject(run.id, "ws-a")) as live:
        running = asyncio.create_task(executor.run())
        try:
            for name in ("tool", "fails", "content", "name", "slow", "missing"):
                results[name] = await desk.finished(await ask(desk, run, pulse.pool, tool=name))
            checked = await desk.finished(await ask(desk, run, pulse.pool, "static", every_check=True))
            diagnostics = next(one for one in checked.artifacts if one.role == "diagnostics")
            fix = FixInput(step="static", attempt=7, diagnostics=diagnostics)
            results["fix"] = await desk.finished(await ask(desk, run, pulse.pool, "fix", fix=fix))
            single = msgspec.structs.replace(run.spec.checks, static_tools=("check-b",))
            run.spec, run.stored = msgspec.structs.replace(run.spec, checks=single), None
            await desk.finished(await ask(desk, run, pulse.pool, "static", every_check=True))
        finally:
            await executor.drain(0.0)
            running.cancel()
            await asyncio.wait({running})
            await pulse.close(terminated=False)
        said = [live.get_nowait()[1] for _ in range(live.qsize())]
    assert {name: done.error_class for name, done in results.items()} == {
        "tool": None, "fails": "tool_failed", "content": "scope_violation", "name": "scope_violation", "slow": "timeout",
        "missing": "auth", "fix": None,
    }  # fmt: skip
    logged = capfd.readouterr()
    kept = {
        "stream": [message.data for message in server.events.messages.values()],
        "artifacts": [
            data for name, data in server.objects.items() if not name.startswith("spec")
        ],  # the user's own words
        "beats": [message.data for kept in beats.server.buckets.values() for message in kept.messages.values()],
        "live": said,
        "logs": [logged.out.encode(), logged.err.encode()],
        "metrics": [exposition.text().encode()],
        "journal": [file.read_bytes() for file in (tmp_path / "journal").glob("*")],
    }
    for place, pieces in kept.items():
        for piece in pieces:
            for canary in (*canaries(of_env), *canaries(of_file)):
                assert canary not in piece, f"{canary!r} is in {place}: {piece[:2000]!r}"
    counted = {place: (len(pieces), sum(map(len, pieces))) for place, pieces in kept.items()}
    tell(f"scanned for canaries (pieces, bytes): {counted}")
    assert all(count[1] > 0 for place, count in counted.items() if place not in {"beats", "journal", "logs"}), counted
    assert sum(piece.count(MASK) for piece in (*kept["artifacts"], *kept["live"], *kept["stream"])) > 30


async def ask(desk: Desk, run: Run, pool: str, step: str = "edit", **fields):
    desk.pool = pool
    return await desk.ask(run, step, **fields)
