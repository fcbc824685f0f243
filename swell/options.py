"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

RepoOption = Annotated[Path, typer.Option("--repo", help="The git repository to work on.", show_default="here")]
RunArgument = Annotated[str, typer.Argument(help="A run's id, the beginning of one, or 'last'.", metavar="RUN")]
WorkstreamArgument = Annotated[str, typer.Argument(help="Only this workstream.", metavar="WS", show_default=False)]
PathArgument = Annotated[
    Path | None,
    typer.Argument(help="A bundle file or a folder of them. Default: `workstreams` in the repository.", metavar="PATH"),
]
AttemptOption = Annotated[
    int,
    typer.Option(
        "--attempt", min=0, help="The attempt that made it. Default: the newest that counts.", show_default=False
    ),
]
Since = Annotated[
    str,
    typer.Option(
        "--since",
        help="From then on: 30m, 2h or 7d ago, or a date or time, of this machine unless it names a zone.",
        metavar="TIME",
        show_default=False,
    ),
]
Until = Annotated[str, typer.Option("--until", help="Before then, as --since.", metavar="TIME", show_default=False)]
ToolFilter = Annotated[str, typer.Option("--tool", help="Only what this tool did.", metavar="TOOL", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

MaxWorkers = Annotated[int | None, typer.Option("--max-workers", min=1, max=10_000, help="Tools at a time.")]
WaveDelay = Annotated[float | None, typer.Option("--wave-delay", min=0, help="Seconds between waves.")]
FailFast = Annotated[
    bool | None, typer.Option("--fail-fast/--no-fail-fast", help="Start nothing more after the first failure.")
]
DryRun = Annotated[bool | None, typer.Option("--dry-run/--no-dry-run", help="Start no tool; record the whole trail.")]
Timeout = Annotated[float | None, typer.Option("--timeout", min=0.001, help="Seconds for the whole run.")]
AllowDirty = Annotated[bool, typer.Option("--allow-dirty", help="Run the commit, whatever else is in the checkout.")]
Base = Annotated[str | None, typer.Option("--base", help="The commit to start from. Default: what is checked out.")]
Profiles = Annotated[str | None, typer.Option("--tool-profiles", help="A file laid over the tool profiles.")]
Breaker = Annotated[str | None, typer.Option("--breaker", help="A file with the limits of FIX loops.")]
Recovery = Annotated[str | None, typer.Option("--recovery", help="A file with what follows from each class of error.")]
Eager = Annotated[
    bool | None,
    typer.Option("--eager/--no-eager", help="Start each workstream once its dependencies are merged, not in waves."),
]
ReviewChoice = Annotated[
    Literal["wait", "fail"] | None,
    typer.Option("--review", help="What nothing automatic helps waits for a person, or fails. Default: wait."),
]
Pools = Annotated[
    list[str] | None,
    typer.Option(
        "--pool", help="A pool that does the work; repeated, others for what it has no tool for.", metavar="POOL"
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget", min=0, max=1_000_000_000, help="Dollars that all attempts together may cost.", metavar="USD"
    ),
]
BudgetModeChoice = Annotated[
    Literal["halt", "warn", "continue"] | None,
    typer.Option("--budget-mode", help="When it is used up: start nothing more, or only tell. Default: halt."),
]
Deliver = Annotated[
    Literal["wave", "end", "never"] | None,
    typer.Option("--deliver", help="After each wave, at the end, or only by `swell deliver`. Default: wave."),
]
DeliveryStyleChoice = Annotated[
    Literal["rebase", "squash", "merge"] | None,
    typer.Option("--delivery-style", help="One commit for each workstream, one for all, or a merge. Default: rebase."),
]
DeliveryRemote = Annotated[
    str | None,
    typer.Option("--delivery-remote", help="A remote's name, a path or an address. Default: the repository itself."),
]
Location = Annotated[
    str | None,
    typer.Option(
        "--location",
        help="Where executors find the repository: a remote's name, a path or an address. Default: its path here.",
    ),
]
DeliveryCredential = Annotated[
    str | None,
    typer.Option(
        "--delivery-credential", help="What executors show there: env:NAME or file:/path of theirs.", metavar="REF"
    ),
]
DeliveryHook = Annotated[
    str | None,
    typer.Option("--delivery-hook", help="A tool profile that is called after each delivery.", metavar="TOOL"),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", help="A word to find the run and its cost by; repeatable.", metavar="KEY=VALUE"),
]
Tenant = Annotated[
    str | None, typer.Option("--tenant", help="On whose behalf it runs. Default: nobody's.", show_default=False)
]
Paused = Annotated[bool, typer.Option("--paused", help="Start nothing before `swell resume`.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the record.")]
FromStep = Annotated[
    Literal["edit", "static", "runtime", "fix"] | None,
    typer.Option("--from", help="Go on at this step. Default: the one that stopped."),
]
RunId = Annotated[str, typer.Option("--run", help="The run's id. Default: a fresh one.", show_default=False)]
Context = Annotated[
    list[str] | None, typer.Option("--context", help="KEY=VALUE for tool arguments.", metavar="KEY=VALUE")
]
