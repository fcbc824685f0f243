"""Following a run to its end, and what is to be said of it then.

The stream is read in a thread of its own, so that the terminal stays alive and Ctrl-C is answered at once: the first
asks the scheduler to cancel and goes on following, the second leaves.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import msgspec

from swell.client import Client
from swell.errors import SwellError
from swell.progress import Progress
from swell.text import duration, one_line
from swell.values import Event, Review, Run, Watched, Workstream
from swell.view import REFRESH_S, View

REAP_WAIT_S: Final = 20.0
"""How long the end of processes is waited for after the end of a run: a lease and a grace."""
BACKLOG: Final = 10_000
"""Watched entries read ahead of the view."""


class LeftError(Exception):
    """The user left; the run goes on."""


class Stream:
    """A watch in a thread of its own."""

    def __init__(self, client: Client, run: str, after: int) -> None:
        self._queue: queue.Queue[Watched | SwellError] = queue.Queue(BACKLOG)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(client, run, after), daemon=True, name="swell-watch")
        self._thread.start()

    def _read(self, client: Client, run: str, after: int) -> None:
        try:
            for watched in client.watch(run, after):
                self._put(watched)
                if self._ended.is_set():
                    return
        except SwellError as error:
            self._put(error)
        except ValueError:  # the channel was closed under the watch
            return

    def _put(self, item: Watched | SwellError) -> None:
        while not self._ended.is_set():
            try:
                self._queue.put(item, timeout=0.5)
            except queue.Full:
                continue
            return

    def next(self, timeout_s: float) -> list[Event]:
        """What has come, or nothing after `timeout_s`. Raises the watch's SwellError."""
        try:
            item = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return []
        if isinstance(item, SwellError):
            raise item
        return item.events

    def close(self) -> None:
        """Read no more. The thread ends with its next answer, or with the process."""
        self._ended.set()


@contextmanager
def interrupts() -> Iterator[Callable[[], int]]:
    """How often Ctrl-C was pressed meanwhile; a SIGTERM counts as one. Only in the main thread."""
    count = 0

    def pressed(_number: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1

    if threading.current_thread() is not threading.main_thread():
        yield lambda: count
        return
    before = {number: signal.signal(number, pressed) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: count
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow(
    client: Client,
    run: str,
    view: View,
    *,
    after: int = 0,
    actor: str,
    cancel_on_interrupt: bool,
    until_reaped: bool = False,
    through_review: bool = False,
) -> Progress:
    """Show a run until it has ended; with `until_reaped`, until its cancelled attempts' processes have, too.

    A run that is paused until it has another budget ends the following, and so does, unless `through_review`, one that is
    paused until a person decides: the run lives on.
    Ctrl-C: once cancels the run if `cancel_on_interrupt`, else leaves; twice leaves. Raises LeftError then.
    """
    progress = Progress(run)
    stream = Stream(client, run, after)
    offset_ns = 0
    cancelled = False
    ended_at = 0.0
    try:
        with interrupts() as pressed, view:
            while True:
                events = stream.next(REFRESH_S)
                for event in events:
                    view.show(progress, event, progress.take(event))
                    offset_ns = offset_ns or time.time_ns() - event.time_ns
                view.tick(progress, max(time.time_ns() - offset_ns, progress.now_ns))
                if progress.finished:
                    ended_at = ended_at or time.monotonic()
                    waiting = (until_reaped or cancelled) and progress.unreaped
                    if not waiting or time.monotonic() - ended_at > REAP_WAIT_S:
                        return progress
                if progress.awaits_review and not (events or cancelled or through_review) and client.list_reviews(run):
                    # The stream may still be at an older pause: the scheduler knows what waits now.
                    return progress
                if progress.awaits_money and not (events or cancelled) and client.get_budget(run).state == "paused":
                    return progress
                if pressed() > (1 if cancel_on_interrupt else 0):
                    raise LeftError
                if pressed() and not cancelled:
                    cancelled = True
                    view.note("cancelling: waiting for the run to end (Ctrl-C again leaves it to end by itself)")
                    _cancel(client, run, actor)
    finally:
        stream.close()


def follow_rollback(client: Client, run: str, view: View, *, after: int) -> Progress:
    """Show the rollback of a run that has ended, from a position on, to its end. Raises LeftError on Ctrl-C."""
    return _follow_until(lambda progress: progress.rollback not in {"", "running"}, client, run, view, after)


def follow_request(client: Client, run: str, request: str, view: View, *, after: int) -> Progress:
    """Show a run, from a position on, until what a request asked for is done. Raises LeftError on Ctrl-C."""
    return _follow_until(lambda progress: request in progress.done, client, run, view, after)


def _follow_until(is_over: Callable[[Progress], bool], client: Client, run: str, view: View, after: int) -> Progress:
    progress = Progress(run)
    stream = Stream(client, run, after)
    try:
        with interrupts() as pressed, view:
            while not is_over(progress):
                for event in stream.next(REFRESH_S):
                    view.show(progress, event, progress.take(event))
                view.tick(progress, progress.now_ns)
                if pressed():
                    raise LeftError
            return progress
    finally:
        stream.close()


def _cancel(client: Client, run: str, actor: str) -> None:
    try:
        client.cancel_run(run, reason="interrupted", actor=actor)
    except SwellError as error:
        if not error.is_input:  # the run has ended meanwhile
            raise


class Summary:
    """How a run ended, from the ledger."""

    def __init__(
        self, run: Run, workstreams: list[Workstream], failures: dict[str, str], reviews: Sequence[Review] = ()
    ) -> None:
        self.run = run
        self.workstreams = workstreams
        self.reviews = list(reviews)
        self._failures = failures

    @property
    def exit_code(self) -> int:
        """0 when everything completed, 1 otherwise."""
        return 0 if self.run.state == "completed" else 1

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain values: what `--json` ends with."""
        return {
            "run": self.run.run,
            "state": self.run.state,
            "reason": self.run.reason,
            "branch": self.branch,
            "commit": self.run.delivered_commit,
            "remote": self.run.delivered_remote,
            "elapsed_s": round(elapsed_s(self.run.submitted_ns, self.run.finished_ns), 3),
            "workstreams": {
                item.workstream: {
                    "state": item.state,
                    "reason": item.reason,
                    "steps_executed": item.steps_executed,
                    "fix_iterations": item.fix_iterations,
                    "elapsed_s": round(elapsed_s(item.started_ns, item.finished_ns), 3),
                }
                for item in self.workstreams
            },
            "reviews": [msgspec.to_builtins(review) for review in self.reviews],
            "exit_code": self.exit_code,
        }

    @property
    def branch(self) -> str:
        """The delivered branch, empty when nothing was delivered."""
        return self.run.delivered_ref.removeprefix("refs/heads/")

    def lines(self) -> list[str]:
        """The summary for people."""
        width = max((len(item.workstream) for item in self.workstreams), default=0)
        said = [""]
        for item in self.workstreams:
            detail = f"{duration(elapsed_s(item.started_ns, item.finished_ns))}" if item.started_ns else ""
            fixes = f", {item.fix_iterations} FIX" if item.fix_iterations else ""
            said.append(f"  {item.workstream.ljust(width)}  {item.state.ljust(10)}  {detail}{fixes}".rstrip())
            if item.state != "completed":
                said += [f"  {' ' * width}  {line}" for line in self._why(item)]
        took = duration(elapsed_s(self.run.submitted_ns, self.run.finished_ns))
        said += [
            "",
            (
                f"run {self.run.run} {self.run.state}{f' in {took}' if self.run.finished_ns else ''}: "
                f"{self.run.completed}/{self.run.workstreams} completed"
            ),
        ]
        if self.run.reason and self.run.state != "completed":
            said.append(f"  reason: {one_line(self.run.reason)}")
        said += [f"  review: {line}" for line in review_lines(self.reviews)]
        if self.branch:
            where = f" of {one_line(self.run.delivered_remote)}" if self.run.delivered_remote else ""
            said.append(f"  branch: {self.branch} at {self.run.delivered_commit[:12]}{where}")
        return said + [f"  next: {hint}" for hint in self._next()]

    def _why(self, item: Workstream) -> list[str]:
        reason, failure = one_line(item.reason, 500), one_line(self._failures.get(item.workstream, ""), 500)
        told = failure.partition(": ")[2] in reason
        return [line for line in (reason, "" if told or item.state != "failed" else failure) if line]

    def _next(self) -> list[str]:
        if self.reviews:
            return review_commands(self.run.run, self.reviews)
        if self.run.state == "paused" and "swell budget set" in self.run.reason:
            return [
                f"swell budget show {self.run.run} tells what is spent; swell budget set {self.run.run} USD lets it go on",
                f"swell watch {self.run.run} follows the run again; swell cancel {self.run.run} ends it",
            ]
        bad = next((item.workstream for item in self.workstreams if item.state == "failed"), "")
        hints = []
        if bad:
            hints.append(
                f"swell logs {self.run.run} {bad} shows what its tools said; swell diff {self.run.run} {bad} its change"
            )
        if self.branch and not self.run.delivered_remote:
            hints.append(f"git merge {self.branch}")
        return hints


def summarise(client: Client, run: str, failures: dict[str, str]) -> Summary:
    """The summary of a run as the ledger has it now; what waits for a person, as the scheduler has it."""
    found = client.get_run(run)
    reviews = client.list_reviews(run) if found.awaiting_review and not found.finished_ns else []
    return Summary(found, client.list_workstreams(run), failures, reviews)


REVIEWS_SHOWN: Final = 20


def review_lines(reviews: Sequence[Review]) -> list[str]:
    """What waits for a person, and why."""
    lines = [
        f"{review.workstream} {review.step or 'step'} {review.error_class or 'unknown'}: {one_line(review.reason, 200)}"
        for review in reviews[:REVIEWS_SHOWN]
    ]
    return lines + ([f"and {len(reviews) - REVIEWS_SHOWN} more"] if len(reviews) > REVIEWS_SHOWN else [])


def review_commands(run: str, reviews: Sequence[Review]) -> list[str]:
    """How to look into what waits, and how to answer."""
    one = reviews[0].workstream
    return [
        f"swell review show {run} {one} tells more about {one}",
        f"swell review approve {run} lets all go on, swell review approve {run} {one} this one; reject fails them",
        f"swell review adjust {run} {one} --tool TOOL --scope PATH --hint TEXT --attempts N changes what it does",
        f"swell watch {run} follows the run again; swell cancel {run} ends it",
    ]


def elapsed_s(from_ns: int, to_ns: int) -> float:
    """Seconds between two times of the log; 0 when one of them is not yet."""
    return max(to_ns - from_ns, 0) / 1e9 if from_ns and to_ns else 0.0
