"""The command line. Commands parse, call, print; `view`, `follow` and `listing` make what they print.

Exit codes: 0 all completed; 1 something failed, was blocked or cancelled, or the cluster is in trouble; 2 the input
cannot be used. Everything heavy is imported by the command that needs it, so that `swell --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from swell import audit, control, costs, explain, ledger, patch, reporting, review, sql, stats
from swell import budget as budget_commands
from swell.command import cluster_client, command, much_is_made, say
from swell.errors import invalid
from swell.options import (
    AllowDirty,
    AttemptOption,
    Base,
    Breaker,
    Budget,
    BudgetModeChoice,
    Context,
    Deliver,
    DeliveryCredential,
    DeliveryHook,
    DeliveryRemote,
    DeliveryStyleChoice,
    DryRun,
    Eager,
    FailFast,
    JsonOption,
    Labels,
    Location,
    MaxWorkers,
    PathArgument,
    Paused,
    Pools,
    Profiles,
    Recovery,
    RepoOption,
    ReviewChoice,
    RunArgument,
    RunId,
    Since,
    Tenant,
    Timeout,
    ToolFilter,
    Until,
    WaveDelay,
    WorkstreamArgument,
)
from swell.text import visible

if TYPE_CHECKING:
    from swell.client import Client
    from swell.settings import RunSettings
    from swell.submission import Submission
    from swell.view import Style

app = typer.Typer(
    name="swell",
    help="Runs fleets of AI coding tools over a dependency graph of workstreams, and merges only what is green.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

ORDERS = {"submitted": "submitted_ns", "finished": "finished_ns", "cost": "cost_nano", "attempts": "attempts"}
"""What `--order` of `list` takes, as the ledger calls it."""
SEVERITIES = ("debug", "info", "warning", "error", "critical")
RECORDED_S = 5.0
"""How long `submit` waits until the ledger has recorded the run; it is in the log in any case."""


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show where in Swell an error arose.")] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ["SWELL_DEBUG"] = "1"


# Before a run


@app.command(rich_help_panel="Before a run")
@command
def init(
    repo: RepoOption = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing swell.toml.")] = False,
) -> int:
    """Write a swell.toml that names what checks this repository."""
    from swell.listing import detected_checks  # noqa: PLC0415 - as the module says

    file, text = detected_checks(repo)
    if file.exists() and not force:
        raise invalid("EXISTS", "there is a swell.toml already", "Edit it, or replace it with --force.", str(file))
    try:
        file.write_text(text)
    except OSError as error:
        raise invalid("NOT_WRITABLE", f"cannot be written: {error.strerror}", "Make it writable.", str(file)) from error
    say([text.rstrip(), "", f"wrote {file}: look it over, then commit it"])
    return 0


@app.command(rich_help_panel="Before a run")
@command
def validate(path: PathArgument = None, repo: RepoOption = Path(), tool_profiles: Profiles = None) -> int:
    """Tell everything that is wrong with bundles."""
    from swell.listing import local_plan, warning_lines  # noqa: PLC0415 - as the module says

    report = local_plan(_bundle_path(path, repo), repo, tool_profiles)
    if not report.valid:
        say(visible(report.to_text()).rstrip())
        return 2
    assert report.plan is not None  # noqa: S101 - a valid report has a plan
    say(f"valid: {report.plan.total_workstreams} workstreams in {report.plan.total_waves} waves")
    for line in warning_lines(report.warnings):
        say(line)
    return 0


@app.command(rich_help_panel="Before a run")
@command
def plan(
    path: PathArgument = None,
    repo: RepoOption = Path(),
    *,
    tool_profiles: Profiles = None,
    like: Annotated[
        str, typer.Option("--like", help="An earlier run: take its durations and changed files.", metavar="RUN")
    ] = "",
    workers: Annotated[
        list[int] | None,
        typer.Option("--workers", min=1, max=10_000, help="What if so many tools ran at a time; repeatable."),
    ] = None,
    executors: Annotated[
        list[int] | None, typer.Option("--executors", min=1, max=10_000, help="What if there were so many; repeatable.")
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option("--slots", min=1, max=1_000, help="With --executors: attempts each runs at a time. Default: 2."),
    ] = None,
    budget: Budget = None,
    as_mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid flowchart.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Show the waves of a set of bundles, why each workstream stands where it does, and what is ahead."""
    from services.bundle import PLANNED_MAX  # noqa: PLC0415 - as the module says
    from swell.diagram import mermaid  # noqa: PLC0415 - as above
    from swell.listing import plan_lines, plan_of  # noqa: PLC0415 - as above
    from swell.outlook import SLOTS, history_of, outlook_lines, outlook_of, with_outlook  # noqa: PLC0415 - as above
    from swell.settings import MAX_WORKERS, RunSettings, in_force  # noqa: PLC0415 - as above
    from swell.submission import load_bundles  # noqa: PLC0415 - as above

    if as_json and as_mermaid:
        raise invalid("BAD_OPTIONS", "a plan is printed as JSON or as Mermaid", "Leave one of the two out.")
    if slots is not None and not executors:
        raise invalid(
            "BAD_OPTIONS", "--slots are those of executors", "Say how many with --executors, or leave it out."
        )
    history = outlook = None
    with much_is_made():
        bundles = load_bundles(_bundle_path(path, repo), workstreams=PLANNED_MAX)
        report = plan_of(bundles, repo, tool_profiles, budget_usd=budget)
        if like:
            with cluster_client() as client:
                history = history_of(client, _resolve(client, like))
        if history is not None or workers or executors:
            known = workers or [in_force(RunSettings()).max_workers or MAX_WORKERS]
            outlook = outlook_of(
                bundles, report, workers=known, executors=executors or [], slots=slots or SLOTS, history=history
            )
    if as_json:
        say(with_outlook(report, outlook))
    elif as_mermaid and report.plan is not None:
        overlaps = [(one.workstream, one.other) for one in report.overlaps]
        shared = [] if outlook is None else [(one.workstream, one.other) for one in outlook.conflicts]
        say(mermaid(report.plan, shared if like else overlaps))
    else:
        say(plan_lines(report, outlook_lines(outlook) if outlook else [], outlook.findings if outlook else []))
    return 0 if report.valid else 2


def _bundle_path(path: Path | None, repo: Path) -> Path:
    from swell.settings import workstream_dir  # noqa: PLC0415 - as the module says

    return path if path is not None else workstream_dir(repo)


@app.command(rich_help_panel="Before a run")
@command
def decompose(
    request: Annotated[Path, typer.Argument(help="The change request, a YAML or JSON file.", metavar="REQUEST")],
    repo: RepoOption = Path(),
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder for the bundles. Default: `workstreams` in the repository.")
    ] = None,
    rules: Annotated[
        Path | None, typer.Option("--rules", help="A file with rules in place of the shipped ones.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="The commit a migration looks at. Default: what is checked out.")
    ] = None,
    each: Annotated[bool, typer.Option("--each", help="A file for each workstream, not one for all.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Only tell; write nothing.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Make workstreams of a change request, and tell why they are what they are."""
    from swell.decompose import decomposition_of, write_bundles  # noqa: PLC0415 - as the module says

    made = decomposition_of(request, repo, rules, base)
    written = [] if explain else write_bundles(made, _bundle_path(out, repo), each=each, force=force)
    if as_json:
        say(made.explanation.to_json())
        return 0
    say(visible(made.explanation.to_text()).rstrip())
    if written:
        many = f" and {len(written) - 1} more files" if len(written) > 1 else ""
        say(["", f"wrote {written[0]}{many}: look at it with `swell plan {written[0].parent}`"])
    return 0


# Runs


def _submission(
    path: Path | None,
    repo: Path,
    flags: RunSettings,
    *,
    allow_dirty: bool,
    base: str | None,
    run: str,
    context: list[str] | None,
    paused: bool,
) -> Submission:
    from swell.settings import in_force  # noqa: PLC0415 - as the module says
    from swell.submission import assemble, load_bundles, parse_context  # noqa: PLC0415 - as above

    settings = in_force(flags)
    bundles_at = _bundle_path(path, repo)
    bundles = load_bundles(bundles_at)
    return assemble(
        bundles,
        repo=repo,
        settings=settings,
        base=base,
        allow_dirty=allow_dirty,
        exempt=[bundles_at],
        run=run,
        context=parse_context(context or []),
        paused=paused,
    )


@app.command(rich_help_panel="Runs")
@command
def run(
    path: PathArgument = None,
    repo: RepoOption = Path(),
    *,
    max_workers: MaxWorkers = None,
    wave_delay: WaveDelay = None,
    fail_fast: FailFast = None,
    dry_run: DryRun = None,
    timeout: Timeout = None,
    eager: Eager = None,
    review: ReviewChoice = None,
    pool: Pools = None,
    budget: Budget = None,
    budget_mode: BudgetModeChoice = None,
    location: Location = None,
    deliver: Deliver = None,
    delivery_style: DeliveryStyleChoice = None,
    delivery_remote: DeliveryRemote = None,
    delivery_credential: DeliveryCredential = None,
    delivery_hook: DeliveryHook = None,
    label: Labels = None,
    tenant: Tenant = None,
    paused: Paused = False,
    allow_dirty: AllowDirty = False,
    base: Base = None,
    tool_profiles: Profiles = None,
    breaker: Breaker = None,
    recovery: Recovery = None,
    run_id: RunId = "",
    context: Context = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print events as NDJSON, then a summary.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run to its end.")] = True,
) -> int:
    """Run bundles on a repository. Ctrl-C cancels the run and waits for its end; twice leaves at once."""
    from swell.settings import RunSettings, parse_labels  # noqa: PLC0415 - as the module says

    flags = RunSettings(
        max_workers=max_workers,
        wave_delay_s=wave_delay,
        fail_fast=fail_fast,
        dry_run=dry_run,
        timeout_s=timeout,
        scheduling=None if eager is None else "eager" if eager else "barrier",
        review=review,
        pools=pool or None,
        budget_usd=budget,
        budget_mode=budget_mode,
        location=location,
        deliver=deliver,
        delivery_style=delivery_style,
        delivery_remote=delivery_remote,
        delivery_credential=delivery_credential,
        delivery_hook=delivery_hook,
        labels=parse_labels(label) if label else None,
        tenant=tenant,
        tool_profiles=tool_profiles,
        breaker=breaker,
        recovery=recovery,
    )
    submission = _submission(
        path, repo, flags, allow_dirty=allow_dirty, base=base, run=run_id, context=context, paused=paused
    )
    return _submit(submission, wait=wait, style=_style(as_json=as_json))


@app.command(rich_help_panel="Runs")
def submit(
    path: PathArgument = None,
    repo: RepoOption = Path(),
    *,
    max_workers: MaxWorkers = None,
    wave_delay: WaveDelay = None,
    fail_fast: FailFast = None,
    dry_run: DryRun = None,
    timeout: Timeout = None,
    eager: Eager = None,
    review: ReviewChoice = None,
    pool: Pools = None,
    budget: Budget = None,
    budget_mode: BudgetModeChoice = None,
    location: Location = None,
    deliver: Deliver = None,
    delivery_style: DeliveryStyleChoice = None,
    delivery_remote: DeliveryRemote = None,
    delivery_credential: DeliveryCredential = None,
    delivery_hook: DeliveryHook = None,
    label: Labels = None,
    tenant: Tenant = None,
    paused: Paused = False,
    allow_dirty: AllowDirty = False,
    base: Base = None,
    tool_profiles: Profiles = None,
    breaker: Breaker = None,
    recovery: Recovery = None,
    run_id: RunId = "",
    context: Context = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a run and leave: `run --no-wait`."""
    run(
        path,
        repo,
        max_workers=max_workers,
        wave_delay=wave_delay,
        fail_fast=fail_fast,
        dry_run=dry_run,
        timeout=timeout,
        eager=eager,
        review=review,
        pool=pool,
        budget=budget,
        budget_mode=budget_mode,
        location=location,
        deliver=deliver,
        delivery_style=delivery_style,
        delivery_remote=delivery_remote,
        delivery_credential=delivery_credential,
        delivery_hook=delivery_hook,
        label=label,
        tenant=tenant,
        paused=paused,
        allow_dirty=allow_dirty,
        base=base,
        tool_profiles=tool_profiles,
        breaker=breaker,
        recovery=recovery,
        run_id=run_id,
        context=context,
        as_json=as_json,
        wait=False,
    )


def _style(*, as_json: bool) -> Style:
    if as_json:
        return "json"
    return "live" if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" else "lines"


def _submit(submission: Submission, *, wait: bool, style: Style) -> int:
    from swell.listing import warning_lines  # noqa: PLC0415 - as the module says
    from swell.view import submitted_json  # noqa: PLC0415 - as above

    with cluster_client() as client:
        done = client.submit_run(submission.header, submission.documents)
        for line in warning_lines(done.warnings, advice=False):
            sys.stderr.write(f"{line}\n")
        if not wait:
            client.await_run(done.run, RECORDED_S)  # so that whoever asks for it next finds it
            say(
                submitted_json(done)
                if style == "json"
                else f"submitted run {done.run}; follow it: swell watch {done.run}"
            )
            return 0
        return _follow(client, done.run, style, after=max(done.position - 1, 0), cancel_on_interrupt=True)


def _follow(
    client: Client, run: str, style: Style, *, after: int, cancel_on_interrupt: bool, until_reaped: bool = False
) -> int:
    """Show a run to its end and say how it ended; the exit code."""
    from swell.follow import LeftError, follow, summarise  # noqa: PLC0415 - as the module says
    from swell.submission import actor  # noqa: PLC0415 - as above
    from swell.view import choose, summary_json  # noqa: PLC0415 - as above

    try:
        progress = follow(
            client,
            run,
            choose(style),
            after=after,
            actor=actor(),
            cancel_on_interrupt=cancel_on_interrupt,
            until_reaped=until_reaped,
            through_review=until_reaped,
        )
    except LeftError:
        sys.stderr.write(f"left run {run}, which goes on by itself; see it with: swell watch {run}\n")
        return 1 if cancel_on_interrupt else 0
    summary = summarise(client, run, progress.failures)
    say(summary_json(summary.as_dict()) if style == "json" else summary.lines())
    if until_reaped and style != "json":
        ended = sum(progress.reaped.values())
        say(f"  processes: {ended} ended in {len(progress.reaped)} running attempts")
        if progress.unreaped:
            names = ", ".join(f"{workstream}/{number}" for workstream, number in sorted(progress.unreaped))
            say(f"  not confirmed yet: the end of the processes of {names}; see: swell events {run}")
    return summary.exit_code


@app.command(rich_help_panel="Runs")
@command
def watch(run: RunArgument, as_json: JsonOption = False) -> int:
    """Follow a run to its end, or until it waits for a person. Ctrl-C leaves; the run goes on."""
    with cluster_client() as client:
        name = _resolve(client, run)
        return _follow(client, name, _style(as_json=as_json), after=0, cancel_on_interrupt=False)


@app.command(rich_help_panel="Runs")
@command
def cancel(
    run: RunArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "",
    as_json: JsonOption = False,
) -> int:
    """Cancel a run, and wait until it and the processes of its tools have ended."""
    from swell.submission import actor  # noqa: PLC0415 - as the module says

    with cluster_client() as client:
        name = _resolve(client, run)
        client.cancel_run(name, reason=reason, actor=actor())
        style: Literal["json", "lines"] = "json" if as_json else "lines"
        _follow(client, name, style, after=0, cancel_on_interrupt=False, until_reaped=True)
        return 0


for steering in (control.pause, control.resume, control.retry):
    app.command(rich_help_panel="Runs")(steering)
app.add_typer(review.app, name="review", rich_help_panel="Runs")
app.add_typer(budget_commands.app, name="budget", rich_help_panel="Runs")


# Afterwards


def _resolve(client: Client, run: str) -> str:
    from swell.listing import resolve_run  # noqa: PLC0415 - as the module says

    return resolve_run(client, run)


def _told(make: Callable[[Client], Any], *, as_json: bool) -> int:
    """Print what `make` finds: its JSON, or its lines."""
    with cluster_client() as client:
        found = make(client)
        say(found.json() if as_json else found.lines())
    return 0


@app.command("list", rich_help_panel="Afterwards")
@command
def list_(
    state: Annotated[
        Literal["pending", "running", "paused", "completed", "partial", "failed", "cancelled"] | None,
        typer.Option("--state", help="Only runs in this state.", show_default=False),
    ] = None,
    repository: Annotated[
        str, typer.Option("--repository", help="Only runs of the repository at this location.", show_default=False)
    ] = "",
    tool: ToolFilter = "",
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="Only runs with this label; may be repeated.", metavar="KEY[=VALUE]"),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", help="Only runs on behalf of this tenant; '' for those of none.", show_default=False),
    ] = None,
    since: Since = "",
    until: Until = "",
    order: Annotated[
        str,
        typer.Option(
            "--order",
            help="submitted, finished, cost or attempts, with ' desc' behind it for the largest first.",
            show_default="the newest first",
        ),
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most this many.")] = 20,
    as_json: JsonOption = False,
) -> int:
    """List runs, newest first."""
    from swell.listing import RunList, runs_wanted  # noqa: PLC0415 - as the module says
    from swell.moments import span_ns  # noqa: PLC0415 - as above
    from swell.values import RunFilter  # noqa: PLC0415 - as above

    column, _, way = order.partition(" ")
    if order and (column not in ORDERS or way not in {"", "desc"}):
        remedy = f"Use one of {', '.join(ORDERS)}, alone or followed by ' desc'."
        raise invalid("BAD_ORDER", f"{order[:80]!r} is no order", remedy, "--order")
    order_by = f"{ORDERS[column]} {way}".rstrip() if order else ""
    since_ns, until_ns = span_ns(since, until)
    wanted = runs_wanted(
        label or (), tenant, repository, state=state or "", tool=tool, since_ns=since_ns, until_ns=until_ns
    )
    filtered = wanted != RunFilter()
    return _told(
        lambda client: RunList(client.list_runs(wanted, order_by=order_by, limit=limit), filtered), as_json=as_json
    )


@app.command(rich_help_panel="Afterwards")
@command
def status(run: RunArgument, as_json: JsonOption = False) -> int:
    """Show how a run stands: its progress, time and cost, and what each workstream is at, waits for, or came to."""
    from swell.screen import Screen  # noqa: PLC0415 - as the module says
    from swell.standing import RunStatus  # noqa: PLC0415 - as above

    with cluster_client() as client:
        found = RunStatus.of(client, _resolve(client, run))
    say(found.json() if as_json else found.lines(Screen.of(sys.stdout)))
    return 0


@app.command(rich_help_panel="Afterwards")
@command
def show(run: RunArgument, workstream: WorkstreamArgument = "", as_json: JsonOption = False) -> int:
    """Show a run, or one of its workstreams, with every attempt: outcome, checks, cost and artifacts."""
    from swell.screen import Screen  # noqa: PLC0415 - as the module says
    from swell.standing import RunDetail  # noqa: PLC0415 - as above

    with cluster_client() as client:
        found = RunDetail.of(client, _resolve(client, run), workstream)
    say(found.json() if as_json else found.lines(Screen.of(sys.stdout)))
    return 0


@app.command(rich_help_panel="Afterwards")
@command
def events(
    run: RunArgument,
    workstream: WorkstreamArgument = "",
    kind: Annotated[list[str] | None, typer.Option("--kind", help="Only this kind; may be repeated.")] = None,
    tool: ToolFilter = "",
    severity: Annotated[
        list[str] | None,
        typer.Option("--severity", help="Only debug, info, warning, error or critical; may be repeated."),
    ] = None,
    since: Since = "",
    until: Until = "",
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Only the newest so many, newest first.", show_default="all, oldest first"),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Print the recorded events of a run; 'fleet' stands for what is decided across runs."""
    from services.events import KINDS  # noqa: PLC0415 - as the module says
    from swell.listing import event_line, require_workstream  # noqa: PLC0415 - as above
    from swell.moments import span_ns  # noqa: PLC0415 - as above
    from swell.values import EventFilter  # noqa: PLC0415 - as above
    from swell.view import event_json  # noqa: PLC0415 - as above

    if unknown := [one for one in kind or [] if one not in KINDS]:
        near = get_close_matches(unknown[0], sorted(KINDS), n=3) or sorted(KINDS)
        raise invalid("BAD_KIND", f"no event is of the kind {unknown[0]!r}", f"Use one of {', '.join(near)}.")
    if wrong := [one for one in severity or [] if one not in SEVERITIES]:
        raise invalid("BAD_SEVERITY", f"{wrong[0]!r} is no severity", f"Use one of {', '.join(SEVERITIES)}.")
    since_ns, until_ns = span_ns(since, until)
    wanted = EventFilter(
        workstream=workstream,
        kinds=tuple(kind or ()),
        tool=tool,
        severities=tuple(severity or ()),
        since_ns=since_ns,
        until_ns=until_ns,
    )
    with cluster_client() as client:
        name = run if run == "fleet" else _resolve(client, run)
        if workstream and name != "fleet":
            require_workstream(client.list_workstreams(name), name, workstream)
        told = False
        for event in client.list_events(name, wanted, newest_first=limit is not None, limit=limit):
            say(event_json(event) if as_json else event_line(event))
            told = True
        if not told and not as_json:
            say("no event matches")
    return 0


@app.command(rich_help_panel="Afterwards")
@command
def logs(
    run: RunArgument,
    workstream: WorkstreamArgument = "",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with the attempts to come.")] = False,
) -> int:
    """Print what the tools of a run said."""
    from swell.listing import follow_logs, write_logs  # noqa: PLC0415 - as the module says

    with cluster_client() as client:
        name = _resolve(client, run)
        (follow_logs if follow else write_logs)(client, name, workstream, sys.stdout)
    return 0


@app.command(rich_help_panel="Afterwards")
@command
def diff(run: RunArgument, workstream: WorkstreamArgument = "", attempt: AttemptOption = 0) -> int:
    """Print the change of a workstream, of one of its attempts, or of all that completed."""
    from swell.listing import write_diff  # noqa: PLC0415 - as the module says

    if attempt and not workstream:
        raise invalid("NO_WORKSTREAM", "--attempt is about a workstream", "Name it behind the run.")
    with cluster_client() as client:
        write_diff(client, _resolve(client, run), workstream, sys.stdout, attempt)
    return 0


app.command(rich_help_panel="Afterwards")(reporting.report)
explain.register(app, "Afterwards")
app.add_typer(patch.app, name="patch", rich_help_panel="Afterwards")
for counting in (costs.costs, stats.stats):
    app.command(rich_help_panel="Afterwards")(counting)
app.command("sql", rich_help_panel="Afterwards")(sql.ask)
for afterwards in (control.deliver, control.rollback):
    app.command(rich_help_panel="Afterwards")(afterwards)


# The cluster


app.command(rich_help_panel="Cluster")(control.executors)
app.add_typer(ledger.app, name="ledger", rich_help_panel="Cluster")
app.add_typer(audit.app, name="audit", rich_help_panel="Cluster")


@app.command(rich_help_panel="Cluster")
@command
def tools(repo: RepoOption = Path(), tool_profiles: Profiles = None, as_json: JsonOption = False) -> int:
    """Show tools: which are found here, in which version, and which are held back."""
    from swell.tools import table_of_tools  # noqa: PLC0415 - as the module says

    return _told(lambda client: table_of_tools(client, repo, tool_profiles), as_json=as_json)


@app.command(rich_help_panel="Cluster")
@command
def doctor(
    repo: RepoOption = Path(),
    tool_profiles: Profiles = None,
    as_cluster: Annotated[
        bool, typer.Option("--cluster", help="Look at the cluster from outside, not at this machine.")
    ] = False,
    bus: Annotated[
        Path | None, typer.Option("--bus", help="With --cluster: a service's TOML; its [bus] says how to reach NATS.")
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option("--metrics", help="With --cluster: the URL of a service's /metrics; repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Check what runs need, and tell what to mend; ends with 1 when anything must be. Starts no cluster, changes nothing."""
    if as_cluster:
        from services.telemetry import silence  # noqa: PLC0415 - as the module says
        from swell.checkup import examine_cluster  # noqa: PLC0415 - as above

        with silence():
            verdict = examine_cluster(bus=bus, metrics=metrics or ())
    elif bus is not None or metrics:
        raise invalid("NOT_A_CLUSTER", "--bus and --metrics are about a cluster", "Add --cluster.", "swell doctor")
    else:
        from swell.doctor import examine  # noqa: PLC0415 - as above

        verdict = examine(repo, tool_profiles)
    say(verdict.json() if as_json else verdict.lines())
    return 0 if verdict.ok else 1


@app.command(rich_help_panel="Cluster")
@command
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Remove what the embedded cluster's executor keeps and no run needs. Facts and artifacts stay."""
    import msgspec  # noqa: PLC0415 - as the module says

    from swell.cluster import connected  # noqa: PLC0415 - as above
    from swell.gc import collected, swept_lines  # noqa: PLC0415 - as above

    with connected() as endpoints:
        answer = collected(endpoints, dry_run=dry_run)
    say(msgspec.json.encode(answer.sweep).decode() if as_json else swept_lines(answer))
    return 1 if answer.sweep is not None and answer.sweep.troubles else 0


@app.command(rich_help_panel="Cluster")
@command
def dev(
    stop: Annotated[bool, typer.Option("--stop", help="End the cluster of the state folder.")] = False,
    scheduler_port: Annotated[int, typer.Option(min=0, max=65535, help="0: any.")] = 0,
    ledger_port: Annotated[int, typer.Option(min=0, max=65535, help="0: any.")] = 0,
    nats_port: Annotated[int, typer.Option(min=0, max=65535, help="0: any.")] = 0,
) -> int:
    """Run the embedded cluster until Ctrl-C."""
    from swell.serving import dev as run_dev  # noqa: PLC0415 - as the module says
    from swell.serving import stop_dev  # noqa: PLC0415 - as above

    return stop_dev() if stop else run_dev(scheduler_port=scheduler_port, ledger_port=ledger_port, nats_port=nats_port)


@app.command(rich_help_panel="Cluster")
@command
def serve(
    service: Annotated[Literal["scheduler", "executor", "ledger"], typer.Argument(metavar="scheduler|executor|ledger")],
    config: Annotated[Path, typer.Option("--config", help="The service's settings, a TOML file.")],
) -> int:
    """Run one service in the foreground: what a container does."""
    from swell.serving import become  # noqa: PLC0415 - as the module says

    return become(service, config)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
