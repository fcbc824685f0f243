"""The prompts of EDIT and FIX: what a tool is told, as plain text. Stored with every attempt that used one.

What comes from bundles and tools is data here: it is put into the text as it is, and nothing in it is interpreted.
"""

from collections.abc import Sequence

from services.bundle import WorkstreamBundle
from services.diagnostic import Diagnostic

DIAGNOSTICS_SHOWN = 50
OUTPUT_CHARS_SHOWN = 8_000
PATCH_CHARS_SHOWN = 8_000


def edit_prompt(bundle: WorkstreamBundle, run: str, *, files: Sequence[str] | None = None) -> str:
    """What EDIT is told: the tasks, where it may work, and what will be checked.

    `files` are named in place of the declared scope: a part of it, so that the tool has less to read.
    """
    lines = [f"# Workstream {bundle.id} (run {run})", "", f"Change: {bundle.openspec_change}", "", "## Tasks", ""]
    lines += [f"{number}. {task}" for number, task in enumerate(bundle.tasks, 1)]
    lines += _hints(bundle)
    lines += _scope(bundle, files)
    if bundle.acceptance_tests:
        lines += ["", "## Acceptance tests", "", *(f"- {test}" for test in bundle.acceptance_tests)]
    lines += ["", "Do not commit. Change nothing outside the files named above. Keep what passes passing.", ""]
    return "\n".join(lines)


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
    lines = [f"# Repair workstream {bundle.id} (run {run})", "", f"The {step.upper()} step failed.", ""]
    if diagnostics:
        lines += ["## Diagnostics", ""]
        lines += [_place(diagnostic) for diagnostic in diagnostics[:DIAGNOSTICS_SHOWN]]
        if len(diagnostics) > DIAGNOSTICS_SHOWN:
            lines.append(f"… and {len(diagnostics) - DIAGNOSTICS_SHOWN} more")
        lines.append("")
    for command, output in failures:
        lines += [f"## Output of: {command}", "", output[-OUTPUT_CHARS_SHOWN:], ""]
    lines += ["## The workstream's tasks", "", *(f"- {task}" for task in bundle.tasks)]
    lines += _hints(bundle)
    lines += _scope(bundle, files)
    for number, patch in enumerate(earlier, 1):
        lines += ["", f"## Already tried, without success ({number})", "", patch[:PATCH_CHARS_SHOWN]]
    lines += [
        "",
        "Repair this with the smallest change. Do not commit. Change nothing outside the files named above.",
        "",
    ]
    return "\n".join(lines)


def _hints(bundle: WorkstreamBundle) -> list[str]:
    """Quoted line by line, so that no line of a hint passes for a heading of ours."""
    if not bundle.hints:
        return []
    quoted = [f"> {line}" for hint in bundle.hints for line in (*hint.splitlines(), "")]
    return ["", "## What a reviewer says", "", *quoted[:-1]]


def _scope(bundle: WorkstreamBundle, files: Sequence[str] | None) -> list[str]:
    if files is None:
        lines = ["", "## Files you may change", "", *(f"- {path}" for path in bundle.files_scope)]
    else:
        lines = ["", "## Files to work on", "", "A part of the workstream's files, to keep the task small:", ""]
        lines += [f"- {path}" for path in files]
    if bundle.files_create:
        lines += ["", "## Files you may create", "", *(f"- {path}" for path in bundle.files_create)]
    return lines


def _place(diagnostic: Diagnostic) -> str:
    where = diagnostic.path if diagnostic.line is None else f"{diagnostic.path}:{diagnostic.line}"
    if diagnostic.line is not None and diagnostic.column is not None:
        where += f":{diagnostic.column}"
    code = f" [{diagnostic.code}]" if diagnostic.code else ""
    return f"- {where}: {diagnostic.severity}: {diagnostic.message}{code} ({diagnostic.tool})"
