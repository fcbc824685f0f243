"""The line of a run: merging, verifying what is staged, delivering, taking out again, compensating. Pure.

The line does one thing at a time. What is staged is nobody's base before the gates of the wave have passed it
(docs/merging.md).
"""

from collections.abc import Iterator, Sequence
from typing import assert_never

import msgspec

from services.events import (
    LINE,
    AnyEvent,
    Check,
    DeliveryRefused,
    DeliveryRequested,
    Destination,
    ErrorClass,
    GateFlaked,
    IntegrationAdvanced,
    IntegrationReverted,
    LineDelivered,
    MergePostponed,
    MergeRefused,
    MergeStaged,
    Purpose,
    RecoveryChosen,
    RequestAnswered,
    RevertFinished,
    RollbackFinished,
    Snapshot,
    Step,
    StepCancelled,
    StepDelayed,
    StepFinished,
    StepLost,
    StepScheduled,
    StepSkipped,
)
from services.outcome import NANO_USD_MAX
from services.scheduler.bisection import FAILURES_SURE, Culprit, Flaky, Join, Judge, Known, RedBefore, next_of
from services.scheduler.breaker import FixLoopState
from services.scheduler.budget import (
    workstream_account,
)
from services.scheduler.recovery import RecoveryConfig, Used
from services.scheduler.state import (
    Closed,
    Failure,
    Line,
    Reverting,
    Rollback,
    Workstream,
    is_handed_back,
    is_loss,
    unknown_checks,
)
from services.scheduler.steps import (
    GROUP_MAX,
    REASON_MAX,
    SECOND_NS,
    Decision,
    Draft,
    Steps,
    choice_of,
    moved_to,
    named_checks,
    skipped_step,
    too_many,
)
from services.spec import Ranges, ranges_with, ranges_without

STAGED_MAX = 64
"""Merges that wait for the gates of a wave together; with more of them, the gates run in between."""

SHORT_REASON_BYTES = 400
"""Bytes, as they are written down, of a reason that one decision gives to everything that is staged."""


class OnLine(Steps):
    """The same call: the run's line."""

    def _line_busy(self) -> bool:
        """Whether the line has something to do: an attempt, a decision, a merge, a delivery."""
        line = self.run.line
        return line is not None and bool(
            line.open
            or line.closed
            or line.delayed
            or line.staged
            or self.run.mergeable
            or self.run.delivering
            or self._undelivered(line)
        )

    def _undelivered(self, line: Line) -> bool:
        """Whether the head is to be delivered, as the run's definition has it, and was not."""
        known = line.deliveries.get(self.options.destination.remote)
        if not line.merged or line.head.commit in {known.head if known is not None else "", line.refused}:
            return False
        return self.options.deliver == "wave" or (self.options.deliver == "end" and self._is_last())

    def _is_last(self) -> bool:
        """Whether nothing more can come to the line, whatever anybody says."""
        more = self.run.eligible and not (self.options.fail_fast and self.run.failures)
        return not (more or self.run.reviews)

    def _line_step(self) -> Iterator[Decision]:
        """One thing at a time: merge in order, deliver what is verified once nothing is under way."""
        run, line = self.run, self.run.line
        if line is None or line.open is not None or self.slots <= 0 or self.lined:
            return
        decision: Decision | None = None
        if line.closed is not None:
            decision = self._after_line_close(line, line.closed)
        elif line.delayed is not None:
            if self.now_ns >= line.delayed.until_ns:
                decision = Decision([self._line_again(line, line.delayed.step)])
        elif run.mergeable and len(line.staged) < STAGED_MAX:
            decision = self._merge(line, run.workstreams[self.definitions.order[run.mergeable[0]]])
        elif line.staged:
            decision = self._verify(line)
        elif self._undelivered(line) and not run.unsettled and not (self.eager and run.eligible):
            decision = self._deliver(line, self.options.destination)
        if decision is not None:
            self.slots -= sum(isinstance(event, StepScheduled) for event in decision.events)
            yield decision

    def _line_again(self, line: Line, scheduled: StepScheduled) -> StepScheduled:
        checks = self._still_unknown(scheduled) if scheduled.step == "gate" else None
        return msgspec.structs.replace(
            scheduled,
            attempt=line.attempts + 1,
            queue_deadline_ns=self._queue_deadline_ns(),
            checks=named_checks(checks),
            every_check=too_many(checks),
        )

    def _schedule_line(
        self,
        step: Step,
        snapshot: Snapshot,
        *,
        workstream: Workstream | None = None,
        checks: list[Check] | None = None,
        merged: tuple[tuple[int, int], ...] = (),
        purpose: Purpose | None = None,
    ) -> Decision:
        line = self.run.line
        base = workstream.base if workstream is not None else None
        merging = workstream if workstream is not None and step == "merge" else None
        attempts = line.attempts if line is not None else 0
        return Decision(
            [
                StepScheduled(
                    workstream=LINE,
                    attempt=attempts + 1,
                    step=step,
                    pool=self.options.pool,
                    input=snapshot,
                    base=base,
                    theirs=merging.latest if merging is not None else None,
                    on_behalf=workstream.id if workstream is not None else "",
                    timeout_s=self._timeout_s(step),
                    queue_deadline_ns=self._queue_deadline_ns(),
                    checks=named_checks(checks),
                    every_check=too_many(checks),
                    merged=list(merged),
                    purpose=purpose,
                    tools=merging.tools if merging is not None else [],
                    cost_nano=self._cost_nano(merging) if merging is not None else None,
                )
            ]
        )

    def _cost_nano(self, workstream: Workstream) -> int | None:
        """What its attempts have cost, in nano-dollars; None where none of them could cost anything."""
        account = self.run.book.accounts.get(workstream_account(self.run.run, workstream.id))
        return None if account is None else min(account.spent_nano, NANO_USD_MAX)

    def _merge(self, line: Line, workstream: Workstream) -> Decision:
        base, latest = workstream.base, workstream.latest
        if self.options.dry_run or latest is None or base is None or latest.commit == base.commit:
            dry = self.options.dry_run
            skipped = StepSkipped(
                workstream=workstream.id,
                step="merge",
                tree=line.tip.tree,
                reason="dry_run" if dry else "nothing_to_merge",
            )
            reason = "dry run" if dry else f"nothing to merge{self._unverified(workstream)}"
            return Decision([skipped, moved_to(workstream, "completed", reason)])
        return self._schedule_line("merge", line.tip, workstream=workstream)

    def _after_line_close(self, line: Line, closed: Closed) -> Decision:
        scheduled = closed.attempt.scheduled
        workstream = self.run.workstreams.get(scheduled.on_behalf)
        event = closed.event
        if is_handed_back(event) or (is_loss(event) and line.losses <= self.options.losses_max):
            return Decision([self._line_again(line, scheduled)])
        if scheduled.step == "deliver":
            return self._after_delivery(scheduled, event)
        if workstream is None:
            raise ValueError(f"line attempt {scheduled.attempt} is on behalf of nobody")
        if isinstance(event, StepFinished) and event.ok:
            if scheduled.step == "merge":
                return self._gate(line, workstream, event.snapshot or line.tip)
            return self._passed(line, workstream, scheduled.input)
        retried = self._retry_line(line, workstream, scheduled, event)
        if retried is not None:
            return retried
        if scheduled.purpose is not None:
            detail = event.message if isinstance(event, StepFinished) else event.reason
            return self._take_back(line, f"the gates of the wave could not judge: {detail}")
        if isinstance(event, StepFinished) and event.error_class == "check_failed":
            again = self._unsure(line, scheduled)
            if again:
                return self._schedule_line(
                    "gate", scheduled.input, workstream=workstream, checks=again, merged=tuple(scheduled.merged)
                )
        if line.staged and _is_about_content(event):
            reason = "it does not go together with what is staged, which is not verified yet"
            return Decision([MergePostponed(workstream=workstream.id, reason=reason)])
        return self._refuse_merge(line, workstream, scheduled, event)

    def _unsure(self, line: Line, scheduled: StepScheduled) -> list[Check]:
        """What a gate has not passed, where that has failed once on its tree: whether it is flaky shows when it runs again."""
        red = line.red.get(scheduled.input.tree, {})
        left = self._still_unknown(scheduled)
        failures = [red[check.check] for check in left if check.check in red]
        return left if failures and max(failures) < FAILURES_SURE else []

    def _retry_line(
        self,
        line: Line,
        workstream: Workstream,
        scheduled: StepScheduled,
        event: StepFinished | StepLost | StepCancelled,
    ) -> Decision | None:
        """A merge or a gate that could not judge is tried again, as far as the recovery table goes."""
        if not isinstance(event, StepFinished) or event.error_class is None:
            return None
        if event.error_class in {"check_failed", "merge_conflict"}:
            return None
        used = line.recovery.get(scheduled.step, Used())
        chosen, events = choice_of(
            self.run,
            self.definitions,
            workstream,
            scheduled.step,
            event.error_class,
            self.now_ns,
            event.message,
            used,
        )
        if chosen.strategy != "retry":
            return None
        until_ns = self.now_ns + int(chosen.delay_s * SECOND_NS)
        recovery = [
            msgspec.structs.replace(found, workstream=LINE, attempt=scheduled.attempt)
            for found in events
            if isinstance(found, RecoveryChosen)
        ]
        delayed = StepDelayed(step=scheduled, cause="retry", reason=chosen.reason, until_ns=until_ns)
        return Decision([*recovery, delayed])

    def _gate(self, line: Line, workstream: Workstream, candidate: Snapshot) -> Decision:
        """A merged tree becomes the head only if it passes every check of everything it carries; verdicts are reused."""
        carried = ranges_with(self._carried(line), workstream.index)
        checks = self.definitions.line(carried)
        missing = unknown_checks(self.run, candidate.tree, checks)
        sources = self._elsewhere(candidate.tree, missing)
        if missing and not sources:
            return self._schedule_line("gate", candidate, workstream=workstream, checks=missing, merged=carried)
        passed = self._passed(line, workstream, candidate)
        return Decision([skipped_step(workstream.id, "gate", candidate.tree, checks, sources), *passed.events])

    def _carried(self, line: Line) -> Ranges:
        """What the end of the line carries, staged or not."""
        carried = line.merged
        for staged in line.staged:
            carried = ranges_with(carried, self.run.workstreams[staged.workstream].index)
        return carried

    def _passed(self, line: Line, workstream: Workstream, to: Snapshot) -> Decision:
        """Merged and green: it is the head, unless gates of the wave have to judge it together with others first."""
        flaked = self._flaked(line, to, self.definitions.line(ranges_with(self._carried(line), workstream.index)))
        if self.definitions.wave_gates(ranges_with(self._carried(line), workstream.index)):
            staged = MergeStaged(workstream=workstream.id, from_commit=line.tip.commit, to=to)
            return Decision([*flaked, staged])
        return Decision([*flaked, *self._advance(workstream, line.head, to)])

    def _advance(self, workstream: Workstream, head: Snapshot, to: Snapshot) -> list[AnyEvent]:
        return [
            IntegrationAdvanced(workstream=workstream.id, from_commit=head.commit, to=to),
            moved_to(workstream, "completed", f"merged{self._unverified(workstream)}"),
        ]

    def _flaked(self, line: Line, at: Snapshot, checks: Sequence[Check]) -> list[AnyEvent]:
        """What is to be said of gates that failed and passed on this tree."""
        failed, passed = line.red.get(at.tree, {}), self.run.verdicts.get(at.tree, set())
        return [
            GateFlaked(gate=check.name, check=check.check, tree=at.tree, failures=failed[check.check])
            for check in checks
            if failed.get(check.check) and check.check in passed
        ]

    # The gates of a wave

    def _verify(self, line: Line) -> Decision:
        """What is staged becomes the head once the gates of the wave pass it; if one does not, whoever made it red is taken back."""
        carried = self._carried(line)
        gates = self.definitions.wave_gates(carried)
        red = line.red.get(line.tip.tree, {})
        missing = [check for check in unknown_checks(self.run, line.tip.tree, gates) if check.check not in red]
        if missing and (sources := self._elsewhere(line.tip.tree, missing)):
            return Decision([skipped_step(line.staged[-1].workstream, "gate", line.tip.tree, missing, sources)])
        if missing:
            return self._judge(line, line.tip, missing, "wave")
        required = [check for check in gates if self.definitions.is_required(check, carried)]
        failed = unknown_checks(self.run, line.tip.tree, required)
        if failed:
            return self._search(line, failed[0])
        events = self._flaked(line, line.tip, gates)
        head = line.head
        for staged in line.staged:
            events += self._advance(self.run.workstreams[staged.workstream], head, staged.snapshot)
            head = staged.snapshot
        return Decision(events)

    def _judge(self, line: Line, snapshot: Snapshot, checks: list[Check], purpose: Purpose) -> Decision:
        last = self.run.workstreams[line.staged[-1].workstream]
        carried = self._carried(line)
        return self._schedule_line("gate", snapshot, workstream=last, checks=checks, merged=carried, purpose=purpose)

    def _search(self, line: Line, gate: Check) -> Decision:
        """The next thing to find out about a gate that fails on what is staged; or what follows from what was found."""
        found = next_of(
            [line.head, *(staged.snapshot for staged in line.staged)],
            [staged.workstream for staged in line.staged],
            Known(
                passed={tree for tree, checks in self.run.verdicts.items() if gate.check in checks},
                failed={tree: counts[gate.check] for tree, counts in line.red.items() if gate.check in counts},
                joined=line.joined,
            ),
        )
        match found:
            case Judge(snapshot=snapshot, at_start=at_start):
                purpose: Purpose = "start" if at_start else "wave" if snapshot == line.tip else "search"
                return self._judge(line, snapshot, [gate], purpose)
            case Join(onto=onto, merge=merge):
                joined = self.run.workstreams[line.staged[merge - 1].workstream]
                return self._schedule_line("merge", onto, workstream=joined, purpose="search")
            case Culprit(merge=merge, partner=partner):
                return self._send_back(line, gate, merge, partner)
            case RedBefore():
                return self._take_back(
                    line, f"{gate.name} was red before this wave began: nobody in it is to blame, mend it"
                )
            case Flaky():
                failures = line.red[line.tip.tree].get(gate.check, 0)
                if failures < FAILURES_SURE + (self.run.recovery or RecoveryConfig()).flakes:
                    return self._judge(line, line.tip, [gate], "wave")
                return self._take_back(
                    line, f"{gate.name} fails and passes on the same tree: nobody is to blame, mend the gate", gate
                )
            case _:
                assert_never(found)

    def _send_back(self, line: Line, gate: Check, merge: int, partner: int) -> Decision:
        """The culprit goes on from the last green point, with what the gate found; what was staged after it is merged again."""
        before = line.staged[merge - 2].snapshot if merge > 1 else line.head
        culprit = line.staged[merge - 1]
        others = [line.staged[partner - 1].workstream] if partner else []
        together = f" together with {others[0]}" if others else ""
        reason = f"{gate.name} fails since {culprit.workstream} was merged{together}, and passed before"
        found = line.findings.get(culprit.snapshot.tree) or line.findings.get(line.tip.tree)
        refused = MergeRefused(
            workstream=culprit.workstream,
            reason="red",
            message=reason,
            others=others,
            onto=before,
            result=culprit.snapshot,
            diagnostics=found,
            gate=gate.name,
            taken_back=True,
        )
        return self._back_to_fix(self.run.workstreams[culprit.workstream], refused, "gate", "check_failed")

    def _take_back(self, line: Line, reason: str, gate: Check | None = None) -> Decision:
        """Nothing can be said about what is staged: a person decides about all of it, and nothing of it is the head."""
        reason = _cut(reason, SHORT_REASON_BYTES)
        events: list[AnyEvent] = []
        if gate is not None:
            passed = next((t for t in line.red if gate.check in self.run.verdicts.get(t, ())), line.tip.tree)
            failures = line.red.get(passed, {}).get(gate.check, 0)
            events.append(GateFlaked(gate=gate.name, check=gate.check, tree=passed, failures=failures))
        for staged in reversed(line.staged):
            draft = Draft(self.run.workstreams[staged.workstream])
            draft.add(MergeRefused(workstream=staged.workstream, reason="error", message=reason, taken_back=True))
            self._stop_for(draft, "gate", "check_error", reason)
            events += draft.events
        return Decision(events)

    def _back_to_fix(
        self, workstream: Workstream, refused: MergeRefused, step: Step, error_class: ErrorClass
    ) -> Decision:
        """What a merge made goes to FIX, as often as is configured; then to a person."""
        config = self.run.recovery or RecoveryConfig()
        draft = Draft(workstream)
        draft.add(refused)
        used, most = (
            (workstream.conflicts, config.conflicts) if refused.reason == "conflict" else (workstream.reds, config.reds)
        )
        if refused.onto is None or refused.result is None or used >= most:
            again = f" (sent back {used} times)" if used else ""
            self._stop_for(draft, step, error_class, f"{refused.message}{again}")
            return draft.decision()
        draft.workstream = msgspec.structs.replace(
            workstream,
            base=refused.onto,
            latest=refused.result,
            fix=FixLoopState(),
            failure=Failure(
                step=step,
                attempt=self._line_attempts(),
                signature="",
                tree=refused.result.tree,
                diagnostics=refused.diagnostics,
            ),
        )
        self._schedule_fix(draft, step)
        return draft.decision()

    def _line_attempts(self) -> int:
        return self.run.line.attempts if self.run.line is not None else 0

    def _unverified(self, workstream: Workstream) -> str:
        """What is to be said of a workstream that nothing has checked."""
        name = workstream.id
        checked = (
            self.definitions.static(name)
            or [check for check in self.definitions.runtime(name) if check.kind != "gate"]
            or any(gate.required for gate in self.definitions.gates(name))
        )
        return "" if checked else "; unverified: no check is configured (gates: none)"

    def _refuse_merge(
        self,
        line: Line,
        workstream: Workstream,
        scheduled: StepScheduled,
        event: StepFinished | StepLost | StepCancelled,
    ) -> Decision:
        finished = event if isinstance(event, StepFinished) else None
        found = next((a for a in finished.artifacts if a.role == "diagnostics"), None) if finished is not None else None
        if finished is not None and finished.error_class == "merge_conflict":
            reason = f"merge conflict with {', '.join(finished.others) or 'the line'} in {', '.join(finished.conflicts[:10])}"
            refused = MergeRefused(
                workstream=workstream.id,
                reason="conflict",
                message=reason[:REASON_MAX],
                files=finished.conflicts[:200],
                others=finished.others[:50],
                onto=line.head,
                result=finished.snapshot,
                diagnostics=found,
            )
            return self._back_to_fix(workstream, refused, "merge", "merge_conflict")
        if finished is not None and finished.error_class == "check_failed":
            failed = [result.name for result in finished.checks if result.outcome == "failed"]
            reason = f"red as merged: {', '.join(failed)} passed on its own tree and fails on the merged one: {finished.message}"
            refused = MergeRefused(
                workstream=workstream.id,
                reason="red",
                message=reason[:REASON_MAX],
                onto=line.head,
                result=scheduled.input,
                diagnostics=found,
                gate=failed[0] if failed else "",
            )
            return self._back_to_fix(workstream, refused, "gate", "check_failed")
        detail = event.message if isinstance(event, StepFinished) else event.reason
        draft = Draft(workstream)
        draft.add(
            MergeRefused(workstream=workstream.id, reason="error", message=f"{scheduled.step}: {detail}"[:REASON_MAX])
        )
        error_class: ErrorClass = (finished.error_class if finished is not None else None) or "unknown"
        self._stop_for(draft, scheduled.step, error_class, f"{scheduled.step}: {detail}")
        return draft.decision()

    # Delivery

    def asked(self, request: DeliveryRequested) -> Iterator[Decision]:
        """The delivery that somebody asked for, as soon as the line does nothing else: the head is verified at any time."""
        line = self.run.line
        if line is None or line.open is not None or self.slots <= 0:
            return
        if line.closed is not None:
            if line.closed.attempt.scheduled.request_id != request.request_id:
                return
            decision = self._after_line_close(line, line.closed)
        elif line.delayed is not None:
            return
        else:
            decision = self._deliver(line, self._destination(request), request)
        self.lined = True
        self.slots -= sum(isinstance(event, StepScheduled) for event in decision.events)
        yield decision

    def _destination(self, request: DeliveryRequested) -> Destination:
        """Where and how: as it is asked for, else as the run's definition has it."""
        own, location = self.options.destination, self.definitions.spec.repository.location
        remote = own.remote if request.remote is None else request.remote
        remote = "" if remote == location else remote
        credential = request.credential
        if credential is None:
            credential = own.credential if remote == own.remote else ""
        return Destination(style=request.style or own.style, remote=remote, credential=credential, hook=own.hook)

    def _deliver(self, line: Line, to: Destination, request: DeliveryRequested | None = None) -> Decision:
        known = line.deliveries.get(to.remote)
        return Decision(
            [
                StepScheduled(
                    workstream=LINE,
                    attempt=line.attempts + 1,
                    step="deliver",
                    pool=self.options.pool,
                    input=line.head,
                    base=Snapshot(commit=known.commit, tree="") if known is not None else None,
                    timeout_s=self._timeout_s("deliver"),
                    queue_deadline_ns=self._queue_deadline_ns(),
                    delivery=to if to != Destination() else None,
                    series=request is not None and request.series,
                    request_id=request.request_id if request is not None else "",
                )
            ]
        )

    def _after_delivery(self, scheduled: StepScheduled, event: StepFinished | StepLost | StepCancelled) -> Decision:
        ref = f"refs/heads/swell/{self.run.run}"
        head, to = scheduled.input.commit, scheduled.delivery
        ok = isinstance(event, StepFinished) and event.ok
        reason = (event.message if isinstance(event, StepFinished) else event.reason)[:REASON_MAX]
        events: list[AnyEvent] = []
        if ok and not scheduled.series:
            snapshot = event.snapshot if isinstance(event, StepFinished) else None
            commit = snapshot.commit if snapshot is not None else head
            events.append(
                LineDelivered(ref=ref, commit=commit, head=head if commit != head else "", to=to, warning=reason)
            )
        elif not scheduled.series:
            events.append(DeliveryRefused(ref=ref, commit=head, reason=reason, to=to))
        if scheduled.request_id:
            events.append(RequestAnswered(request_id=scheduled.request_id, answer="done", ok=ok, reason=reason))
        return Decision(events)

    # Taking work off the line

    def reverting(self, reverting: Reverting) -> Iterator[Decision]:
        """One after another out of the candidate, then the checks of what is left, then to wherever the run stands."""
        line = self.run.line
        if line is None or line.open is not None:
            return
        closed = line.closed
        if closed is not None and not (isinstance(closed.event, StepFinished) and closed.event.ok):
            yield self._after_failed_revert(line, reverting, closed)
        elif closed is not None and closed.attempt.scheduled.step == "deliver":
            yield self._after_delivery(closed.attempt.scheduled, closed.event)
        elif reverting.reverted:
            yield self._redeliver(line, reverting)
        elif reverting.taken < len(reverting.order):
            yield self._take_out(line, self.run.workstreams[reverting.order[reverting.taken]])
        elif closed is not None and closed.attempt.scheduled.step == "gate":
            yield self._reverted(line, reverting, line.candidate or line.head)
        else:
            yield self._gate_of_rest(line, reverting, line.candidate or line.head)

    def _take_out(self, line: Line, workstream: Workstream) -> Decision:
        """A merge of what was before it: its own change, the other way round."""
        decision = self._schedule_line("merge", line.candidate or line.head, workstream=workstream)
        return _taking_out(decision, base=workstream.merged, theirs=workstream.before)

    def _gate_of_rest(self, line: Line, reverting: Reverting, candidate: Snapshot) -> Decision:
        rest = tuple(line.merged)
        for name in reverting.order:
            rest = ranges_without(rest, self.run.workstreams[name].index)
        checks: list[Check] = []
        if rest:
            gates = [gate for gate in self.definitions.wave_gates(rest) if self.definitions.is_required(gate, rest)]
            checks = [*self.definitions.line(rest), *gates]
        missing = unknown_checks(self.run, candidate.tree, checks)
        last = self.run.workstreams[reverting.order[-1]]
        if not missing:
            skipped = skipped_step(LINE, "gate", candidate.tree, checks)
            return Decision([skipped, *self._reverted(line, reverting, candidate).events])
        return _taking_out(self._schedule_line("gate", candidate, workstream=last, checks=missing, merged=rest))

    def _reverted(self, line: Line, reverting: Reverting, to: Snapshot) -> Decision:
        events: list[AnyEvent] = [
            IntegrationReverted(workstreams=reverting.order, from_commit=line.head.commit, to=to),
        ]
        for name in reverting.order:
            draft = Draft(self.run.workstreams[name])
            draft.move("compensating", "rollback")
            draft.move("compensated", "taken off the line")
            events += draft.events
        return Decision(events)

    def _redeliver(self, line: Line, reverting: Reverting) -> Decision:
        """The new head to the next destination that has an older one; then the end."""
        for remote, known in line.deliveries.items():
            if known.head != line.head.commit and remote not in reverting.undelivered:
                return self._deliver(line, known.to)
        count = len(reverting.order)
        said = f"{count} workstream{'s' if count != 1 else ''} taken off the line"
        if reverting.undelivered:
            reason = f"{said}, and not delivered: mend what keeps it, then `swell deliver {self.run.run}`"
            return Decision([RevertFinished(state="undelivered", workstreams=reverting.order, reason=reason)])
        return Decision([RevertFinished(state="reverted", workstreams=reverting.order, reason=said)])

    def _after_failed_revert(self, line: Line, reverting: Reverting, closed: Closed) -> Decision:
        scheduled, event = closed.attempt.scheduled, closed.event
        if is_handed_back(event) or (is_loss(event) and line.losses <= self.options.losses_max):
            return Decision([self._line_again(line, scheduled)])
        if scheduled.step == "deliver":
            return self._after_delivery(scheduled, event)
        detail = event.message if isinstance(event, StepFinished) else event.reason
        files: list[str] = []
        if isinstance(event, StepFinished) and event.error_class == "merge_conflict":
            files = event.conflicts[:200]
            named = ", ".join(event.others) or "what came after it"
            detail = f"taking {scheduled.on_behalf} off the line conflicts with {named} in {', '.join(files[:10])}"
        elif isinstance(event, StepFinished) and event.error_class == "check_failed":
            failed = [result.name for result in event.checks if result.outcome == "failed"]
            detail = f"what is left is red without it: {', '.join(failed)}: {detail}"
        finished = RevertFinished(
            state="refused",
            workstreams=reverting.order,
            reason=f"nothing moved: {detail}"[:REASON_MAX],
            files=files,
        )
        return Decision([finished])

    # Undoing

    def compensation(self, rollback: Rollback) -> Iterator[Decision]:
        """Completed workstreams one after another, the last of the plan first; what fails does not stop the others."""
        for name in rollback.order:
            workstream = self.run.workstreams[name]
            if workstream.state in {"completed", "compensation_failed"} and not self._given_up(workstream):
                yield Decision([moved_to(workstream, "compensating", "rollback")])
                return
            if workstream.state == "compensating":
                yield from self._compensate(workstream)
                return
        states = {name: self.run.workstreams[name].state for name in rollback.order}
        remaining = [name for name, state in states.items() if state != "compensated"]
        done = len(states) - len(remaining)
        reason = f"{done} of {len(states)} workstreams compensated, {rollback.without_actions} have no actions"
        yield Decision(
            [
                RollbackFinished(
                    state="compensation_failed" if remaining else "compensated",
                    compensated=done,
                    failed=len(remaining),
                    without_actions=rollback.without_actions,
                    remaining=remaining[:GROUP_MAX],
                    reason=reason,
                )
            ]
        )

    def _given_up(self, workstream: Workstream) -> bool:
        """Whether this rollback has failed at it already."""
        return workstream.recovery.get("compensate", Used()).retries > self._compensations()

    def _compensations(self) -> int:
        return (self.run.recovery or RecoveryConfig()).compensations

    def _compensate(self, workstream: Workstream) -> Iterator[Decision]:
        """The next action of a workstream, or the failed one again after a pause."""
        actions = self.definitions.bundles[workstream.id].compensation_actions
        line = self.run.line
        if workstream.open is not None or line is None:
            return
        closed, delayed = workstream.closed, workstream.delayed
        if closed is not None and not (isinstance(closed.event, StepFinished) and closed.event.ok):
            yield self._after_failed_compensation(workstream, closed)
        elif delayed is not None and self.now_ns < delayed.until_ns:
            return
        elif workstream.actions >= len(actions):
            yield Decision([moved_to(workstream, "compensated", f"{len(actions)} actions done")])
        else:
            own = line.deliveries.get("")
            elsewhere = any(remote for remote in line.deliveries)
            yield Decision(
                [
                    StepScheduled(
                        workstream=workstream.id,
                        attempt=workstream.attempts + 1,
                        step="compensate",
                        pool=self.options.pool,
                        input=line.head,
                        base=Snapshot(commit=own.commit, tree="") if own is not None else None,
                        timeout_s=self._timeout_s("compensate"),
                        queue_deadline_ns=self._queue_deadline_ns(),
                        dry_run=self.options.dry_run,
                        action=actions[workstream.actions],
                        idle_timeout_s=self._idle_s(),
                        deliveries=list(line.deliveries.values()) if elsewhere else [],
                    )
                ]
            )

    def _after_failed_compensation(self, workstream: Workstream, closed: Closed) -> Decision:
        event, scheduled = closed.event, closed.attempt.scheduled
        used = workstream.recovery.get("compensate", Used())
        detail = event.message if isinstance(event, StepFinished) else event.reason
        config = self.run.recovery or RecoveryConfig()
        again = is_handed_back(event)
        delay_s = 0.0 if again else config.delay_s(used.retries, f"{self.run.run}/{workstream.id}/compensate")
        events: list[AnyEvent] = []
        if not again:
            error_class: ErrorClass = "unknown"
            if isinstance(event, StepFinished):
                error_class = event.error_class or "unknown"
            events.append(
                RecoveryChosen(
                    workstream=workstream.id,
                    step="compensate",
                    attempt=scheduled.attempt,
                    error_class=error_class,
                    strategy="retry",
                    reason=f"{scheduled.action[:200]}: {detail}"[:REASON_MAX],
                    not_before_ns=self.now_ns + int(delay_s * SECOND_NS),
                )
            )
        if not again and used.retries >= config.compensations:
            reason = f"{scheduled.action[:200]} failed {used.retries + 1} times: {detail}"
            return Decision([*events, moved_to(workstream, "compensation_failed", reason)])
        until_ns = self.now_ns + int(delay_s * SECOND_NS)
        delayed = StepDelayed(step=scheduled, cause="retry", reason=detail[:REASON_MAX], until_ns=until_ns)
        return Decision([*events, delayed])


def _cut(text: str, most: int) -> str:
    """As much of a text as takes so many bytes in an entry."""
    while len(msgspec.json.encode(text)) > most:
        text = text[: len(text) * 3 // 4]
    return text


def _is_about_content(event: StepFinished | StepLost | StepCancelled) -> bool:
    """Whether a merge or its gate found something out about what is merged."""
    return isinstance(event, StepFinished) and event.error_class in {"merge_conflict", "check_failed"}


def _taking_out(decision: Decision, **sides: Snapshot | None) -> Decision:
    """A step of the line that takes work out of it."""
    steps = [event for event in decision.events if isinstance(event, StepScheduled)]
    return Decision([msgspec.structs.replace(step, reverts=True, **sides) for step in steps])
