"""What AI tools say of themselves reaches the close of their attempts: small programs play captured tools."""

import asyncio
import json
import os
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from executor_rig import Bench, Run, processes, sh, until

from services.executor.adapters import adapter_of
from services.executor.tools import Listening, invoke
from services.outcome import Cost, Usage
from services.prices import Price, PriceTable, Tier
from services.process import Exit
from services.profiles import Result, ToolProfile, UsageFields

FIXTURES = Path(__file__).parents[1] / "tools" / "fixtures"
APPEND = 'echo new >> "$1"'
TWO_CALLS = Usage(input_tokens=2400, cache_read_tokens=10_000, cache_write_tokens=600, output_tokens=59)
LEAST = Usage(input_tokens=2400, cache_read_tokens=10_000, cache_write_tokens=600, output_tokens=2, lower_bound=True)


def tool(script, adapter="claude", **fields):
    return sh(
        f"cd '{FIXTURES}' && F=$PWD && cd - > /dev/null; {script}", type="ai", adapter=adapter, sandbox="none", **fields
    )


async def test_the_close_has_what_the_tool_used_and_cost(bench, tmp_path):
    run = Run(tmp_path, {"tool": tool(f'{APPEND}; cat "$F/claude_tool.ndjson"')})
    done = await bench.do(run)
    assert (done.ok, done.files, done.message) == (True, ["a.txt"], "")
    assert (done.usage, done.cost) == (TWO_CALLS, Cost(nano_usd=13_335_000, basis="reported"))
    assert (done.model, done.provider) == ("claude-sonnet-4-5", "anthropic")
    assert (done.session, done.denials) == ("3d548743-bcea-4f13-a9c8-701ccdc9e440", [])


@pytest.mark.parametrize(
    ("adapter", "script", "error_class", "said"),
    [
        ("claude", 'cat "$F/claude_401_r1.ndjson"', "auth", "Failed to authenticate"),
        ("claude", 'cat "$F/claude_529_r1.ndjson"; exit 1', "overloaded", "529"),
        ("claude", "exit 0", "protocol_error", "without a result line"),
        ("claude", "echo bad flag >&2; exit 1", "tool_failed", "exit code 1: bad flag"),
        ("codex", 'cat "$F/codex_429.ndjson"; exit 1', "rate_limited", "429 Too Many Requests"),
        ("gemini", 'cat "$F/gemini_401.err" >&2; exit 145', "auth", "mock quota"),
        ("opencode", 'cat "$F/opencode_400ctx.ndjson"; exit 1', "context_window", "mock error 400"),
        ("qwen", 'cat "$F/qwen_401.json"; exit 1', "auth", "401"),
    ],
)
async def test_what_the_harness_says_decides_whatever_was_changed(bench, tmp_path, adapter, script, error_class, said):
    done = await bench.do(Run(tmp_path, {"tool": tool(f"{APPEND}; {script}", adapter)}))
    assert (done.ok, done.error_class, done.changed) == (False, error_class, True)
    assert said in done.message


AIDER = ("--analytics-log", "{scratch}/aider.analytics.jsonl")


def aider(script):
    """A tool that gets its file, and then the path of its log as the last argument."""
    at = f"F='{FIXTURES}'; LOG=$3; {script}"
    return ToolProfile(
        command="sh",
        type="ai",
        adapter="aider",
        args=("-c", at, "tool", "{files}", *AIDER),
        timeout_sec=60,
        sandbox="none",
    )


async def test_aider_s_exit_code_0_hides_no_error(bench, tmp_path):
    begun = '{"event": "message_send_starting"}'
    profiles = {
        "tool": aider(f'echo \'{begun}\' > "$LOG"; cat "$F/aider_401.txt"'),
        "fine": aider(f'{APPEND}; cat "$F/aider_analytics.jsonl" > "$LOG"; cat "$F/aider_ok.txt"'),
    }
    run = Run(tmp_path, profiles, files_scope=("a.txt",))
    done = await bench.do(run)
    assert (done.ok, done.error_class, done.exit_code, done.usage) == (False, "auth", 0, None)
    done = await bench.do(run, tool="fine")
    assert (done.ok, done.usage, done.cost.nano_usd) == (True, Usage(input_tokens=6500, output_tokens=120), 11_200_000)
    assert done.model == "openai/mock-model"


async def test_a_tool_that_was_refused_its_tools_and_changed_nothing(bench, tmp_path):
    run = Run(
        tmp_path, {"tool": tool('cat "$F/claude_perm.json"'), "edits": tool(f'{APPEND}; cat "$F/claude_perm.json"')}
    )
    done = await bench.do(run)
    assert (done.ok, done.error_class, done.denials) == (False, "permission_denied", ["Bash"])
    assert "refused Bash" in done.message
    assert done.cost.nano_usd == 13_335_000
    done = await bench.do(run, tool="edits")
    assert (done.ok, done.denials) == (True, ["Bash"])


async def test_a_success_that_changed_nothing_is_none_and_has_its_cost(bench, tmp_path):
    done = await bench.do(Run(tmp_path, {"tool": tool('cat "$F/claude_tool.ndjson"')}))
    assert (done.ok, done.error_class, done.usage) == (False, "no_change", TWO_CALLS)


async def test_what_the_provider_asks_for_is_told(bench, tmp_path):
    done = await bench.do(Run(tmp_path, {"tool": tool('cat "$F/opencode_429.ndjson"; exit 1', "opencode")}))
    assert (done.error_class, done.retry_after_s) == ("rate_limited", 1.0)
    window = '{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1795415758}}'
    script = f"echo '{window}'; cat \"$F/claude_429_r1.ndjson\"; exit 1"
    done = await bench.do(Run(tmp_path, {"tool": tool(script)}))
    assert (done.error_class, done.resets_at_ns) == ("usage_limit", 1_795_415_758 * 10**9)


async def test_what_could_not_be_read_is_said_and_fails_nothing(bench, tmp_path):
    result = '{"type":"result","usage":{"input_tokens":-5}}'
    done = await bench.do(Run(tmp_path, {"tool": tool(f"{APPEND}; echo '{result}'")}))
    assert (done.ok, done.usage) == (True, None)
    assert "numbers that cannot be" in done.message


async def test_a_secret_in_an_error_of_the_provider_is_masked(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "sk-very-secret-1")
    fault = json.dumps({"type": "turn.failed", "error": {"message": "Incorrect API key: sk-very-secret-1"}})
    run = Run(tmp_path, {"tool": tool(f"echo '{fault}'; exit 1", "codex", env_allow=("SOME_API_KEY",))})
    done = await bench.do(run)
    assert "Incorrect API key: [secret]" in done.message


@pytest.mark.parametrize(("model", "basis"), [("gpt-5-codex", "list"), (None, None), ("no-such-model", None)])
async def test_a_tool_that_names_no_model_is_priced_by_that_of_its_profile(bench, tmp_path, model, basis):
    script = f'{APPEND}; cat "$F/codex_ok.ndjson"'
    done = await bench.do(Run(tmp_path, {"tool": tool(script, "codex", model=model, provider="openai")}))
    assert (done.ok, done.model, done.provider) == (True, model or "", "openai")
    assert (done.cost.basis if done.cost is not None else None) == basis
    assert done.cost == done.list_cost


# Tools that are ended


PARTLY = f'{APPEND}; grep -v total_cost "$F/claude_tool.ndjson"; sleep 60'


async def test_a_tool_that_ran_out_of_time_has_used_at_least_so_much(bench, tmp_path):
    done = await bench.do(Run(tmp_path, {"tool": tool(PARTLY)}), timeout_s=1.0)
    assert (done.error_class, done.usage) == ("timeout", LEAST)
    assert done.cost == done.list_cost  # the tool did not say what it cost: what its usage costs by the list
    assert (done.cost.basis, done.cost.nano_usd > 0) == ("list", True)


async def test_a_tool_that_hangs_after_its_result_has_said_its_totals(bench, tmp_path):
    done = await bench.do(
        Run(tmp_path, {"tool": tool(f'{APPEND}; cat "$F/claude_tool.ndjson"; sleep 60')}), timeout_s=1.0
    )
    assert (done.error_class, done.usage) == ("timeout", TWO_CALLS)


@pytest.mark.parametrize(("name", "error_class"), [("claude_tool", None), ("claude_401_r1", "auth")])
async def test_a_tool_that_has_said_its_last_word_and_does_not_end_is_ended(
    bench, tmp_path, supervisor, name, error_class
):
    """Its word counts, whatever the exit code of its end; nothing of it lives."""
    impatient = Bench(tmp_path, supervisor, bench.artifacts, bench.steps.bus, root=bench.root, linger_s=0.3)
    run = Run(tmp_path, {"tool": tool(f'{APPEND}; cat "$F/{name}.ndjson"; sleep 60')})
    done = await impatient.do(run)
    assert (done.ok, done.error_class, done.exit_code) == (error_class is None, error_class, None)
    assert done.usage is not None
    assert done.tool_wall_s < 20
    assert processes(f"SWELL_ATTEMPT={run.id}/") == {}


async def test_a_tool_that_goes_on_talking_after_a_result_is_not_ended(bench, tmp_path, supervisor):
    impatient = Bench(tmp_path, supervisor, bench.artifacts, bench.steps.bus, root=bench.root, linger_s=1.0)
    talking = 'for n in 1 2 3 4 5 6 7 8; do echo "{}"; sleep 0.25; done'
    run = Run(tmp_path, {"tool": tool(f'cat "$F/claude_tool.ndjson"; {talking}; {APPEND}')})
    done = await impatient.do(run)
    assert (done.ok, done.exit_code) == (True, 0)


async def stopped(bench, run):
    command = await run.command(bench.artifacts)
    task = asyncio.create_task(bench.steps.run(command))
    marker = f"SWELL_ATTEMPT={run.id}/ws-a/1"
    await until(lambda: any(line.startswith("sleep 60") for line in processes(marker).values()))
    await asyncio.sleep(0.05)  # that it was started has been heard as well
    task.cancel()
    await asyncio.wait({task})
    return bench.steps.stopped((run.id, "ws-a", 1))


async def test_what_a_stopped_tool_used_is_kept_with_its_work(bench, tmp_path):
    left = await stopped(bench, Run(tmp_path, {"tool": tool(PARTLY)}))
    assert (left.kept.usage, left.kept.changed, left.whole) == (LEAST, True, False)
    assert left.kept.session == "3d548743-bcea-4f13-a9c8-701ccdc9e440"


async def test_what_a_stopped_tool_used_is_kept_when_its_work_cannot_be(bench, tmp_path, supervisor):
    class Stuck:
        async def put(self, role, data):
            if role in {"spec", "prompt"}:
                return await bench.artifacts.put(role, data)
            return await asyncio.Event().wait()

        get = staticmethod(bench.artifacts.get)

    slow = Bench(tmp_path, supervisor, bench.artifacts, bench.steps.bus, root=bench.root, keep_work_timeout_s=0.2)
    slow.steps.artifacts = Stuck()
    left = await stopped(slow, Run(tmp_path, {"tool": tool(PARTLY)}))
    assert (left.kept.usage, left.kept.snapshot, left.kept.ok) == (LEAST, None, False)


# Tools that spend more than they may

SPENDS = Result(format="ndjson", repeated="sum", cost_usd="/usd", usage=UsageFields(output="/out"), model="/model")
CENT = 10**7


def spender(script, **fields):
    fields = {"adapter": "generic", "result": SPENDS, **fields}
    return sh(f"{APPEND}; {script}", type="ai", sandbox="none", cost_cap_usd=1.0, **fields)


def spending(usd, pause="sleep 0.1"):
    return f'while :; do echo \'{{"usd": {usd}, "out": 100}}\'; {pause}; done'


async def capped(bench, run, cents, **fields):
    return await bench.do(run, cap="enforced", cap_nano=cents * CENT, **fields)


NOISE = "head -c 3000000 /dev/zero | tr '\\0' 'x'; echo"


@pytest.mark.parametrize("before", ["", NOISE], ids=["at once", "after more than is kept of its output"])
async def test_a_tool_that_spends_more_than_it_may_and_goes_on_is_ended(bench, tmp_path, before):
    run = Run(tmp_path, {"tool": spender(f"{before}\n{spending(0.05)}", output_bytes=200_000)})
    done = await capped(bench, run, 20)
    assert (done.ok, done.error_class, done.exit_code) == (False, "budget", None)
    assert (done.changed, done.files, done.snapshot is not None) == (True, ["a.txt"], True)
    assert (done.usage.lower_bound, done.usage.output_tokens >= 500) == (True, True)
    assert (done.cost.basis, done.cost.nano_usd >= 25 * CENT) == ("reported", True)
    assert "more than the $0.20" in done.message
    assert "cost_cap_usd" in done.message
    assert done.tool_wall_s < 10
    assert processes(f"SWELL_ATTEMPT={run.id}/") == {}


async def test_a_tool_that_says_tokens_alone_is_held_by_their_price(bench, tmp_path):
    message = '{"type":"assistant","message":{"id":"m%s","model":"claude-sonnet-4-5","usage":{"input_tokens":9000}}}'
    talks = f"n=0; while :; do n=$((n + 1)); printf '{message}\\n' $n; sleep 0.05; done"
    run = Run(tmp_path, {"tool": spender(talks, adapter="claude", result=None)})
    done = await capped(bench, run, 10)
    assert (done.error_class, done.usage.lower_bound, done.cost.basis) == ("budget", True, "list")
    assert done.cost.nano_usd > 10 * CENT


async def test_a_tool_that_stays_below_its_cap_is_left_alone(bench, tmp_path):
    below = "; ".join(['echo \'{"usd": 0.05, "out": 100}\'; sleep 0.3'] * 4)
    done = await capped(bench, Run(tmp_path, {"tool": spender(below)}), 20)
    assert (done.ok, done.cost.nano_usd, done.usage) == (True, 20 * CENT, Usage(output_tokens=400))


TIERED = Price(
    model="tiered",
    effective=date(2026, 1, 1),
    source="a test",
    input=Decimal(1),
    output=Decimal(1),
    tiers=(Tier(above_input_tokens=100_000, input=Decimal(3), output=Decimal(3)),),
)


@pytest.mark.parametrize(
    ("told", "reading", "cents"),
    [
        ([{"in": n * 90_000} for n in range(1, 5)], {"repeated": "last"}, 108),
        ([{"in": 90_000, "turns": 1}] * 4, {"repeated": "sum", "turns": "/turns"}, 36),
    ],
    ids=["totals", "sums"],
)
async def test_tokens_of_many_requests_hold_nobody_to_the_dearest_tier(bench, tmp_path, told, reading, cents):
    """While it runs the lowest price counts, for nobody knows which request was how large; the close has its own reading."""
    bench.steps.prices = PriceTable((TIERED,), fallback="none")
    result = Result(format="ndjson", usage=UsageFields(input="/in"), model="/model", **reading)
    says = "; ".join(f"echo '{json.dumps({**one, 'model': 'tiered'})}'" for one in told)
    done = await capped(bench, Run(tmp_path, {"tool": spender(f"{says}; sleep 1.8", result=result)}), 50)
    assert (done.ok, done.message, done.cost.nano_usd) == (True, "", cents * CENT)


async def test_a_tool_that_names_no_model_is_held_by_the_price_of_its_profile_s(bench, tmp_path):
    result = Result(format="ndjson", repeated="sum", usage=UsageFields(output="/out"))
    talks = "while :; do echo '{\"out\": 9000}'; sleep 0.1; done"
    done = await capped(bench, Run(tmp_path, {"tool": spender(talks, result=result, model="claude-sonnet-4-5")}), 10)
    assert (done.error_class, done.model, done.cost.basis) == ("budget", "claude-sonnet-4-5", "list")
    unknown = spender("echo '{\"out\": 9000}'; sleep 0.5", result=result, model="nobody-s")
    done = await capped(bench, Run(tmp_path, {"tool": unknown}), 10)
    assert b"no price is known for 'nobody-s'" in await bench.read(done, "log")


async def test_a_tool_that_ends_by_itself_with_its_last_answer_is_left_alone(bench, tmp_path):
    done = await capped(bench, Run(tmp_path, {"tool": spender("echo '{\"usd\": 9}'; sleep 0.5")}), 20)
    assert (done.ok, done.cost.nano_usd) == (True, 900 * CENT)


@pytest.mark.parametrize("usd", ["-5", "NaN", "1e400", '"9"', "[1]", "1000000000000", "null", "true"])
async def test_a_tool_that_lies_about_its_costs_breaks_nothing(bench, tmp_path, usd):
    lies = f'echo \'{{"usd": {usd}, "out": {usd}}}\'; sleep 0.6'
    done = await capped(bench, Run(tmp_path, {"tool": spender(lies)}), 20)
    assert (done.ok, done.cost) == (True, None)


async def test_what_has_no_price_ends_nothing_and_is_told_once(bench, tmp_path):
    unknown = 'for n in 1 2 3; do echo \'{"out": 900000000, "model": "nobody-s"}\'; sleep 0.5; done'
    done = await capped(bench, Run(tmp_path, {"tool": spender(unknown)}), 20)
    assert (done.ok, done.cost) == (True, None)
    said = (await bench.read(done, "log")).decode()
    assert said.count("no price is known for 'nobody-s'") == 1
    assert "$0.20: add it to your price file" in said
    turn = '{"type": "turn.completed", "usage": {"input_tokens": 9, "output_tokens": 9}}'
    done = await capped(bench, Run(tmp_path, {"tool": spender(f"echo '{turn}'", adapter="codex", result=None)}), 20)
    said = (await bench.read(done, "log")).decode()
    assert "[swell: the tool told neither its model nor its costs" in said
    assert "name its `model` in its profile" in said


# Output of any kind and size


async def test_output_that_is_cut_was_heard_all_the_same(bench, tmp_path):
    noise = "head -c 3000000 /dev/zero | tr '\\0' 'x'; echo"
    run = Run(
        tmp_path,
        {
            "tool": tool(f'{APPEND}; {noise}; cat "$F/claude_tool.ndjson"', output_bytes=200_000),
            "sums": tool(f'{APPEND}; {noise}; cat "$F/opencode.ndjson"', "opencode", output_bytes=200_000),
        },
    )
    done = await bench.do(run)
    assert (done.ok, done.usage, done.cost.nano_usd) == (True, TWO_CALLS, 13_335_000)
    done = await bench.do(run, tool="sums")
    assert (done.ok, done.usage.lower_bound, done.usage.output_tokens) == (True, False, 240)


def ended(exit_code: int | None = 0) -> Exit:
    return Exit(
        exit_code=exit_code, signal=None, ended_by="itself", wall_s=0.0, cpu_s=0.0, max_rss_bytes=0, stdout_bytes=0,
        stderr_bytes=0, stdout_truncated=False, stderr_truncated=False, survivors=0,
    )  # fmt: skip


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir, lambda path: None])
async def test_a_file_in_the_place_of_the_log_that_is_none_holds_nobody_up(tmp_path, make):
    profile = ToolProfile(
        command="t", type="ai", adapter="generic", result=Result(format="json", source="{scratch}/log", model="/m")
    )
    make(tmp_path / "log")
    listening = Listening(profile, {}, tmp_path, limit_bytes=1000, linger_s=1.0)
    async with listening:
        pass
    assert listening.outcome(ended()).model == ""


async def test_a_log_is_read_up_to_its_limit(tmp_path):
    profile = ToolProfile(
        command="t", type="ai", adapter="generic", result=Result(format="ndjson", source="{scratch}/log", model="/m")
    )
    (tmp_path / "log").write_bytes(b'{"m": "first"}\n' + b" " * 1000 + b'\n{"m": "beyond"}\n')
    listening = Listening(profile, {}, tmp_path, limit_bytes=1000, linger_s=1.0)
    async with listening:
        pass
    assert listening.outcome(ended()).model == "first"
    assert adapter_of(profile) is not None


# What a tool is started with


async def test_a_home_of_its_own_with_the_profile_s_files_and_no_session_of_ours(bench, tmp_path, monkeypatch):
    for name in ("CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SSE_PORT", "CODEX_HOME", "GEMINI_CLI"):
        monkeypatch.setenv(name, "inherited")
    look = tool(
        'env > a.txt; cat "$HOME/.tool/deep/settings.json" > b.txt; stat -c %a "$HOME/.tool" "$HOME/.tool/top" >> b.txt',
        None,
        home_files={".tool/deep/settings.json": '{"at": "{run}", "a": {"b": 1}}', ".tool/top": ""},
    )
    run = Run(tmp_path, {"tool": look})
    done = await bench.do(run)
    environment = bench.content(run, done.snapshot, "a.txt")
    assert "inherited" not in environment
    assert f"HOME={bench.root}/scratch/" in environment
    assert bench.content(run, done.snapshot, "b.txt") == '{"at": "{run}", "a": {"b": 1}}700\n600'


@pytest.mark.parametrize("path", [".tool/settings.json", "settings.json"])
async def test_a_link_in_the_home_folder_is_not_followed(supervisor, tmp_path, path):
    """A setup command of the repository was there before."""
    home, outside = tmp_path / "home", tmp_path / "outside"
    home.mkdir()
    outside.mkdir()
    (home / ".tool").symlink_to(outside)
    (home / "settings.json").symlink_to(outside / "settings.json")
    invocation = await invoke(
        supervisor, ToolProfile(command="true", home_files={path: "{}"}), {}, cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(home)}, scratch=tmp_path, timeout_s=20, output_bytes=1000, marker="m",
    )  # fmt: skip
    assert list(outside.iterdir()) == []
    assert invocation.ok == (path == "settings.json")
    assert invocation.error == (None if invocation.ok else "spawn_failed")


async def test_a_group_of_arguments_is_there_only_when_its_value_is(bench, tmp_path):
    look = ToolProfile(
        command="sh",
        args=(
            "-c",
            'shift; printf "%s " "$@" > a.txt',
            "tool",
            "x",
            ["--model", "{some_model}"],
            ["--cap", "{max_cost_usd}"],
        ),
    )
    run = Run(tmp_path, {"tool": look}, max_cost_usd=0.25)
    done = await bench.do(run)
    assert bench.content(run, done.snapshot, "a.txt") == "--cap 0.25"


async def test_the_codex_home_lies_outside_the_temporary_folder(bench, tmp_path):
    """Codex refuses to work, silently, when its home is below the folder for temporary files."""
    script = "import os, pathlib; pathlib.Path('a.txt').write_text(os.environ['HOME'] + ' ' + os.environ['TMPDIR'])"
    run = Run(tmp_path, {"tool": ToolProfile(command=sys.executable, args=("-c", script))})
    home, temporary = bench.content(run, (await bench.do(run)).snapshot, "a.txt").split()
    assert not home.startswith(temporary)
