"""What tools do to trees, and what checks say of them: every behaviour a fleet has met, drawn from the seed.

A workstream has a temper, which says how its EDIT and FIX go; a tool has sick times, in which it fails whoever calls it.
A check's verdict belongs to the tree: it is read off what the files hold, unless the check is flaky or cannot judge.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from random import Random
from typing import Literal

import msgspec

from services.compensation import parse_action
from services.events import Artifact, CheckOutcome, CheckResult, ErrorClass, Snapshot, StepFinished, StepScheduled
from services.outcome import Cost, Usage
from services.spec import Definitions, RunSpec
from tests.simulation.algebra import BASE, MARKED, PEACE, Files, Repository, Version
from tests.simulation.clockwork import SECOND_NS

Temper = Literal[
    "good", "fixable_static", "fixable_runtime", "both", "never", "same_error", "oscillating", "no_change", "timeout",
    "idle", "tool_failed", "fails_twice", "tool_missing", "auth", "scope_violation", "killer", "kills_once", "slow",
    "setup_error", "protocol_error", "workspace_error",
]  # fmt: skip
TEMPERS: dict[Temper, int] = {
    "good": 30, "fixable_static": 8, "fixable_runtime": 6, "both": 4, "never": 3, "same_error": 2, "oscillating": 2,
    "no_change": 2, "timeout": 2, "idle": 2, "tool_failed": 2, "fails_twice": 4, "tool_missing": 1, "auth": 1,
    "scope_violation": 1, "killer": 2, "kills_once": 3, "slow": 2, "setup_error": 1, "protocol_error": 1,
    "workspace_error": 2,
}  # fmt: skip
_ALWAYS: dict[str, ErrorClass] = {
    "timeout": "timeout",
    "idle": "idle_timeout",
    "tool_failed": "tool_failed",
    "tool_missing": "tool_missing",
    "auth": "auth",
    "scope_violation": "scope_violation",
    "setup_error": "setup_error",
    "protocol_error": "protocol_error",
}


class Sick(msgspec.Struct, frozen=True):
    """A time in which every call of a tool fails; seconds since the start."""

    tool: str
    from_s: float
    to_s: float
    error_class: ErrorClass


class Plan(msgspec.Struct, kw_only=True):
    """What the seed says about the tools of a run."""

    tempers: dict[str, Temper] = {}
    sick: list[Sick] = []
    flaky: float = 0.0
    check_errors: float = 0.0
    conflicts: dict[str, int] = {}
    """How often the merge of a workstream conflicts."""
    quarrels: set[frozenset[str]] = set()
    """Workstreams whose work is red together, though each is green."""
    discords: set[frozenset[str]] = set()
    """Workstreams whose work a gate of the wave refuses together, though all else is green."""
    red_before: bool = False
    """Whether a gate of the wave fails whatever it judges."""
    refuses_delivery: bool = False
    compensation_fails: int = 0
    wall_s: float = 4.0
    purse: int = 0
    """What the costs of its tools are drawn from; 0: they cost nothing."""


class Tools:
    """The tools of all runs, on all executors."""

    def __init__(self, random: Random, start_ns: int) -> None:
        self._random = random
        self._start_ns = start_ns
        self.repository = Repository()
        self.plans: dict[str, Plan] = {}
        self.definitions: dict[str, Definitions] = {}
        self.calls: Counter[tuple[str, str, str]] = Counter()
        self._purses: dict[str, Random] = {}
        self._merges: Counter[tuple[str, str]] = Counter()

    def define(self, run: str, spec: RunSpec) -> None:
        """The definition that the newest entry names."""
        self.definitions[run] = Definitions(spec)

    def _temper(self, run: str, step: StepScheduled) -> Temper:
        return self.plans[run].tempers.get(step.workstream, "good")

    def wall_s(self, run: str, step: StepScheduled) -> float:
        """How long the attempt takes, seconds."""
        plan = self.plans[run]
        temper = self._temper(run, step)
        base = plan.wall_s * (0.2 + self._random.random())
        if step.step in {"edit", "fix"}:
            if temper in {"timeout", "slow"} and (temper == "timeout" or self._random.random() < 0.5):
                return step.timeout_s
            if temper == "idle":
                return min(step.idle_timeout_s or step.timeout_s, step.timeout_s)
        elif step.step in {"merge", "deliver"}:
            base /= 4
        return min(base, step.timeout_s)

    def kills(self, run: str, step: StepScheduled) -> bool:
        """Whether the tool takes its executor down with it."""
        if step.step not in {"edit", "fix"} or (step.fix is not None and step.fix.mechanical):
            return False
        match self._temper(run, step):
            case "killer":
                return True
            case "kills_once":
                self.calls[run, step.workstream, "kill"] += 1
                return self.calls[run, step.workstream, "kill"] == 1
            case _:
                return False

    # What an attempt comes to

    def result(self, run: str, step: StepScheduled, scheduled_ns: int, now_ns: int) -> StepFinished:
        """The end of an attempt whose tool ended by itself, or was ended by its limits."""
        if step.dry_run:
            return StepFinished(ok=True, dry_run=True)
        if self._random.random() < self.plans[run].check_errors / 4:
            return _failed("unknown", "the executor could not carry it out")
        match step.step:
            case "edit" | "fix":
                return _with_patch(self._paid(run, step, self._change(run, step, scheduled_ns, now_ns)))
            case "static" | "runtime" | "gate":
                return self._check(run, step)
            case "merge":
                return self._merge(run, step)
            case "deliver":
                if self.plans[run].refuses_delivery:
                    return _failed("delivery_refused", "the branch is in use")
                return StepFinished(ok=True)
            case "compensate":
                parse_action(step.action)
                self.calls[run, step.workstream, "compensate"] += 1
                failing = self.calls[run, step.workstream, "compensate"] <= self.plans[run].compensation_fails
                return _failed("tool_failed", "exit 1") if failing else StepFinished(ok=True)

    def partial(self, run: str, step: StepScheduled, scheduled_ns: int) -> StepFinished:
        """What an attempt leaves that was stopped half-way."""
        if step.dry_run or step.step not in {"edit", "fix"}:
            return StepFinished(ok=False, error_class="handed_back", message="stopped")
        snapshot = self._write(run, step, scheduled_ns, static_bad="half-done")
        stopped = StepFinished(ok=False, error_class="handed_back", message="stopped", snapshot=snapshot, changed=True)
        return _with_patch(self._paid(run, step, stopped))

    def _paid(self, run: str, step: StepScheduled, result: StepFinished) -> StepFinished:
        """What the attempt cost, as its tool tells: truly, over its cap, only in part, or not at all."""
        profile = self.definitions[run].spec.profiles.get(step.tool)
        if not self.plans[run].purse or profile is None or profile.type != "ai":
            return result
        purse = self._purses.setdefault(run, Random(self.plans[run].purse))
        cap_nano = int((profile.cost_cap_usd or 0) * 10**9)
        manner = purse.random()
        if manner < 0.2:
            return result
        nano = int(cap_nano * purse.random() * (2 if manner < 0.35 else 1))
        usage = Usage(output_tokens=1, lower_bound=manner > 0.9)
        return msgspec.structs.replace(result, cost=Cost(nano_usd=nano, basis="reported"), usage=usage)

    def _write(
        self,
        run: str,
        step: StepScheduled,
        scheduled_ns: int,
        *,
        static_bad: str = "",
        runtime_bad: str = "",
        text: str = "",
    ) -> Snapshot:
        files: Files = dict(self.repository.files_at(step.input.commit))
        for path in self.definitions[run].bundles[step.workstream].files_scope:
            files[path] = Version(
                text or f"{step.workstream}/{step.attempt}/{scheduled_ns % 1000}", static_bad, runtime_bad
            )
        return self.repository.commit(files, step.input.commit)

    def _change(self, run: str, step: StepScheduled, scheduled_ns: int, now_ns: int) -> StepFinished:
        if step.fix is not None and step.fix.mechanical:
            return self._mechanical(run, step, scheduled_ns)
        plan, temper = self.plans[run], self._temper(run, step)
        self.calls[run, step.workstream, step.step] += 1
        number = self.calls[run, step.workstream, step.step]
        since_s = (now_ns - self._start_ns) / SECOND_NS
        for sick in plan.sick:
            if sick.tool == step.tool and sick.from_s <= since_s < sick.to_s:
                return _failed(sick.error_class, f"{step.tool} is out of order")
        always = _ALWAYS.get(temper)
        if always is not None and not (temper in {"timeout", "idle", "tool_failed"} and step.tool == "spare"):
            violations = ["elsewhere.py"] if always == "scope_violation" else []
            return _failed(always, f"{always} happened", violations=violations)
        if temper == "fails_twice" and number <= 2:
            snapshot = self._write(run, step, scheduled_ns, static_bad="half-done")
            return _failed("tool_failed", "exit 1", snapshot=snapshot, changed=True)
        if temper == "slow" and self._random.random() < 0.5:
            return _failed("timeout", "took too long")
        if temper == "workspace_error" and self._random.random() < 0.6:
            return _failed("workspace_error", "the disk is full")
        if temper == "no_change" and step.step == "edit":
            return _failed("no_change", "nothing changed")
        static_bad, runtime_bad, text = self._defects(temper, step.step, number)
        if step.fix is not None and step.fix.step == "merge" and self._random.random() < 0.2:
            marked = self._write(run, step, scheduled_ns, text=f"{MARKED}half/{step.attempt}")
            message = "conflict markers are left"
            return _failed("merge_conflict", message, snapshot=marked, changed=True, conflicts=["both.py"])
        if step.fix is not None and step.fix.step == "gate" and self._random.random() < 0.7:
            text = f"{PEACE}{step.workstream}/{step.attempt}"
        snapshot = self._write(run, step, scheduled_ns, static_bad=static_bad, runtime_bad=runtime_bad, text=text)
        if step.fix is not None and step.fix.step == "merge" and self.repository.is_marked(snapshot.commit):
            message = "conflict markers are left"
            return _failed("merge_conflict", message, snapshot=snapshot, changed=True, conflicts=["both.py"])
        if snapshot.tree == self.repository.tree[step.input.commit] and step.step == "edit":
            return _failed("no_change", "nothing changed", snapshot=snapshot)
        return StepFinished(ok=True, snapshot=snapshot, changed=True, exit_code=0)

    def _mechanical(self, run: str, step: StepScheduled, scheduled_ns: int) -> StepFinished:
        """A program mends everything, something or nothing, reaches beyond the scope, or does not work at all."""
        random = Random(f"mechanical/{run}/{step.workstream}/{step.attempt}")
        manner = random.random()
        if manner < 0.35:
            return _failed("no_change", "nothing to mend")
        if manner < 0.45:
            return _failed(random.choice(["tool_missing", "tool_failed", "timeout"]), "it does not work")
        left = "" if manner < 0.7 else random.choice(["the-same", f"left-{step.attempt}"])
        snapshot = self._write(run, step, scheduled_ns, static_bad=left)
        if manner > 0.95:
            return _failed("scope_violation", "beyond", snapshot=snapshot, changed=True, violations=["elsewhere.py"])
        return StepFinished(ok=True, snapshot=snapshot, changed=True, exit_code=0)

    def _defects(self, temper: Temper, step: str, number: int) -> tuple[str, str, str]:
        """What is wrong statically and at run time with what is written, and its text if it is not a new one."""
        if step == "edit":
            match temper:
                case "fixable_static" | "never":
                    return f"error-{number}", "", ""
                case "same_error":
                    return "the-same", "", ""
                case "oscillating":
                    return "ping", "", "even"
                case "fixable_runtime":
                    return "", f"broken-{number}", ""
                case "both":
                    return f"error-{number}", f"broken-{number}", ""
                case _:
                    return "", "", ""
        match temper:
            case "never":
                return f"error-fix-{number}", "", ""
            case "same_error":
                return "the-same", "", ""
            case "oscillating":
                return ("pong", "", "odd") if number % 2 else ("ping", "", "even")
            case "both":
                return ("", f"broken-{number}", "") if number == 1 else ("", "", "")
            case "fixable_runtime" if number == 1 and self._random.random() < 0.3:
                return f"fix-broke-{number}", "", ""
            case _:
                return "", "", ""

    def _check(self, run: str, step: StepScheduled) -> StepFinished:
        plan = self.plans[run]
        files = self.repository.files_at(step.input.commit)
        if self._random.random() < plan.check_errors:
            results = [CheckResult(check=c.check, kind=c.kind, name=c.name, outcome="error") for c in step.checks[:1]]
            return StepFinished(ok=False, error_class="check_error", message="the checker crashed", checks=results)
        results, failed = [], []
        for check in step.checks:
            bad = self._bad(run, check.kind, files)
            if not bad and self._random.random() < plan.flaky:
                bad = [f"flaky-{self._random.randint(1, 4)}"]
            outcome: CheckOutcome = "failed" if bad else "passed"
            results.append(CheckResult(check=check.check, kind=check.kind, name=check.name, outcome=outcome))
            failed += bad
            if bad and check.kind == "static":
                break
        if not failed:
            return StepFinished(ok=True, checks=results)
        signature = "/".join(sorted(set(failed)))
        return StepFinished(
            ok=False,
            error_class="check_failed",
            message=signature,
            signature=signature,
            checks=results,
            findings=len(failed),
        )

    def _bad(self, run: str, kind: str, files: Files) -> list[str]:
        if kind == "gate":
            bad = ["red before"] if self.plans[run].red_before else []
            return bad + ["discord" for discord in self.plans[run].discords if _at_odds(discord, files)]
        if kind == "static":
            return [version.static_bad for version in files.values() if version.static_bad]
        bad = [version.runtime_bad for version in files.values() if version.runtime_bad]
        return bad + ["quarrel" for quarrel in self.plans[run].quarrels if _at_odds(quarrel, files)]

    def _merge(self, run: str, step: StepScheduled) -> StepFinished:
        self._merges[run, step.on_behalf] += 1
        assert step.theirs is not None
        assert step.base is not None
        head, theirs = step.input.commit, step.theirs.commit
        if self._merges[run, step.on_behalf] <= self.plans[run].conflicts.get(step.on_behalf, 0):
            scope = list(self.definitions[run].bundles[step.on_behalf].files_scope)
            marked = self.repository.marked(head, theirs, scope)
            return _failed("merge_conflict", "both changed it", conflicts=scope, others=["ws-x"], snapshot=marked)
        if step.input.commit == step.base.commit:
            return StepFinished(ok=True, snapshot=step.theirs, changed=True)
        merged, conflicts = self.repository.merge(head, theirs, step.base.commit)
        if merged is None:
            marked = self.repository.marked(head, theirs, conflicts)
            return _failed("merge_conflict", "both changed it", conflicts=conflicts, snapshot=marked)
        return StepFinished(ok=True, snapshot=merged, changed=True)


def _at_odds(names: Iterable[str], files: Files) -> bool:
    """Whether the work of all of these is there, and none of it gives in."""
    there = [files.get(f"{name}.py") for name in names]
    return not any(version is None or version.text.startswith(PEACE) for version in there)


def _with_patch(result: StepFinished) -> StepFinished:
    """What changed something leaves a patch; its digest is that of the tree, so that equal changes share it."""
    if result.snapshot is None or not result.changed:
        return result
    digest = hashlib.sha256(result.snapshot.tree.encode()).hexdigest()
    patch = Artifact(role="patch", digest=digest, name=f"patch-{digest[:8]}", size_bytes=1)
    return msgspec.structs.replace(result, artifacts=[patch])


def _failed(error_class: ErrorClass, message: str, **rest: object) -> StepFinished:
    return StepFinished(ok=False, error_class=error_class, message=message, **rest)  # type: ignore[arg-type]


__all__ = ["BASE", "TEMPERS", "Plan", "Sick", "Temper", "Tools"]
