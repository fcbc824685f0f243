"""Where a run's attempts stand on a line of time: shares of its width, in per cent. Pure.

A run may rest for hours, until a person decides or money comes. Such a rest is drawn as a short gap, so that the work on both
sides of it can be seen.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Self

import msgspec

from services.events import LINE
from swell.report.figures import has_failed, worth_a_row
from swell.text import duration

if TYPE_CHECKING:
    from swell.report.figures import Figures
    from swell.values import Attempt, Run

ROWS_MAX: Final = 200
BARS_MAX: Final = 60
"""Of one row; the newest are shown."""
BANDS_MAX: Final = 100
GAP_SHARE: Final = 0.1
"""A rest is a gap from this share of all work on; drawn, it is as wide as GAP_WIDTH of it."""
GAP_WIDTH: Final = 0.04
GAP_NS_MIN: Final = 1_000_000_000
TICKS: Final = 6
_NICE_S: Final = (
    0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 43_200, 86_400, 172_800, 604_800,
)  # fmt: skip


class Span(msgspec.Struct, frozen=True):
    """A stretch of time, from `left` to `right` of the width."""

    from_ns: int
    to_ns: int
    left: float
    right: float
    is_gap: bool


class Scale(msgspec.Struct, frozen=True):
    """Times of the log as shares of a width: stretches, one behind the other."""

    spans: list[Span]

    @classmethod
    def of(cls, start_ns: int, end_ns: int, busy: Iterable[tuple[int, int]]) -> Self:
        """From start to end, with the long rests between what is `busy` drawn short."""
        end_ns = max(end_ns, start_ns + 1)
        rests: list[tuple[int, int]] = []
        at = start_ns
        for from_ns, to_ns in [*sorted(busy), (end_ns, end_ns)]:
            if from_ns > at:
                rests.append((at, from_ns))
            at = max(at, to_ns)
        work_ns = end_ns - start_ns - sum(to_ns - from_ns for from_ns, to_ns in rests)
        least_ns = max(work_ns * GAP_SHARE, GAP_NS_MIN)
        edges: list[tuple[int, int, float, bool]] = []
        at = start_ns
        for from_ns, to_ns in rests:
            if to_ns - from_ns > least_ns:
                edges += [
                    (at, from_ns, from_ns - at, False),
                    (from_ns, to_ns, max(work_ns, GAP_NS_MIN) * GAP_WIDTH, True),
                ]
                at = to_ns
        edges = [one for one in [*edges, (at, end_ns, end_ns - at, False)] if one[1] > one[0]]
        total = sum(weight for _, _, weight, _ in edges)
        spans: list[Span] = []
        left = 0.0
        for from_ns, to_ns, weight, is_gap in edges:
            spans.append(Span(from_ns, to_ns, left, left + 100 * weight / total, is_gap))
            left = spans[-1].right
        return cls(spans)

    def at(self, time_ns: int) -> float:
        """Where a time stands, from 0 to 100."""
        span = self.spans[max(bisect_right(self.spans, time_ns, key=lambda span: span.from_ns) - 1, 0)]
        share = min(max((time_ns - span.from_ns) / (span.to_ns - span.from_ns), 0.0), 1.0)
        return span.left + (span.right - span.left) * share


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt: from `left` on it waits, `queue` wide; from `begin` on it works, `width` wide. `title` says it in words."""

    step: str
    letter: str
    outcome: str
    left: str
    queue: str
    begin: str
    width: str
    wide: bool
    title: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A workstream, or the line; `label` is what the whole row says in words."""

    name: str
    state: str
    bars: list[Bar]
    left_out: int
    label: str


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """A mark on the axis: time since the start of the run."""

    left: str
    text: str


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """A wave."""

    left: str
    width: str
    name: str
    odd: bool


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `gaps` say how long the rests are that are drawn short; `rows_left` workstreams are not shown."""

    rows: list[Row]
    rows_left: int
    ticks: list[Tick]
    bands: list[Band]
    gaps: list[Band]


def timeline(run: Run, found: Figures, now_ns: int) -> Timeline:
    """The timeline of a run, as of a time."""
    attempts = [attempt for row in found.workstreams for attempt in row.attempts] + found.line
    start_ns = run.submitted_ns or min((attempt.scheduled_ns for attempt in attempts), default=now_ns)
    ends = [attempt.closed_ns or now_ns for attempt in attempts]
    end_ns = max([run.finished_ns or now_ns, *ends]) if attempts or not run.finished_ns else run.finished_ns
    busy = [(attempt.scheduled_ns, attempt.closed_ns or now_ns) for attempt in attempts]
    scale = Scale.of(start_ns, end_ns, busy)
    begun = [row for row in found.workstreams if row.attempts]
    shown = worth_a_row(begun, ROWS_MAX)
    rows = [_row(row.item.workstream, row.item.state, row.attempts, scale, now_ns) for row in shown]
    if found.line:
        rows.append(_row("the line", "", found.line, scale, now_ns))
    return Timeline(
        rows=rows,
        rows_left=len(begun) - len(shown),
        ticks=_ticks(scale, start_ns),
        bands=_bands(found, scale, end_ns),
        gaps=[
            Band(
                left=_share(span.left),
                width=_share(span.right - span.left),
                name=duration((span.to_ns - span.from_ns) / 1e9),
                odd=False,
            )
            for span in scale.spans
            if span.is_gap
        ],
    )


def _row(name: str, state: str, attempts: Sequence[Attempt], scale: Scale, now_ns: int) -> Row:
    shown = attempts[-BARS_MAX:]
    bars = [_bar(attempt, scale, now_ns) for attempt in shown]
    said = ", ".join(f"{attempt.step} {_outcome(attempt)}" for attempt in shown)
    return Row(name=name, state=state, bars=bars, left_out=len(attempts) - len(shown), label=f"{name}: {said}")


def _bar(attempt: Attempt, scale: Scale, now_ns: int) -> Bar:
    end_ns = attempt.closed_ns or now_ns
    claimed_ns = attempt.started_ns or end_ns
    left, start, end = scale.at(attempt.scheduled_ns), scale.at(claimed_ns), scale.at(end_ns)
    about = f" for {attempt.on_behalf}" if attempt.on_behalf else ""
    by = f", by {attempt.tool}" if attempt.tool else ""
    worked = duration((end_ns - claimed_ns) / 1e9) if attempt.started_ns else "not claimed"
    waited = f", waited {duration((claimed_ns - attempt.scheduled_ns) / 1e9)}"
    why = f": {attempt.error_class or attempt.message}" if has_failed(attempt) else ""
    name = "" if attempt.workstream == LINE else f"{attempt.workstream} "
    return Bar(
        step=attempt.step,
        letter=attempt.step[:1].upper(),
        outcome=_outcome(attempt),
        left=_share(left),
        queue=_share(start - left),
        begin=_share(start),
        width=_share(end - start),
        wide=end - start >= 2.5,
        title=f"{name}attempt {attempt.attempt}, {attempt.step}{about}{by}: {_outcome(attempt)}, {worked}{waited}{why}",
    )


def _outcome(attempt: Attempt) -> str:
    if attempt.ok:
        return "ok"
    if not attempt.closed_ns:
        return "running" if attempt.started_ns else "waiting"
    return "failed" if has_failed(attempt) else attempt.state


def _ticks(scale: Scale, start_ns: int) -> list[Tick]:
    """Marks at round times, in what is not a gap, none of them on top of another."""
    worked = [span for span in scale.spans if not span.is_gap]
    length_ns = sum(span.to_ns - span.from_ns for span in worked)
    every_s = next((nice for nice in _NICE_S if length_ns / 1e9 / nice <= TICKS), _NICE_S[-1])
    every_ns = int(every_s * 1e9)
    ticks: list[Tick] = []
    last = -100.0
    for span in worked:
        first = -(-(span.from_ns - start_ns) // every_ns)
        for number in range(first, min((span.to_ns - start_ns) // every_ns, first + 4 * TICKS) + 1):
            left = scale.at(start_ns + number * every_ns)
            if left - last >= 9 and left <= 96:
                ticks.append(Tick(left=_share(left), text=_moment(number * every_s)))
                last = left
    return ticks


def _moment(seconds: float) -> str:
    return "0" if not seconds else f"{seconds:g} s" if seconds < 60 else duration(seconds)


def _bands(found: Figures, scale: Scale, end_ns: int) -> list[Band]:
    if len(found.waves) > BANDS_MAX:
        return []
    places = [(wave.wave, scale.at(wave.started_ns), scale.at(wave.finished_ns or end_ns)) for wave in found.waves]
    return [
        Band(left=_share(left), width=_share(right - left), name=f"wave {number + 1}", odd=number % 2 == 1)
        for number, left, right in places
    ]


def _share(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
