"""Running checks on a tree, and what they say.

Checks never produce the tree: whatever one of them changes is reported and put back before the next one looks.
A check that crashed, could not be started, ran out of time, or left no report has no verdict: that is an error, and
neither a failure to be fixed nor "no findings". Nothing but what its report names may be tolerated (`strict`), and nothing
is spared (`per_file`) but what a check that passed has found nothing in.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from services.checks import acceptance_command
from services.diagnostic import Diagnostic, error_signature, tolerable
from services.events import Check, CheckOutcome, CheckResult
from services.executor.clean import CleanFiles, Listing, checker_of, listing, mark
from services.executor.diagnostics import REPORT_DECIDES, Counts, ReportError, finding_codes, judge, read
from services.executor.diagnostics.categories import as_profiled
from services.executor.output import read_output
from services.executor.sandbox import Sandbox
from services.executor.tools import WITHOUT_SANDBOX, Invocation, invoke, untimely
from services.executor.trial import Trials
from services.executor.workspace import Workspace
from services.git import readable
from services.masking import Secrets
from services.process import Supervisor, Tool
from services.profiles import PlaceholderError, ToolProfile, substitute_one
from services.scope import Droppings
from services.spec import Definitions, Ranges

OUTPUT_TAIL_BYTES = 20_000
OUTPUT_MARGIN_BYTES = 512 * 1024
"""What the end of a cut output may add to its limit."""

MESSAGE_CHARS = 1_500
RESULT_CHARS = 400
DISCARDED_MAX = 50
_BAD: Final[frozenset[CheckOutcome]] = frozenset({"failed", "error"})


class Finding(msgspec.Struct, frozen=True):
    """A check that did not pass: its command, the end of its output, and what its report names."""

    check: str
    command: tuple[str, ...]
    exit_code: int | None
    output_tail: str


class Judged(msgspec.Struct):
    """What a set of checks said of one tree. `log` is everything they printed, check by check.

    `diagnostics` are those of checks that failed; `tolerated` those of checks that passed nevertheless, or only warn.
    `untimely` says which limit ended a check that is required, if one did.
    """

    results: list[CheckResult] = []
    diagnostics: list[Diagnostic] = []
    tolerated: list[Diagnostic] = []
    findings: list[Finding] = []
    discarded: list[str] = []
    log: list[bytes] = []
    tool_wall_s: float = 0.0
    untimely: Literal["timeout", "idle_timeout"] | None = None

    @property
    def outcome(self) -> CheckOutcome:
        """The worst of what is required: error if any check could not judge, else failed if any did, else passed."""
        outcomes = {result.outcome for result in self.results if not result.optional}
        if "error" in outcomes:
            return "error"
        return "failed" if "failed" in outcomes else "passed"

    @property
    def worst_first(self) -> list[CheckResult]:
        """The results; those that did not pass come first, of them what only warns last, else in order."""
        return sorted(self.results, key=lambda result: (result.outcome not in _BAD, result.optional))

    @property
    def signature(self) -> str:
        """Equal for the same failure, whatever its line numbers, timings and paths."""
        return error_signature(
            self.diagnostics,
            [(f.check, f.exit_code if f.exit_code is not None else -1, f.output_tail) for f in self.findings],
        )

    @property
    def message(self) -> str:
        """What did not pass, in one line or a few; what only warns comes last, and says so."""
        bad = [result for result in self.worst_first if result.outcome in _BAD]
        told = [
            f"{'warning: ' if result.optional else ''}{result.name}: {result.message or result.outcome}"
            for result in bad
        ]
        return "; ".join(told)[:MESSAGE_CHARS]


class _Asked(msgspec.Struct, frozen=True):
    """One call of a checker: the values of its placeholders, its folder, and the files it is to judge.

    `checker` and `marks` are there where what it finds clean is remembered.
    """

    context: Mapping[str, Any]
    scratch: Path
    checker: str | None = None
    marks: dict[str, str] = {}
    spared: int = 0


class Checking:
    """Runs checks in one workspace."""

    def __init__(
        self,
        supervisor: Supervisor,
        workspace: Workspace,
        *,
        definitions: Definitions,
        ranges: Ranges,
        context: Mapping[str, Any],
        env: Mapping[str, str],
        scratch: Path,
        droppings: Droppings,
        marker: str,
        output_bytes: int,
        secrets: Secrets,
        sandbox: Sandbox,
        trials: Trials,
        clean: CleanFiles,
        on_started: Callable[[Tool], None],
    ) -> None:
        """`definitions` say what checks are for the workstreams in `ranges`; `context` are the placeholders' values.

        `scratch` is the attempt's own folder; `clean` remembers what `per_file` checks have found clean.
        `sandbox` is for profiles that want one, as far as `trials` allow it. `on_started` is told of every tool.
        """
        self._supervisor = supervisor
        self._workspace = workspace
        self._definitions = definitions
        self._ranges = ranges
        self._context = context
        self._env = env
        self._scratch = scratch
        self._droppings = droppings
        self._marker = marker
        self._output_bytes = output_bytes
        self._clean = clean
        self._listing: Listing | None = None
        self._secrets = secrets
        self._sandbox = sandbox
        self._trials = trials
        self._on_started = on_started

    async def all(self, checks: Sequence[Check], *, timeout_s: float, idle_timeout_s: float) -> Judged:
        """In order, each within these limits (idle 0: none).

        The first STATIC check and the first blocking gate that do not pass end it; all others have their say.
        """
        judged = Judged()
        for number, check in enumerate(checks):
            limit_s = self._definitions.time_limit_s(check, timeout_s)
            result = await self._one(check, judged, number, limit_s, idle_timeout_s)
            judged.results.append(msgspec.structs.replace(result, optional=not self._is_required(check)))
            await self._put_back(judged)
            if result.outcome in _BAD and self._definitions.is_blocking(check, self._ranges):
                break
        return judged

    def _is_required(self, check: Check) -> bool:
        return self._definitions.is_required(check, self._ranges)

    async def _one(
        self, check: Check, judged: Judged, number: int, timeout_s: float, idle_timeout_s: float
    ) -> CheckResult:
        if check.kind == "acceptance":
            argv = acceptance_command(self._definitions.text(check), self._has, path=self._env["PATH"])
            if argv is None:
                return _result(check, "not_executable", message="not a command; start it with '$ ' to run it")
            profile = literal_profile(argv, timeout_s=timeout_s)
        else:
            found = self._definitions.profile(check)
            if found is None:
                tool = self._definitions.tool(check)
                return _result(check, "error", message=f"no tool profile {tool!r}: add one, or correct its name")
            profile = found
            if (known := self._known(check, profile, judged)) is not None:
                return known
        scratch = self._scratch
        if number:
            scratch = self._scratch / f"check-{number}"
            scratch.mkdir()
        files = profile.given(self._context["files"])
        if profile.suffixes and not files:
            endings = ", ".join(profile.suffixes)
            return _result(check, "passed", message=f"noop: no file of the scope ends in {endings}")
        asked = await self._asked(check, profile, files, scratch)
        if profile.per_file and asked.spared and not asked.context["files"]:
            return _result(
                check, "passed", message=f"unchanged since it was clean: {asked.spared} files, none looked at"
            )
        invocation = await invoke(
            self._supervisor,
            profile,
            asked.context,
            cwd=self._workspace.path,
            env=self._env,
            scratch=scratch,
            timeout_s=timeout_s,
            idle_timeout_s=idle_timeout_s,
            output_bytes=self._output_bytes,
            marker=self._marker,
            sandbox=self._sandbox,
            trials=self._trials,
            on_started=self._on_started,
        )
        late = untimely(invocation, profile, timeout_s=timeout_s, idle_timeout_s=idle_timeout_s)
        if late is not None and self._is_required(check):
            judged.untimely = late[0]
        trouble = late[1] if late else _trouble(check, profile, invocation)
        return self._judge(check, profile, invocation, asked, judged, trouble)

    def _known(self, check: Check, profile: ToolProfile, judged: Judged) -> CheckResult | None:
        """What a gate has to say, if a check that had its say already runs the very same tool on this tree."""
        for one in judged.results if check.kind == "gate" else ():
            same = Check(check=one.check, kind=one.kind, name=one.name)
            if one.optional and one.outcome != "passed":
                continue  # what it found is no reason for a failure, so it gives none for this one
            if self._definitions.is_strict(same, self._ranges) and self._definitions.profile(same) == profile:
                message = f"as {one.name}: {one.message}" if one.message else f"as {one.name}"
                return msgspec.structs.replace(
                    one, check=check.check, kind=check.kind, name=check.name, wall_s=0.0, message=message[:RESULT_CHARS]
                )
        return None

    async def _asked(self, check: Check, profile: ToolProfile, files: list[str], scratch: Path) -> _Asked:
        """What a checker is asked: for a `per_file` check, without the files that are known to be clean."""
        asked = _Asked({**self._context, "files": files}, scratch)
        if not profile.per_file:
            return asked
        if self._listing is None:
            self._listing = await listing(self._workspace.git(), self._workspace.commit)
        checker = checker_of(check.name, profile, asked.context, self._env, self._listing, self._workspace.path)
        if checker is None:
            return asked
        marks = {file: found for file in files if (found := mark(file, self._listing)) is not None}
        known = self._clean.known(checker)
        rest = [file for file in files if marks.get(file) not in known]
        return _Asked(
            {**self._context, "files": rest},
            scratch,
            checker,
            {file: marks[file] for file in rest if file in marks},
            len(files) - len(rest),
        )

    def _remember(self, asked: _Asked, diagnostics: Sequence[Diagnostic]) -> None:
        """A check has passed: nothing is wrong with the files that were handed over, but for those that diagnostics name.

        A diagnostic of no file, as one that stands for more of them, or of one that was not handed over, leaves nothing
        certain. So does a check that did not pass, which may have stopped at the first file, or told of the first few.
        """
        handed = {str(file).removeprefix("./") for file in asked.context["files"]}
        named = {found.path for found in diagnostics}
        if asked.checker is not None and named <= handed:
            told = [found for file, found in asked.marks.items() if file.removeprefix("./") not in named]
            self._clean.add(asked.checker, told)

    def _judge(
        self,
        check: Check,
        profile: ToolProfile,
        invocation: Invocation,
        asked: _Asked,
        judged: Judged,
        trouble: str,
    ) -> CheckResult:
        """`trouble`: why it has no verdict, if that is known already."""
        output = self._output(invocation.stdout) + self._output(invocation.stderr)
        argv = tuple(self._secrets.mask_text(word) for word in invocation.argv)
        if invocation.unconfined:
            judged.log.append(self._secrets.mask(f"{WITHOUT_SANDBOX}{invocation.unconfined}\n".encode()))
        if output or not invocation.ok:
            judged.log.append(b"$ " + " ".join(argv).encode(errors="replace") + b"\n" + output)
        exit_code = invocation.exit.exit_code if invocation.exit is not None else None
        wall_s = invocation.exit.wall_s if invocation.exit is not None else 0.0
        judged.tool_wall_s += wall_s
        tail = output[-OUTPUT_TAIL_BYTES:].decode(errors="replace")
        diagnostics: list[Diagnostic] = []
        counts = Counts()
        if not trouble:
            try:
                diagnostics, counts = self._report(check, profile, invocation, asked.scratch)
            except (ReportError, PlaceholderError) as error:
                trouble = str(error)
        if trouble:
            return _result(check, "error", exit_code=exit_code, wall_s=wall_s, message=trouble)
        if invocation.ok and not (diagnostics and profile.report.format in REPORT_DECIDES):
            self._remember(asked, diagnostics)
            spared = f"{asked.spared} files unchanged since they were clean were not looked at" if asked.spared else ""
            return _result(check, "passed", exit_code=exit_code, wall_s=wall_s, message=spared, counts=counts)
        lenient = tolerable(diagnostics) and not self._definitions.is_strict(check, self._ranges)
        if lenient and (invocation.ok or exit_code in finding_codes(profile.report.format)):
            judged.tolerated += diagnostics
            return _result(
                check,
                "passed",
                exit_code=exit_code,
                wall_s=wall_s,
                findings=len(diagnostics),
                counts=counts,
                message=f"passed with {len(diagnostics)} findings, for strict is false and none is of syntax, type or a test",
            )
        hint = invocation.hint
        if lenient:
            hint = f"strict is false, but exit code {exit_code} may say more than findings"
        if self._is_required(check):
            judged.diagnostics += diagnostics
            judged.findings.append(Finding(check.name, argv, exit_code, tail))
        else:
            judged.tolerated += diagnostics
        return _result(
            check,
            "failed",
            exit_code=exit_code,
            wall_s=wall_s,
            findings=len(diagnostics),
            counts=counts,
            message=_hinted(_summary(diagnostics, tail), hint),
        )

    def _report(
        self, check: Check, profile: ToolProfile, invocation: Invocation, scratch: Path
    ) -> tuple[list[Diagnostic], Counts]:
        report = profile.report
        if report.format == "none" or invocation.exit is None:
            return [], Counts()
        if report.source in {"stdout", "stderr"}:
            first = report.source == "stdout"
            if invocation.exit.stdout_truncated if first else invocation.exit.stderr_truncated:
                raise ReportError("the tool printed more than is kept, so its report is cut. Have it write a file.")
            output = invocation.stdout if first else invocation.stderr
            data = read_output(output, self._output_bytes + OUTPUT_MARGIN_BYTES)
        else:
            context = {**self._context, "scratch": str(scratch)}
            data = read(Path(substitute_one(report.source, context)))
        exit_code = invocation.exit.exit_code
        found = judge(
            report.format,
            data,
            worktree=self._workspace.path,
            exit_code=exit_code if exit_code is not None else -1,
            success=invocation.ok,
            tool=self._definitions.tool(check),
            expression=report.pattern or "",
        )
        # After parsing: a mask inside a report would break it, and one inside a path before it is made relative as well.
        mask = self._secrets.mask_text
        return [
            msgspec.structs.replace(
                one, tool=check.name, path=mask(one.path), message=mask(one.message), code=mask(one.code)
            )
            for one in (as_profiled(told, profile) for told in found.diagnostics)
        ], found.counts

    def _output(self, file: Path) -> bytes:
        return self._secrets.mask(read_output(file, self._output_bytes + OUTPUT_MARGIN_BYTES))

    async def _put_back(self, judged: Judged) -> None:
        if not self._workspace.changed():
            return
        touched = [
            path
            for path in self._workspace.differences()
            if not self._droppings.matches(path) and not (self._workspace.path / path).is_dir()
        ]
        named = {readable(os.fsencode(path)) for path in touched}
        judged.discarded = sorted({*judged.discarded, *named})[:DISCARDED_MAX]
        await self._workspace.materialise(self._workspace.commit)

    def _has(self, path: str) -> bool:
        return (self._workspace.path / path).exists()


def literal_profile(argv: Sequence[str], *, timeout_s: float) -> ToolProfile:
    """A command line as it is, braces included, as a tool."""
    command, *args = (word.replace("{", "{{").replace("}", "}}") for word in argv)
    return ToolProfile(command=command, args=tuple(args), timeout_sec=timeout_s)


def _trouble(check: Check, profile: ToolProfile, invocation: Invocation) -> str:
    """Why a check has no verdict, or nothing."""
    if invocation.error == "not_found":
        what = f"the plugin {check.name!r} ({profile.plugin})" if profile.plugin else f"the check {check.name!r}"
        return (
            f"tool_missing: {what} needs a program that is not there; install it on the executor, or take the check out: "
            f"{invocation.message}"
        )
    if invocation.exit is None:
        return f"{invocation.error}: {invocation.message}"
    if invocation.exit.ended_by != "itself":
        return f"ended by {invocation.exit.ended_by} after {invocation.exit.wall_s:.1f} s"
    if invocation.exit.exit_code is None:
        return f"ended by signal {invocation.exit.signal}"
    return ""


def _hinted(summary: str, hint: str) -> str:
    return f"{summary[: RESULT_CHARS - len(hint) - 2]}; {hint}" if hint else summary


def _summary(diagnostics: Sequence[Diagnostic], tail: str) -> str:
    if diagnostics:
        first = diagnostics[0]
        more = f" (and {len(diagnostics) - 1} more)" if len(diagnostics) > 1 else ""
        return f"{first.path}:{first.line or 1}: {first.message}{more}"[:RESULT_CHARS]
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    return lines[-1][:RESULT_CHARS] if lines else "failed without output"


def _result(
    check: Check,
    outcome: CheckOutcome,
    *,
    exit_code: int | None = None,
    wall_s: float = 0.0,
    findings: int = 0,
    counts: Counts | None = None,
    message: str = "",
) -> CheckResult:
    return CheckResult(
        check=check.check,
        kind=check.kind,
        name=check.name,
        outcome=outcome,
        exit_code=exit_code,
        wall_s=round(wall_s, 4),
        findings=findings,
        message=message[:RESULT_CHARS],
        tests=counts.tests if counts is not None else None,
        failures=counts.failures if counts is not None else None,
        skipped=counts.skipped if counts is not None else None,
    )
