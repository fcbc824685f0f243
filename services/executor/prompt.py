"""The texts of EDIT and FIX prompts, for the step that hands them to a tool. See services/executor/prompts."""

from collections.abc import Sequence

from services.bundle import WorkstreamBundle
from services.diagnostic import Diagnostic
from services.executor import prompts


def edit_prompt(bundle: WorkstreamBundle, run: str, *, files: Sequence[str] | None = None, tool: str = "") -> str:
    """What EDIT is told: the tasks, where it may work, and what will be checked.

    `files` are named in place of the declared scope: a part of it, so that the tool has less to read. `tool` is the
    profile that is told, by default the bundle's.
    """
    return prompts.edit(bundle, run, files=files, tool=tool).text


def fix_prompt(
    bundle: WorkstreamBundle,
    run: str,
    *,
    step: str,
    failures: Sequence[tuple[str, str]],
    diagnostics: Sequence[Diagnostic],
    earlier: Sequence[str],
    files: Sequence[str] | None = None,
) -> str:
    """What FIX is told: the failing checks (command, end of its output), their diagnostics, and what was tried before.

    `files` as for `edit_prompt`.
    """
    return prompts.fix(
        bundle,
        run,
        step=step,
        failures=[prompts.Failure(command=command, output=output) for command, output in failures],
        diagnostics=diagnostics,
        earlier=earlier,
        files=files,
    ).text
