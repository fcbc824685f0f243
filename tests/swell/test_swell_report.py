"""A page that nothing in it can steer, that stays a size that opens, and lines that fit what they are written for."""

import io
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.listing import attempt_lines, when
from swell.report.figures import STEPS, Spread
from swell.report.material import Definition, Diff, Material
from swell.report.page import page, shown_diff
from swell.report.terminal import path_text, report_lines
from swell.report.timeline import Scale
from swell.screen import Cell, Screen
from swell.standing import RunStatus
from swell.tables import json_line
from swell.text import many
from swell.values import (
    Attempt,
    CriticalLink,
    Difference,
    Event,
    Evidence,
    LedgerStatus,
    Metrics,
    Patch,
    Recommendation,
    Run,
    Wave,
    Workstream,
)

S = 10**9
START = 1_790_000_000 * S
HOSTILE = "</script><img src=x onerror=alert(1)>\u202etxt.exe\x00\x1b[31m\u2028{{ 7*7 }}\"'><!--"


def made(kind: type[Any], /, **given: Any) -> Any:
    """A value with what is given, and nothing in all else."""
    empty = {"str": "", "int": 0, "bool": False, "float": 0.0}
    required = [field for field in msgspec.structs.fields(kind) if field.required and field.name not in given]
    return kind(**{field.name: empty.get(getattr(field.type, "__name__", ""), []) for field in required}, **given)


def a_run(**given: Any) -> Run:
    told = {"run": "r1", "state": "completed", "submitted_ns": START, "finished_ns": START + 60 * S}
    return made(Run, **{**told, **given})


def an_attempt(workstream: str, number: int, step: str, at: int, **given: Any) -> Attempt:
    told = {
        "run": "r1", "workstream": workstream, "attempt": number, "step": step, "state": "finished", "ok": True, "exit_code": 0,
        "scheduled_ns": START + at * S, "started_ns": START + at * S, "closed_ns": START + (at + 1) * S,
    }  # fmt: skip
    return made(Attempt, **{**told, **given})


def a_workstream(name: str, wave: int = 0, **given: Any) -> Workstream:
    told = {"state": "completed", "started_ns": START, "finished_ns": START + 5 * S}
    return made(Workstream, run="r1", workstream=name, wave=wave, **{**told, **given})


def metrics(**given: Any) -> Metrics:
    return made(Metrics, **{"worker_utilization": None, **given})


def link(workstream: str, length_s: float, kind: str = "step") -> CriticalLink:
    return made(CriticalLink, kind=kind, workstream=workstream, duration_s=length_s)


def material(run: Run, workstreams: list[Workstream], attempts: list[Attempt], **given: Any) -> Material:
    return made(
        Material,
        run=run,
        workstreams=workstreams,
        attempts=attempts,
        **{
            "definition": Definition(),
            "findings": {},
            "metrics": metrics(),
            "status": made(LedgerStatus),
            "read_ns": START + 60 * S,
            **given,
        },
    )


class Seen(HTMLParser):
    """The elements of a page, their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.headings: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.open += [] if tag == "meta" else [tag]
        self.headings += [tag] if re.fullmatch(r"h\d", tag) else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile() -> Material:
    """Every text that comes from outside tries to steer the page."""
    words = {"reason": HOSTILE, "actor": HOSTILE, "repository": HOSTILE, "delivered_ref": HOSTILE, "tenant": HOSTILE}
    run = a_run(state="partial", labels={HOSTILE: HOSTILE}, delivered_commit=HOSTILE, delivered_remote=HOSTILE, **words)
    failed = an_attempt(
        HOSTILE, 1, "edit", 1, ok=False, error_class=HOSTILE, message=HOSTILE, executor=HOSTILE, tool=HOSTILE,
        model=HOSTILE, provider=HOSTILE, basis=HOSTILE, cost_nano=7, signature=HOSTILE, on_behalf=HOSTILE,
    )  # fmt: skip
    checks = msgspec.json.encode([{"name": HOSTILE, "outcome": HOSTILE, "message": HOSTILE}]).decode()
    gate = an_attempt("_line", 1, "gate", 2, checks_json=checks, on_behalf=HOSTILE, commit=HOSTILE)
    patch = made(Patch, run="r1", workstream=HOSTILE, state=HOSTILE, size_bytes=3)
    event = made(
        Event, kind="merge_refused", run="r1", time_ns=START, payload={"workstream": HOSTILE, "message": HOSTILE}
    )
    return material(
        run,
        [a_workstream(HOSTILE, state="failed", reason=HOSTILE, tool=HOSTILE)],
        [failed, failed, gate],
        waves=[Wave(run="r1", wave=0, started_ns=START, finished_ns=START + 9 * S, workstreams=1)],
        events=[event],
        findings={(HOSTILE, 1): [HOSTILE]},
        diffs=[Diff(workstream=HOSTILE, patch=patch, text=f"diff --git a b\n@@ -1 +1 @@\n+{HOSTILE}\n-{HOSTILE}")],
    )


def test_a_page_is_steered_by_nothing_that_it_shows() -> None:
    text = page(hostile())
    seen = Seen(text)
    assert seen.tags.isdisjoint({"script", "img", "iframe", "object", "embed", "link", "base", "form", "svg"})
    assert not any(name.startswith("on") or name in {"src", "srcdoc", "action"} for name in seen.attributes)
    assert not seen.open, "every element is closed, and none by what is shown"
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028]", text)
    assert "</script><img src=x onerror=alert(1)>\\u202etxt.exe\\x00" in seen.text
    assert "{{ 7*7 }}" in seen.text
    assert "49" not in seen.text.partition("7*7")[2][:10]


def test_a_page_fetches_nothing_and_says_so() -> None:
    text = page(hostile())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    assert policy[1].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert re.findall(r'href="(?!#)|url\(|@import|http://|https://', text) == []


def test_a_page_has_an_outline_and_its_tables_have_headings() -> None:
    text = page(hostile())
    assert Seen(text).headings[:2] == ["h1", "h2"]
    for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
        assert '<th scope="col"' in table
    targets = re.findall(r'href="#([\w-]+)"', text)
    assert targets
    assert all(f'<section id="{target}">' in text for target in targets)


def test_what_is_written_can_be_read_on_what_it_is_written_on() -> None:
    style = (files("swell.report") / "page.css").read_text()
    themes = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(themes) == 3, "light, dark, on paper"
    light = dict(re.findall(r"--([\w-]+): (#\w{6})", themes[0]))
    for theme in themes:
        colour = {**light, **dict(re.findall(r"--([\w-]+): (#\w{6})", theme))}
        pairs = [(text, ground) for text in ("text", "soft", "link") for ground in ("ground", "panel", "band")]
        pairs += [(state, "ground") for state in ("good", "bad", "wait", "odd")]
        pairs += [("add-text", "add"), ("del-text", "del"), ("hunk-text", "hunk")]
        found = {pair: contrast(colour[pair[0]], colour[pair[1]]) for pair in pairs}
        found |= {("white", step): contrast("#ffffff", colour[step]) for step in STEPS}
        assert {pair: ratio for pair, ratio in found.items() if ratio < 4.5} == {}


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG 2 defines it."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    brighter, darker = sorted((light(one), light(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def test_lines_are_steered_by_nothing_that_they_show() -> None:
    text = "\n".join(report_lines(hostile(), Screen(80)))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028]", text)


def test_a_run_of_two_thousand_workstreams_is_a_page_that_opens() -> None:
    names = [f"ws-{number:04}" for number in range(2000)]
    rows = [a_workstream(name, number // 200) for number, name in enumerate(names)]
    steps = ("edit", "static", "fix", "static", "runtime")
    attempts = [
        an_attempt(name, number, step, number + at, tool="claude", model="opus", cost_nano=10**7, cap="soft")
        for at, name in enumerate(names)
        for number, step in enumerate(steps, 1)
    ]
    waves = [
        Wave(run="r1", wave=wave, started_ns=START + wave * S, finished_ns=START + (wave + 1) * S, workstreams=200)
        for wave in range(10)
    ]
    text = page(material(a_run(workstreams=2000, completed=2000), rows, attempts, waves=waves))
    assert len(text.encode()) < 3 * 2**20
    assert text.count('<div class="lane') == 200
    assert "1800 more workstreams are not drawn" in text
    assert "the newest 500 of 10000" in text
    assert all(f">{name}</th>" in text for name in names), "every workstream has its row"
    assert 'value="100000000000">$100.00' in text


def test_a_diff_is_shown_by_kinds_of_lines() -> None:
    text = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n same\n--- a minus\n+++ a plus\ndiff --git a/b b/b\nGIT binary patch\nliteral 5\nxyz"
    shown = shown_diff(
        Diff(workstream="a", patch=made(Patch, files_total=2, size_bytes=10), text=text, cut_bytes=5 * 2**20)
    )
    assert [kind for kind, _ in shown.blocks] == ["file", "same", "hunk", "same", "del", "add", "file", "same"]
    assert shown.blocks[-1] == ("same", "GIT binary patch")
    assert shown.about.startswith("2 files, at least +1 −1")  # noqa: RUF001 - a minus
    assert shown.cut == "5.0 MiB"


def test_a_cut_diff_names_the_command_that_shows_the_rest() -> None:
    patch = made(Patch, workstream="ws-a", size_bytes=10 * 2**20)
    cut = Diff(workstream="ws-a", patch=patch, text="+" + "x" * 100_000, cut_bytes=10 * 2**20 - 100_001)
    text = page(material(a_run(), [a_workstream("ws-a")], [], diffs=[cut], diffs_left=3))
    assert "swell diff r1 ws-a" in text
    assert "3 more diffs are not shown" in text
    assert len(text) < 50_000, "a line is cut as well"


def test_a_run_that_has_not_begun_has_a_page() -> None:
    text = page(material(a_run(state="pending", finished_ns=0), [], []))
    assert "Nothing has begun." in text
    assert Seen(text).open == []


# How a run stands


def status_of(run: Run, workstreams: list[Workstream], attempts: list[Attempt]) -> list[str]:
    return RunStatus(run, workstreams, [], attempts, START + 60 * S).lines(Screen(80))


OPEN = {"ok": False, "closed_ns": 0}


@pytest.mark.parametrize(
    ("item", "attempt", "said"),
    [
        ({"state": "editing"}, {**OPEN, "executor": "e1", "tool": "claude"}, "edit by claude on e1, for 50.0 s"),
        ({"state": "ready"}, {**OPEN, "started_ns": 0, "pool": "gpu"}, "edit waits for a free slot in pool gpu, for 50.0 s"),
        ({"state": "ready", "waiting_for": "tool_breaker", "waiting_reason": "claude is down", "waiting_until_ns": START}, {},
         f"waits for tool breaker until {when(START)}: claude is down"),
        ({"state": "blocked", "reason": "dependency ws-z failed"}, {}, "dependency ws-z failed"),
        ({"state": "failed", "reason": "red", "fix_limit": "max_fix_iterations"}, {}, "red (FIX ended: max fix iterations)"),
    ],
)  # fmt: skip
def test_a_workstream_says_what_it_waits_for(item: dict[str, Any], attempt: dict[str, Any], said: str) -> None:
    told = {"finished_ns": 0, **item}
    lines = status_of(
        a_run(state="running"), [a_workstream("ws-a", **told)], [an_attempt("ws-a", 1, "edit", 10, **attempt)]
    )
    assert lines[-1] == f"      {said}"


def test_what_is_merged_needs_no_words() -> None:
    lines = status_of(a_run(), [a_workstream("ws-a", reason="merged")], [])
    assert lines[-1].split() == ["1", "ws-a", "completed", "5.0", "s", "-", "-", "-"]


def test_a_run_says_how_far_it_is_and_what_it_has_cost() -> None:
    run = a_run(
        state="paused", reason="waits for the review of ws-a", finished_ns=0, workstreams=4, completed=1, awaiting_review=1,
        labels={"team": "core"},
    )  # fmt: skip
    rows = [a_workstream("ws-a", state="awaiting_review"), a_workstream("ws-b")]
    dear = an_attempt(
        "ws-b", 1, "edit", 1, cost_nano=25 * 10**7, cap="soft", input_tokens=12_345, output_tokens=2_000_000
    )
    lost = an_attempt("ws-a", 1, "edit", 1, cap="soft", ok=False)
    lines = status_of(run, rows, [dear, lost])
    assert lines[0] == "run r1 paused: waits for the review of ws-a"
    for fact in (
        "1/4 completed, 1 in review, 2 not begun",
        "1 min 00 s so far",
        "$0.25, and that of 1 of 2 attempts, which nobody knows",
        "12.3k in, 2.0M out",
        "1 waits for a person: swell review list --run r1",
        "team=core",
    ):
        assert any(line.endswith(fact) for line in lines), fact


# The line of time

_spans = st.lists(st.tuples(st.integers(0, 10**14), st.integers(0, 10**12)), max_size=20)


@given(_spans, st.lists(st.integers(0, 10**14), min_size=2))
def test_a_later_time_never_stands_further_left(spans: list[tuple[int, int]], times: list[int]) -> None:
    scale = Scale.of(0, 10**14, [(start, start + length) for start, length in spans])
    places = [scale.at(time) for time in sorted(times)]
    assert places == sorted(places)
    assert (scale.at(0), round(scale.at(10**14), 6)) == (0, 100)


def test_a_long_rest_is_drawn_short() -> None:
    scale = Scale.of(0, 3600 * S, [(0, 10 * S), (3590 * S, 3600 * S)])
    assert [span.is_gap for span in scale.spans] == [False, True, False]
    assert scale.at(10 * S) == pytest.approx(100 - scale.at(3590 * S))
    assert scale.at(10 * S) > 45


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_quantiles_are_among_the_lengths(lengths: list[float]) -> None:
    spread = Spread.of(lengths)
    assert min(lengths) <= spread.p50_s <= spread.p95_s * (1 + 1e-9) <= spread.max_s * (1 + 2e-9)
    assert spread.max_s == max(lengths)


# What lines are written for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_whole_lines_without_colour() -> None:
    assert Screen.of(io.StringIO(), {"TERM": "xterm"}) == Screen()


@pytest.mark.parametrize(
    ("environ", "colour"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({}, False)],
)
def test_a_terminal_gets_colour_unless_somebody_minds(environ: dict[str, str], colour: bool) -> None:
    assert Screen.of(Terminal(), environ).colour is colour


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit_the_terminal(width: int) -> None:
    rows = [a_workstream(f"ws-{number}", state="failed", reason="why " * 40, tool="t" * 30) for number in range(3)]
    attempts = [
        an_attempt(row.workstream, 1, "edit", 1, ok=False, error_class="timeout", message="m " * 100, tool="tool-" * 9)
        for row in rows
    ]
    found = material(a_run(reason="because " * 30), rows, attempts)
    lines = report_lines(found, Screen(width))
    assert [line for line in lines if len(line) > width] == []
    painted = report_lines(found, Screen(width, colour=True))
    assert painted != lines
    assert [re.sub("\x1b\\[[0-9]*m", "", line) for line in painted] == lines


def test_a_table_cuts_only_the_column_that_gives() -> None:
    lines = Screen(30).table(["a", "long"], [[Cell("12", right=True), "x" * 100]])
    assert lines == [" a  long", "12  " + "x" * 25 + "…"]
    assert Screen().table(["a", "long"], [["12", "x" * 100]])[1] == "12  " + "x" * 100


def test_advice_stands_in_every_form_with_the_numbers_behind_it() -> None:
    advice = Recommendation(
        category="workers",
        current_value="8",
        recommended_value="2",
        expected_improvement="6 slots for other runs",
        reasoning="never more than 2 ran </p><script>",
        evidence=[Evidence(name="peak_parallelism", value=2.0, source="attempts of r1")],
    )
    found = material(
        made(Run, run="r1", state="completed"), [a_workstream("ws-a")], [], metrics=metrics(recommendations=[advice])
    )
    lines = "\n".join(report_lines(found, Screen(80, colour=False)))
    assert "workers: 8 -> 2" in lines
    assert "swell stats r1" in lines
    text = page(found)
    assert "never more than 2 ran &lt;/p&gt;&lt;script&gt;" in text
    assert "peak_parallelism" in text
    assert msgspec.json.decode(found.json())["recommendations"][0]["evidence"][0]["value"] == 2.0


def test_the_path_and_the_use_of_slots_are_the_ledgers_in_every_form() -> None:
    """Not what the times of workstreams would say: ws-b, which only waited, is not on the path."""
    links = [
        link("ws-a", 1, "queue"), link("ws-a", 20), link("_line", 4),
        link("ws-c", 30), link("", 5, "wait"),
    ]  # fmt: skip
    given = metrics(worker_utilization=0.083, utilization_basis="executors", critical_path=links)
    rows = [a_workstream("ws-a"), a_workstream("ws-b", finished_ns=START + 60 * S), a_workstream("ws-c")]
    found = material(a_run(), rows, [], metrics=given, definition=Definition(workers=3))
    path = "ws-a (21.0 s) -> the line (4.0 s) -> ws-c (30.0 s) -> the end (5.0 s)"
    slots = "8 % of the slots' time used, by executors"
    lines = [line.strip() for line in report_lines(found, Screen())]
    assert f"critical    {path}" in lines
    assert f"workers     3; {slots}" in lines
    text = Seen(page(found)).text
    assert f"Critical path: {path}" in text
    assert slots in text
    figures = msgspec.json.decode(found.json())["figures"]
    assert (figures["utilisation"], figures["utilisation_basis"]) == (0.083, "executors")
    assert figures["critical_path"] == msgspec.to_builtins(links)


def test_many_stays_on_the_path_are_the_longest() -> None:
    links = [link(f"ws-{n:02}", 10 + n) for n in range(20)] + [link("", 5000, "wait")]
    text = path_text(material(a_run(), [], [], metrics=metrics(critical_path=links)).figures())
    assert text.startswith("… -> ws-09 (19.0 s) -> ws-10")
    assert text.endswith("ws-19 (29.0 s) -> the end (1 h 23 min)")
    assert text.count("ws-") == 11


def test_labels_stand_in_the_order_of_their_names() -> None:
    found = material(a_run(labels={"team": "core", "ci": "nightly", "a/b": "x"}), [], [])
    told = "a/b=x, ci=nightly, team=core"
    assert any(line.split() == ["labels", *told.split()] for line in report_lines(found, Screen()))
    assert told in Seen(page(found)).text


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"cap": "soft"}, ["cost unknown"]),
        ({"cap": "soft", "cost_nano": 0}, ["$0.00"]),
        ({"cap": "soft", "closed_ns": 0}, []),
        ({}, []),
    ],
)
def test_an_attempt_says_when_nobody_knows_its_cost(known: dict[str, Any], said: list[str]) -> None:
    _, *lines = attempt_lines(an_attempt("ws-a", 1, "edit", 1, exit_code=None, **known))
    assert [line.strip() for line in lines] == said


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [(1, ("attempt",), "1 attempt"), (0, ("attempt",), "0 attempts"), (2, ("entry", "entries"), "2 entries")],
)
def test_one_of_something_is_one(count: int, words: tuple[str, ...], text: str) -> None:
    assert many(count, *words) == text


def test_a_line_of_json_says_what_it_is_apart_from_what_it_holds() -> None:
    found = Difference(table="runs", kind="changed", key="run=r1", column="state", stored="a", folded="b")
    told = msgspec.json.decode(json_line("difference", found))
    assert (told["record"], told["kind"]) == ("difference", "changed")
