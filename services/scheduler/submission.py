"""From a request to a run's definition: everything that can be wrong with a submission is found here, before anything is written."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from services.aim import Registry, RegistryError, Skipped, load_registry, parse_registry, pinned
from services.bundle import SET_BYTES_MAX, BundleValidationError, GateType, WorkstreamBundle, parse_bundles
from services.checks import Checks, ChecksError, may_be_command, parse_checks, resolve
from services.config import ConfigError, load_yaml
from services.delivery import carries_credentials, destination_problem, is_among, location_problem
from services.discovery import load_plugins
from services.events import DeliveryStyle, Destination
from services.gates import GATES_BYTES, Gates, GatesError, asked_for, parse_gates
from services.labels import labels_problem, tenant_problem
from services.outcome import NANO_USD_MAX, BudgetMode
from services.plan import Finding, PlanReport, validate_plan
from services.plugins import in_force, requirement_problems, with_plugins
from services.profiles import (
    ProfileError,
    ToolProfile,
    load_tool_profiles,
    overlay,
    parse_tool_profiles,
    placeholders,
    shipped_tool_profiles,
)
from services.resources import resource
from services.scheduler.breaker import BreakerConfigError, parse_breaker_config
from services.scheduler.config import SchedulerConfig
from services.scheduler.recovery import RecoveryConfigError, parse_recovery_config
from services.spec import Options, Repository, RunSpec

RUN_ID = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
REQUEST_ID = re.compile(r"\A[A-Za-z0-9_-]{8,64}\Z")
POOL = re.compile(r"\A[A-Za-z0-9_-]{1,64}\Z")
POOLS_MAX = 10
COMMIT = re.compile(r"\A(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
RESERVED_RUNS = frozenset({"fleet"})
OF_ONE_ATTEMPT = frozenset({"workstream", "step", "attempt", "prompt", "prompt_file", "diagnostics_file"})
CONTEXT_BYTES_MAX = 64 * 1024
BREAKER_BYTES_MAX = 64 * 1024
RECOVERY_BYTES_MAX = 64 * 1024
SCHEDULINGS: dict[str, Literal["barrier", "eager"]] = {"": "barrier", "barrier": "barrier", "eager": "eager"}
BUDGET_MODES: dict[str, BudgetMode] = {"": "halt", "halt": "halt", "warn": "warn", "continue": "continue"}
DELIVERIES: dict[str, Literal["wave", "end", "never"]] = {"": "wave", "wave": "wave", "end": "end", "never": "never"}
STYLES: dict[str, DeliveryStyle] = {"": "rebase", "rebase": "rebase", "squash": "squash", "merge": "merge"}
REVIEWS: dict[str, Literal["wait", "fail"]] = {"wait": "wait", "fail": "fail"}
TIMEOUT_S_MAX = 30 * 86_400.0


class SubmissionError(ValueError):
    """A submission cannot become a run: `field` is what is wrong, the text what to do, `reason` stable for programs."""

    def __init__(self, field: str, message: str, reason: str = "INVALID_SUBMISSION") -> None:
        """`reason` is UPPER_SNAKE."""
        super().__init__(message)
        self.field = field
        self.reason = reason


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """A submission's header as plain values; see RunHeader in the protocol."""

    request_id: str
    run: str = ""
    location: str = ""
    base_commit: str = ""
    base_ref: str = ""
    max_workers: int = 0
    wave_delay_s: float = 0.0
    fail_fast: bool = False
    dry_run: bool = False
    timeout_s: float = 0.0
    stepwise: bool = False
    context_json: str = ""
    scheduling: str = ""
    review: str = ""
    paused: bool = False
    budget_nano: int | None = None
    budget_mode: str = ""
    pools: tuple[str, ...] = ()
    deliver: str = ""
    delivery_style: str = ""
    delivery_remote: str = ""
    delivery_credential: str = ""
    delivery_hook: str = ""
    checks_toml: bytes = b""
    tool_profiles_json: bytes = b""
    breaker_json: bytes = b""
    recovery_json: bytes = b""
    aim_registry_json: bytes = b""
    gates_json: bytes = b""
    actor: str = ""
    labels: dict[str, str] = {}
    tenant: str = ""


class Planned(msgspec.Struct, frozen=True):
    """A submission that was looked through: its report, and its definition if the report has no errors.

    `labels` and `tenant` are the submission's, over those of the repository's settings. They are no part of the definition.
    """

    report: PlanReport
    spec: RunSpec | None
    labels: dict[str, str] = {}
    tenant: str = ""


class Submissions:
    """Turns requests into definitions, by this scheduler's policy."""

    def __init__(self, config: SchedulerConfig) -> None:
        """Reads the policy files once.

        Raises ConfigError, ProfileError, BreakerConfigError, RecoveryConfigError, RegistryError, GatesError.
        """
        self._config = config
        own = load_tool_profiles(config.tool_profiles) if config.tool_profiles is not None else {}
        self._plugins = load_plugins(config.plugins) if config.plugins is not None else {}
        self._profiles = overlay(shipped_tool_profiles(), with_plugins(own, self._plugins))
        file = config.breaker_file or resource("config/circuit_breaker_config.yaml")
        self._breaker = load_yaml(file, BREAKER_BYTES_MAX)
        parse_breaker_config(self._breaker, str(file))
        file = config.recovery_file or resource("config/recovery.yaml")
        self._recovery = load_yaml(file, RECOVERY_BYTES_MAX)
        parse_recovery_config(self._recovery, str(file))
        file = config.gates_file or resource("config/gates.yaml")
        self._gates = parse_gates(load_yaml(file, GATES_BYTES), str(file))
        self._registry = load_registry(config.aim_registry_file or resource("config/aim_registry.json"))

    def plan(
        self, header: Header, documents: Sequence[tuple[str, bytes]], *, behalf: Callable[[str], str] = str
    ) -> Planned:
        """Look a submission through. Raises SubmissionError for what is not about the plan itself, and what `behalf` raises.

        `behalf` makes of the tenant that it names, "" for none, the one that it is for; by default that very one.
        """
        run = self._run(header)
        checks = self._checks(header)
        labels, tenant = _named_by(header, checks)
        tenant = behalf(tenant)
        options = self._options(header, labels, tenant)
        profiles = self._tool_profiles(header)
        breaker = self._breaker_of(header)
        recovery = self._recovery_of(header)
        gates = self._gates_of(header)
        bundles = self._bundles(documents)
        self._check_commands(checks, options.context, bundles)
        try:
            planned = self._planned(header, run, options, checks, profiles, breaker, recovery, gates, bundles)
            return msgspec.structs.replace(planned, labels=labels, tenant=tenant)
        except ChecksError as error:
            raise SubmissionError("documents", str(error), "INVALID_CHECKS") from error

    @property
    def profiles(self) -> Mapping[str, ToolProfile]:
        """The tool profiles of this scheduler, by id."""
        return self._profiles

    def _planned(
        self,
        header: Header,
        run: str,
        options: Options,
        checks: Checks,
        profiles: dict[str, ToolProfile],
        breaker: Mapping[str, Any],
        recovery: Mapping[str, Any],
        gates: Gates,
        bundles: list[WorkstreamBundle],
    ) -> Planned:
        registry, warnings = self._registry_of(header, profiles, bundles)
        report = validate_plan(
            bundles,
            known_tools=profiles.keys(),
            max_workers=options.max_workers,
            checks_present=lambda bundle: has_checks(checks, options.context, bundle, profiles),
            registry=registry or None,
        )
        errors = [
            *report.errors,
            *_unknown_check_tools(bundles, checks, options.context, profiles),
            *_unsound_checks(bundles, checks, options.context, profiles),
            *_unusable_gates(bundles, checks, profiles, gates),
            *_unknown_fallbacks(bundles, profiles),
            *_unmet_requirements(bundles, checks, options.context, profiles),
            *_uncapped_tools(bundles, checks, options, profiles, registry),
            *_unusable_hook(options.destination.hook, profiles),
        ]
        if not bundles:
            errors.append(Finding(code="EMPTY_PLAN", message="there is no workstream", remedy="declare at least one"))
        report = msgspec.structs.replace(
            report, errors=errors, warnings=[*report.warnings, *warnings], valid=not errors
        )
        if errors or report.plan is None:
            return Planned(report, None)
        spec = RunSpec(
            run=run,
            repository=Repository(
                location=header.location, base_commit=header.base_commit, base_ref=header.base_ref[:200]
            ),
            bundles=bundles,
            waves=[list(wave) for wave in report.plan.waves],
            checks=checks,
            profiles=pinned_profiles(
                profiles, bundles, checks, options.context, registry, gates, options.destination.hook
            ),
            breaker=dict(breaker),
            recovery=dict(recovery),
            options=options,
            actor=header.actor[:200] or "unknown",
            registry=registry,
            gates=gates if _gate_types(bundles, checks) else {},
        )
        return Planned(report, spec)

    def _run(self, header: Header) -> str:
        if not REQUEST_ID.match(header.request_id):
            raise SubmissionError("request_id", "give a fresh UUID of 8 to 64 letters, digits, '-' or '_'")
        run = header.run or run_of(header.request_id)
        if not RUN_ID.match(run) or run in RESERVED_RUNS:
            raise SubmissionError("run", f"{run[:80]!r} is no run id: use 1 to 64 letters, digits, '-' or '_'")
        if not header.location or len(header.location) > 4096:
            raise SubmissionError(
                "repository.location", "name the repository: a path on the executors' machine, or a URL"
            )
        if carries_credentials(header.location):
            raise SubmissionError(
                "repository.location",
                "carries credentials or a query, which would be recorded: give the address alone, and the credentials to the "
                "executors' own git (an ssh key, a credential helper)",
            )
        if problem := location_problem(header.location):
            raise SubmissionError(
                "repository.location", f"{problem}: give an absolute path, or an http(s), ssh or file address"
            )
        self._check_place("repository.location", header.location)
        if not COMMIT.match(header.base_commit):
            raise SubmissionError(
                "repository.base_commit", "give the full commit id to start from, 40 or 64 hex digits"
            )
        return run

    def _check_place(self, field: str, location: str) -> None:
        """Raise SubmissionError unless runs may be over the repository at `location`, and deliver there."""
        if not is_among(location, self._config.repositories):
            raise SubmissionError(
                field,
                "is none of the repositories that this scheduler works on: ask its operator to add it to `repositories`",
                "REPOSITORY_NOT_ALLOWED",
            )

    def _options(self, header: Header, labels: Mapping[str, str], tenant: str) -> Options:
        config = self._config
        workers = header.max_workers or config.max_workers
        if not 1 <= workers <= config.max_workers_limit:
            raise SubmissionError("options.max_workers", f"{workers} is not between 1 and {config.max_workers_limit}")
        if not 0 <= header.wave_delay_s <= 86_400:
            raise SubmissionError("options.wave_delay_s", "is not between 0 and 86400 seconds")
        default_s = config.stepwise_timeout_s if header.stepwise else config.run_timeout_s
        timeout_s = header.timeout_s or default_s
        if not 0 < timeout_s <= TIMEOUT_S_MAX:
            raise SubmissionError("options.timeout_s", f"is not between 0 and {TIMEOUT_S_MAX:g} seconds")
        if header.scheduling not in SCHEDULINGS:
            raise SubmissionError("options.scheduling", f"{header.scheduling[:40]!r} is not barrier or eager")
        if header.review and header.review not in REVIEWS:
            raise SubmissionError("options.review", f"{header.review[:40]!r} is not wait or fail")
        if header.budget_mode not in BUDGET_MODES:
            raise SubmissionError("options.budget_mode", f"{header.budget_mode[:40]!r} is not halt, warn or continue")
        if header.deliver not in DELIVERIES:
            raise SubmissionError("options.deliver", f"{header.deliver[:40]!r} is not wave, end or never")
        if header.delivery_style not in STYLES:
            raise SubmissionError(
                "options.delivery_style", f"{header.delivery_style[:40]!r} is not rebase, squash or merge"
            )
        if header.budget_nano is not None and not 0 <= header.budget_nano <= NANO_USD_MAX:
            raise SubmissionError("options.budget_nano", f"is not between 0 and {NANO_USD_MAX} nano-dollars")
        ruled = (rule.pool for rule in config.pool_rules if rule.matches(labels, tenant))
        pools = header.pools or (next(ruled, "default"),)
        if len(pools) > POOLS_MAX or len(set(pools)) < len(pools) or not all(POOL.match(pool) for pool in pools):
            raise SubmissionError(
                "options.pools", f"name at most {POOLS_MAX} pools, each once, by letters, digits, '-' and '_'"
            )
        return Options(
            max_workers=workers,
            wave_delay_s=header.wave_delay_s,
            fail_fast=header.fail_fast,
            dry_run=header.dry_run,
            timeout_s=timeout_s,
            stepwise=header.stepwise,
            queue_timeout_s=config.queue_timeout_s,
            losses_max=config.losses_max,
            verdict_reuse_s=config.verdict_reuse_s,
            pool=pools[0],
            other_pools=list(pools[1:]),
            scheduling=SCHEDULINGS[header.scheduling],
            review="fail" if header.fail_fast else REVIEWS[header.review or config.review],
            paused=header.paused,
            budget_nano=header.budget_nano,
            budget_mode=BUDGET_MODES[header.budget_mode],
            deliver=DELIVERIES[header.deliver],
            destination=self._destination(header),
            context=_context(header.context_json),
        )

    def _destination(self, header: Header) -> Destination:
        remote = "" if header.delivery_remote == header.location else header.delivery_remote
        to = Destination(
            style=STYLES[header.delivery_style],
            remote=remote,
            credential=header.delivery_credential,
            hook=header.delivery_hook,
        )
        self.check_destination(to, header.location)
        return to

    def check_destination(self, to: Destination, location: str) -> None:
        """Raise SubmissionError unless a run over the repository at `location` may be delivered there."""
        if problem := destination_problem(to, location):
            raise SubmissionError("delivery", problem, "INVALID_DELIVERY")
        self._check_place("delivery", to.remote or location)
        if to.credential and not self._config.client_profiles:
            raise SubmissionError(
                "delivery",
                "this scheduler takes no references to credentials from submissions: let the executors' own git have them",
                "INVALID_DELIVERY",
            )

    def check_again(self, spec: RunSpec) -> None:
        """Raise SubmissionError unless the definition of an earlier run could be submitted now, by this scheduler's policy."""
        self._check_place("repository.location", spec.repository.location)
        self.check_destination(spec.options.destination, spec.repository.location)
        self._check_commands(spec.checks, spec.options.context, spec.bundles)
        if self._config.client_profiles:
            return
        for tool, profile in spec.profiles.items():
            if self._profiles.get(tool) != profile:
                raise SubmissionError(
                    "tool_profiles_json",
                    f"the run has a tool profile {tool!r} that is not this scheduler's: submit its bundles anew",
                    "INVALID_TOOL_PROFILES",
                )

    def _check_commands(self, checks: Checks, context: Mapping[str, Any], bundles: Sequence[WorkstreamBundle]) -> None:
        """Raise SubmissionError for command lines in a submission, unless it may bring tool profiles as well.

        What it says to stand in swell.toml at the base commit is not seen here, so it counts as the submission's own.
        """
        if self._config.client_profiles:
            return
        if checks.setup:
            raise _command_given(
                "checks_toml",
                "setup",
                "take it out of swell.toml, whose origin a scheduler cannot see, and let the executors' image bring what it installs",
            )
        if context.get("setup"):
            raise _command_given("options.context_json", "setup", "leave it out")
        for key in context:
            if key.endswith("_url"):
                raise _command_given(
                    "options.context_json", key, "an address gets the credentials of the tool that is called with it"
                )
        for bundle in bundles:
            if bundle.checks.setup:
                raise _command_given("documents", f"metadata.swell.setup of {bundle.id}", "leave it out")
            for test in bundle.acceptance_tests:
                if may_be_command(test):
                    raise _command_given(
                        "documents",
                        f"the acceptance test {test[:80]!r} of {bundle.id}",
                        "begin it with '# ' if it is prose, or name a tool profile in runtime_tool or test_gates",
                    )

    def _checks(self, header: Header) -> Checks:
        if not header.checks_toml:
            return Checks()
        try:
            return parse_checks(header.checks_toml, "swell.toml")
        except ChecksError as error:
            raise SubmissionError("checks_toml", str(error), "INVALID_CHECKS") from error

    def _tool_profiles(self, header: Header) -> dict[str, ToolProfile]:
        if not header.tool_profiles_json:
            return dict(self._profiles)
        if not self._config.client_profiles:
            raise SubmissionError(
                "tool_profiles_json",
                "this scheduler takes no tool profiles from submissions: ask its operator to add them",
            )
        try:
            given = parse_tool_profiles(header.tool_profiles_json, "tool profiles")
            return overlay(self._profiles, with_plugins(given, self._plugins))
        except ProfileError as error:
            raise SubmissionError("tool_profiles_json", str(error), "INVALID_TOOL_PROFILES") from error

    def _breaker_of(self, header: Header) -> Mapping[str, Any]:
        if not header.breaker_json:
            return self._breaker
        try:
            given = json.loads(header.breaker_json) if len(header.breaker_json) <= BREAKER_BYTES_MAX else None
            if not isinstance(given, dict):
                raise BreakerConfigError(f"must be an object of at most {BREAKER_BYTES_MAX} bytes")
            parse_breaker_config(given, "the submission's breaker configuration")
        except (ValueError, RecursionError) as error:
            raise SubmissionError("breaker_json", str(error), "INVALID_BREAKER_CONFIG") from error
        return given

    def _recovery_of(self, header: Header) -> Mapping[str, Any]:
        if not header.recovery_json:
            return self._recovery
        try:
            given = json.loads(header.recovery_json) if len(header.recovery_json) <= RECOVERY_BYTES_MAX else None
            if not isinstance(given, dict):
                raise RecoveryConfigError(f"must be an object of at most {RECOVERY_BYTES_MAX} bytes")
            parse_recovery_config(given, "the submission's recovery table")
        except (ValueError, RecursionError) as error:
            raise SubmissionError("recovery_json", str(error), "INVALID_RECOVERY_CONFIG") from error
        return given

    def _gates_of(self, header: Header) -> Gates:
        if not header.gates_json:
            return self._gates
        try:
            given = json.loads(header.gates_json) if len(header.gates_json) <= GATES_BYTES else None
            if not isinstance(given, dict):
                raise GatesError(f"must be an object of at most {GATES_BYTES} bytes")
            return self._gates | parse_gates(given, "the submission's gates")
        except (ValueError, RecursionError) as error:
            raise SubmissionError("gates_json", str(error), "INVALID_GATES") from error

    def _registry_of(
        self, header: Header, profiles: Mapping[str, ToolProfile], bundles: Sequence[WorkstreamBundle]
    ) -> tuple[Registry | UnsetType, list[Finding]]:
        """What routes the capabilities that the bundles ask for, and what cannot be routed as the registry says.

        One that cannot be used routes nothing: that is a warning, and every workstream's own tool does the work.
        """
        wanted = {bundle.capability for bundle in bundles if bundle.capability is not None}
        if not wanted:
            return UNSET, []
        registry = self._registry
        try:
            if header.aim_registry_json:
                registry = parse_registry(header.aim_registry_json, "the submission's AIM registry")
        except RegistryError as error:
            message, remedy = str(error).rstrip("."), "mend it; until then the workstreams' own tools are used"
            return UNSET, [Finding(code="INVALID_AIM_REGISTRY", message=message, remedy=remedy)]
        found, skipped = pinned(registry, profiles, wanted)
        return found, [_skipped(tool) for tool in skipped]

    def _bundles(self, documents: Sequence[tuple[str, bytes]]) -> list[WorkstreamBundle]:
        try:
            return parse_bundles(documents, file_bytes=SET_BYTES_MAX)
        except BundleValidationError as error:
            graph = {"UNKNOWN_DEPENDENCY", "CYCLE"}
            reason = "INVALID_PLAN" if {p.code for p in error.problems} <= graph else "INVALID_BUNDLES"
            raise SubmissionError("documents", str(error), reason) from error


def _command_given(field: str, what: str, remedy: str) -> SubmissionError:
    return SubmissionError(
        field,
        f"this scheduler takes no command lines and no addresses of services from submissions (client_profiles), and {what} is "
        f"one: {remedy}",
        "COMMANDS_NOT_TAKEN",
    )


def _skipped(tool: Skipped) -> Finding:
    return Finding(
        code="TOOL_NOT_ROUTED",
        message=f"the route of {tool.capability} skips {tool.tool!r}: {tool.reason}",
        remedy="add a tool profile for it, or take it out of the AIM registry",
    )


def run_of(request_id: str) -> str:
    """The id of the run that a request makes, when it names none."""
    return f"run-{hashlib.sha256(request_id.encode()).hexdigest()[:12]}"


def _named_by(header: Header, checks: Checks) -> tuple[dict[str, str], str]:
    """The labels and the tenant of a submission. Raises SubmissionError."""
    labels = {**(checks.labels or {}), **header.labels}
    if problem := labels_problem(header.labels) or labels_problem(labels):
        raise SubmissionError("labels", problem)
    if problem := tenant_problem(header.tenant):
        raise SubmissionError("tenant", problem)
    return labels, header.tenant or checks.tenant or ""


def _context(text: str) -> dict[str, Any]:
    if not text:
        return {}
    if len(text) > CONTEXT_BYTES_MAX:
        raise SubmissionError("options.context_json", f"is over {CONTEXT_BYTES_MAX} bytes")
    try:
        given = msgspec.json.decode(text, type=dict[str, str | int | float | bool | list[str]])
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise SubmissionError(
            "options.context_json", f"must be an object of strings, numbers, booleans and lists of strings: {error}"
        ) from error
    if "\0" in text or any("\0" in str(value) for value in given.values()):
        raise SubmissionError("options.context_json", "holds a NUL character, which no argument can: remove it")
    try:
        resolve(None, given, None)
    except ChecksError as error:
        raise SubmissionError("options.context_json", str(error), "INVALID_CHECKS") from error
    return dict(given)


def has_checks(
    checks: Checks, context: Mapping[str, Any], bundle: WorkstreamBundle, profiles: Mapping[str, ToolProfile]
) -> bool:
    """Whether anything at all checks a workstream; a gate that only warns does not."""
    effective = resolve(checks, context, bundle.checks)
    return bool(
        effective.static_tools
        or effective.runtime_tool
        or bundle.acceptance_tests
        or any(gate.required for gate in asked_for(effective.test_gates, bundle.test_gates))
        or any(profile.plugin is not None for profile in profiles.values())
    )


def _named_tools(
    bundles: Sequence[WorkstreamBundle],
    checks: Checks,
    context: Mapping[str, Any],
    profiles: Mapping[str, ToolProfile],
) -> dict[str, str]:
    """Every tool profile that the checks name, and every plugin, with the first workstream that needs it."""
    named: dict[str, str] = {}
    resolved = {}
    for bundle in bundles:
        if bundle.checks not in resolved:
            resolved[bundle.checks] = in_force(checks, context, bundle.checks, profiles).tools
        for tool in resolved[bundle.checks]:
            named.setdefault(tool, bundle.id)
    return named


def _unknown_check_tools(
    bundles: Sequence[WorkstreamBundle],
    checks: Checks,
    context: Mapping[str, Any],
    profiles: Mapping[str, ToolProfile],
) -> list[Finding]:
    return [
        Finding(
            code="UNKNOWN_TOOL",
            workstream=workstream,
            message=f"its checks name the tool {tool!r}, which has no profile",
            remedy="add a tool profile, or correct swell.toml or metadata.swell",
        )
        for tool, workstream in _named_tools(bundles, checks, context, profiles).items()
        if tool not in profiles
    ]


def _gate_types(bundles: Sequence[WorkstreamBundle], checks: Checks) -> dict[GateType, str]:
    """Every type of gate that is asked for, with the first workstream that asks for it."""
    found: dict[GateType, str] = {}
    for bundle in bundles:
        for gate in asked_for(checks.test_gates or (), bundle.test_gates):
            found.setdefault(gate.type, bundle.id)
    return found


def _unusable_gates(
    bundles: Sequence[WorkstreamBundle], checks: Checks, profiles: Mapping[str, ToolProfile], gates: Gates
) -> list[Finding]:
    """Gates that are asked for, and that nothing could judge."""
    findings = []
    for type_, workstream in _gate_types(bundles, checks).items():
        gate = gates.get(type_)
        if gate is None:
            code, message = "GATE_WITHOUT_TOOL", f"it asks for {type_}, and nothing says which tool judges it"
            remedy = f"give {type_} a tool in the file that gates_file of swell.toml names, or drop the gate"
        elif gate.tool not in profiles:
            code, message = "UNKNOWN_TOOL", f"its {type_} is judged by the tool {gate.tool!r}, which has no profile"
            remedy = "add a tool profile, or name another tool for the gate"
        elif profiles[gate.tool].type == "ai":
            code, message = "GATE_OF_AI", f"its {type_} is judged by {gate.tool!r}, which is an AI tool"
            remedy = "name a checker: what it says of a tree has to be the same each time"
        else:
            continue
        findings.append(Finding(code=code, workstream=workstream, message=message, remedy=remedy))
    judged_by = {gates[type_].tool for type_ in _gate_types(bundles, checks) if type_ in gates}
    return findings + _of_one_attempt(judged_by, profiles)


def _of_one_attempt(judging: AbstractSet[str], profiles: Mapping[str, ToolProfile]) -> list[Finding]:
    """Checks whose verdict would not be that of any other attempt on the same tree."""
    findings = []
    for tool in sorted(judging & profiles.keys()):
        own = sorted(placeholders(profiles[tool], fix=False) & OF_ONE_ATTEMPT)
        if own:
            findings.append(
                Finding(
                    code="CHECK_OF_ONE_ATTEMPT",
                    message=f"the check {tool!r} depends on {', '.join(f'{{{name}}}' for name in own)}",
                    remedy="a check may depend on the tree, its files and the run's context only",
                )
            )
    return findings


def _uncapped_tools(
    bundles: Sequence[WorkstreamBundle],
    checks: Checks,
    options: Options,
    profiles: Mapping[str, ToolProfile],
    registry: Registry | UnsetType,
) -> list[Finding]:
    """Under a budget, every AI tool that changes the tree has to say what an attempt may cost: that is what is reserved."""
    if options.budget_mode != "halt" or options.dry_run:
        return []
    findings = []
    for bundle in bundles:
        if options.budget_nano is None and bundle.max_cost_usd is None:
            continue
        effective = resolve(checks, options.context, bundle.checks)
        named = (bundle.tool, effective.fix_tool, *effective.fix_tiers, *_routed(bundle, registry))
        for tool in dict.fromkeys(name for name in named if name):
            profile = profiles.get(tool)
            if profile is not None and profile.type == "ai" and profile.cost_cap_usd is None:
                whose = "the run" if options.budget_nano is not None else "the workstream"
                findings.append(
                    Finding(
                        code="UNCAPPED_TOOL",
                        workstream=bundle.id,
                        message=f"{whose} has a budget, and nothing says what an attempt of {tool!r} costs at most",
                        remedy="set cost_cap_usd in its profile",
                    )
                )
    return findings


def _routed(bundle: WorkstreamBundle, registry: Registry | UnsetType) -> tuple[str, ...]:
    """The profiles that the route of its capability leads to."""
    if not isinstance(registry, Registry) or bundle.capability is None:
        return ()
    route = registry.capabilities.get(bundle.capability)
    return () if route is None else registry.profiles_of(route)


def _unknown_fallbacks(bundles: Sequence[WorkstreamBundle], profiles: Mapping[str, ToolProfile]) -> list[Finding]:
    first = {bundle.tool: bundle.id for bundle in reversed(bundles)}
    return [
        Finding(
            code="UNKNOWN_TOOL",
            workstream=workstream,
            message=f"its tool {tool!r} may be replaced by {other!r}, which has no profile",
            remedy="add a tool profile, or correct `fallback` of the profile",
        )
        for tool, workstream in sorted(first.items())
        if tool in profiles
        for other in profiles[tool].fallback
        if other not in profiles
    ]


def _unmet_requirements(
    bundles: Sequence[WorkstreamBundle],
    checks: Checks,
    context: Mapping[str, Any],
    profiles: Mapping[str, ToolProfile],
) -> list[Finding]:
    """What checks require in vain, told once, for the first workstream that it concerns."""
    found: dict[Finding, str] = {}
    for override, workstream in {bundle.checks: bundle.id for bundle in reversed(bundles)}.items():
        effective = in_force(checks, context, override, profiles)
        for problem in requirement_problems(effective.static_tools, profiles):
            found.setdefault(problem, workstream)
    return [msgspec.structs.replace(problem, workstream=workstream) for problem, workstream in found.items()]


def _unsound_checks(
    bundles: Sequence[WorkstreamBundle],
    checks: Checks,
    context: Mapping[str, Any],
    profiles: Mapping[str, ToolProfile],
) -> list[Finding]:
    """What would make a verdict depend on more than the tree and the check's definition."""
    resolved = {bundle.checks: in_force(checks, context, bundle.checks, profiles) for bundle in bundles}
    setups = {effective.setup for effective in resolved.values()}
    findings = []
    if len(setups) > 1:
        findings.append(
            Finding(
                code="SETUP_DIFFERS",
                message="workstreams of one run have different setup commands, and a merged tree can have only one",
                remedy="put setup into swell.toml, or make runs of their own",
            )
        )
    mending = {tool for e in resolved.values() for tool in e.autofix if tool in profiles}
    findings += [
        Finding(
            code="AUTOFIX_OF_AI",
            message=f"autofix names {tool!r}, which is an AI tool: nothing would count how often it is called",
            remedy="name it in fix_tool or fix_tiers",
        )
        for tool in sorted(mending)
        if profiles[tool].type == "ai"
    ]
    judging = {tool for e in resolved.values() for tool in (*e.static_tools, e.runtime_tool) if tool is not None}
    return findings + _of_one_attempt(judging, profiles)


def _unusable_hook(hook: str, profiles: Mapping[str, ToolProfile]) -> list[Finding]:
    """What is to be called at a delivery has to be a program that is known, and no AI tool."""
    if not hook or (hook in profiles and profiles[hook].type != "ai"):
        return []
    what = "is an AI tool" if hook in profiles else "has no tool profile"
    remedy = "name the profile of a program (`delivery_hook`), or none"
    return [Finding(code="UNKNOWN_TOOL", message=f"delivery hook {hook[:80]!r} {what}", remedy=remedy)]


def pinned_profiles(
    profiles: Mapping[str, ToolProfile],
    bundles: Sequence[WorkstreamBundle],
    checks: Checks,
    context: Mapping[str, Any],
    registry: Registry | UnsetType,
    gates: Gates,
    hook: str = "",
) -> dict[str, ToolProfile]:
    """Only what the run can need is pinned into it: tools, what may stand in for them, checks, gates, what is called at a delivery."""
    needed = {bundle.tool for bundle in bundles} | _named_tools(bundles, checks, context, profiles).keys() | {hook}
    needed |= {gates[type_].tool for type_ in _gate_types(bundles, checks) if type_ in gates}
    if isinstance(registry, Registry):
        needed |= {tool.profile for tool in registry.tools.values()}
    pending = [tool for tool in needed if tool in profiles]
    pinned = {}
    while pending:
        tool = pending.pop()
        if tool not in pinned:
            pinned[tool] = profiles[tool]
            pending += [other for other in profiles[tool].fallback if other in profiles]
    return dict(sorted(pinned.items()))


__all__ = ["ConfigError", "Header", "Planned", "SubmissionError", "Submissions"]
