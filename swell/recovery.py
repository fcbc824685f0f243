"""Swell from Python: what to do when a step failed, and how to steer runs. Every call goes through the log of a cluster.

As in swell/api.py, the cluster is the one that SWELL_SCHEDULER and SWELL_LEDGER name, else the embedded one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from swell.client import Client
from swell.cluster import connected
from swell.errors import invalid
from swell.submission import actor

STEPS: Final = ("edit", "static", "runtime", "fix")
REASON_CHARS_MAX: Final = 500
BACKOFF_S_MAX: Final = 86_400.0
"""No delay of a recovery table is longer; see services/scheduler/recovery.py."""


class RecoveryManager:
    """Recovery from failed steps that somebody runs one by one (`run_edit_step` and its like).

    The strategies, in this order, as far as the run's recovery table names them for the class of error: automatic retry
    with exponential backoff, fewer files, another tool, a person. Each decision is an event of the run.
    """

    def attempt_recovery(
        self, run_id: str, ws_id: str, error: BaseException | str, context: Mapping[str, Any] | None = None
    ) -> bool:
        """Whether the failed step may be run again now; False when a person has to decide.

        `context["step"]` is the step that failed. `context["error_class"]` says why (timeout, tool_failed …); without it,
        the newest failed attempt of that step does. `error` is kept as the reason. Waits out the delay of a retry.
        Raises SwellError for a run whose steps are not asked for one by one, and for one that has ended.
        """
        given = context or {}
        step = given.get("step")
        if step not in STEPS:
            raise invalid(
                "BAD_CONTEXT", f"the step is {step!r}", f"Set `step` to one of {', '.join(STEPS)}.", "context"
            )
        with connected() as endpoints, Client(endpoints) as client:
            error_class = str(given.get("error_class") or _newest_class(client, run_id, ws_id, step))
            found = client.recover_step(
                run_id,
                ws_id,
                step,
                error_class=error_class,
                reason=str(error)[:REASON_CHARS_MAX],
                actor=actor(),
            )
        if found.recovered:
            time.sleep(min(max(found.not_before_ns - time.time_ns(), 0) / 1e9, BACKOFF_S_MAX))
        return found.recovered


def _newest_class(client: Client, run: str, workstream: str, step: str) -> str:
    """Why the newest failed attempt of a step failed; empty when there is none."""
    failed = [
        attempt
        for attempt in client.list_attempts(run, workstream)
        if attempt.step == step and attempt.closed_ns and not attempt.ok
    ]
    if not failed:
        return ""
    return failed[-1].error_class or ("lost" if failed[-1].state == "lost" else "")


def pause_run(run_id: str, reason: str = "") -> None:
    """Start nothing new of a run; what runs goes on. Raises SwellError when the scheduler refuses."""
    with connected() as endpoints, Client(endpoints) as client:
        client.pause_run(run_id, reason=reason, actor=actor())


def resume_run(run_id: str, reason: str = "") -> None:
    """Go on with a run that was paused. Raises SwellError when the scheduler refuses."""
    with connected() as endpoints, Client(endpoints) as client:
        client.resume_run(run_id, reason=reason, actor=actor())


def cancel_run(run_id: str, reason: str = "") -> str:
    """Cancel a run and wait for its end; the state it ended in. Raises SwellError when it has ended already."""
    with connected() as endpoints, Client(endpoints) as client:
        position = client.cancel_run(run_id, reason=reason, actor=actor())
        return client.wait(run_id, max(position - 1, 0)).state


def retry_run(run_id: str, workstreams: Sequence[str] = (), from_step: str | None = None, reason: str = "") -> str:
    """Try again what waits for a person, or, of a run that has ended, what did not complete.

    The id of the run that goes on: the same one, or a new one. Raises SwellError when there is nothing to try again.
    """
    with connected() as endpoints, Client(endpoints) as client:
        done = client.retry_run(run_id, workstreams, from_step=from_step or "", reason=reason, actor=actor())
        return done.run


def list_reviews(run_id: str = "") -> list[dict[str, Any]]:
    """What waits for a person, in a run or in all live runs: run, workstream, step, error_class, reason and more."""
    with connected() as endpoints, Client(endpoints) as client:
        return [msgspec.to_builtins(review) for review in client.list_reviews(run_id)]


def resolve_reviews(
    run_id: str, verdict: str, workstreams: Sequence[str] = (), from_step: str | None = None, reason: str = ""
) -> None:
    """Decide about workstreams that wait for a person (none named: all of the run): "approve", "reject" or "retry".

    Raises SwellError when the scheduler refuses.
    """
    if verdict not in {"approve", "reject", "retry"}:
        raise invalid("BAD_VERDICT", f"{verdict!r} is no verdict", 'Use "approve", "reject" or "retry".')
    with connected() as endpoints, Client(endpoints) as client:
        client.resolve_reviews(run_id, verdict, workstreams, from_step=from_step or "", reason=reason, actor=actor())
