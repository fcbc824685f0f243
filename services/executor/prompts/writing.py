"""What EDIT and FIX are told, within a number of tokens.

    bundle, failures … ── shortened by a rung of the ladder ──▶ quoted ──▶ template ──▶ text
                                    ▲                                                     │ too long
                                    └────────────────── next rung ────────────────────────┘

Invariants:

* A FIX prompt is never estimated at more than its limit, whatever bundle, tools and repository say.
* An EDIT prompt holds every task, acceptance test and hint in full: a tool that saw a part of its task would do a part
  of it and call it done. If that is too long, the decision says `too_large`, and the caller must not run it.
* The same arguments give the same text.
* A template that cannot be filled in costs its wording, not the step: the same parts are then put one under the other.

What is shortened first is data: `EDIT_LADDER` and `FIX_LADDER`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Literal, get_args

import msgspec

from services.bundle import WorkstreamBundle
from services.context import WINDOW_TOKENS_DEFAULT, estimate_tokens, input_limit
from services.diagnostic import Diagnostic
from services.events import Step
from services.executor.prompts import quoting
from services.executor.prompts.classification import Classification, classify, family, role
from services.executor.prompts.quoting import Quoted
from services.executor.prompts.templates import PromptTemplateError, PromptTemplates, shipped_templates

FIX_TOKENS_MAX: Final = 24_000
"""Tokens of a FIX prompt: with 4 characters each, its text still fits into one argument of a process (128 KiB)."""

FIX_TOKENS_MIN: Final = 2_000
"""The least that a FIX prompt can be kept to."""

EDIT_TOKENS_MAX: Final = input_limit(windows={"": WINDOW_TOKENS_DEFAULT})
"""Tokens of an EDIT prompt: what a model that no table names may be given."""

PLAIN_TEMPLATE: Final = "plain"
"""What a prompt names as its template if none could be filled in."""

UNLIMITED: Final = 10**9
"""More than there can be of anything: not shortened."""


PAYLOAD_CHARS_MAX: Final = 16_000
"""Characters of a capability's payload that a prompt shows."""


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """How much of each kind of data a prompt shows. Counts are of items, `_chars` of characters.

    Of patches the newest are shown, from their beginning; of outputs the end; of everything else the beginning.
    `tasks_chars` and `hints_chars` are of all tasks and all hints together, all other characters of one item.
    """

    patches: int = 10
    patch_chars: int = 8_000
    outputs: int = 10
    output_chars: int = 8_000
    command_chars: int = 2_000
    diagnostics: int = 50
    message_chars: int = 1_000
    files: int = 200
    tests: int = 50
    line_chars: int = 500
    tasks_chars: int = 20_000
    hints_chars: int = 8_000
    name_chars: int = 400
    payload_chars: int = PAYLOAD_CHARS_MAX


def _ladder(first: Caps, *steps: Mapping[str, int]) -> tuple[Caps, ...]:
    rungs = [first]
    for step in steps:
        rungs.append(msgspec.structs.replace(rungs[-1], **step))
    return tuple(rungs)


FIX_LADDER: Final = _ladder(
    Caps(),
    {"patches": 3},
    {"patches": 1},
    {"patch_chars": 2_000},
    {"patches": 0},
    {"output_chars": 2_000},
    {"files": 50, "tests": 20},
    {"outputs": 3, "command_chars": 500},
    {"diagnostics": 20, "message_chars": 300},
    {"output_chars": 500},
    {"tasks_chars": 4_000, "hints_chars": 2_000, "payload_chars": 2_000},
    {"files": 10, "tests": 5, "line_chars": 200},
    {"tasks_chars": 1_000, "hints_chars": 500, "payload_chars": 500},
    {"diagnostics": 5, "outputs": 1},
    {
        "output_chars": 0, "command_chars": 50, "diagnostics": 1, "message_chars": 50, "files": 2, "tests": 1,
        "line_chars": 50, "tasks_chars": 80, "hints_chars": 50, "name_chars": 30, "payload_chars": 0,
    },
)  # fmt: skip
"""What a FIX prompt gives up, in this order, until it fits: what was tried before, outputs, long lists, then the rest."""

EDIT_LADDER: Final = _ladder(
    Caps(files=UNLIMITED, tests=UNLIMITED, line_chars=UNLIMITED, tasks_chars=UNLIMITED, hints_chars=UNLIMITED),
    {"files": 500},
    {"files": 100},
    {"files": 20},
)
"""What an EDIT prompt gives up: the ends of its lists of files. The scope that is enforced stays as it is."""


Decision = Literal["fits", "reduced", "too_large"]


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and where it comes from.

    `template` in `version` wrote it, whose source has the SHA-256 `digest`. `estimate` is in tokens. `decision`: `reduced`
    if something was shortened, and `left_out` says what, as in `patches: 3 of 5`; `too_large` if it is over its limit nevertheless. `fallback` says
    why no template could be filled in, if none could.
    """

    text: str
    template: str
    version: str
    digest: str
    estimate: int
    limit: int
    decision: Decision
    left_out: tuple[str, ...] = ()
    fallback: str = ""
    classification: Classification


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A check that failed: the command as a line, and the end of what it printed."""

    command: str
    output: str = ""


Values = dict[str, Any]


def edit(
    bundle: WorkstreamBundle,
    run: str,
    *,
    tool: str = "",
    files: Sequence[str] | None = None,
    repository: str = "",
    worktree: str = "",
    extra: str = "",
    model: str = "",
    limit_tokens: int = EDIT_TOKENS_MAX,
    templates: PromptTemplates | None = None,
) -> Prompt:
    """What EDIT is told: the tasks, where it may work, and what will be checked.

    `tool` is the profile that is told, by default the bundle's. `files` are named in place of the declared scope: a part
    of it, so that the tool has less to read. `repository` and `worktree` are named if they are given, `extra` is quoted as
    further context. `model` is for the estimate.
    """
    classification = classify(bundle)

    def values(caps: Caps) -> Values:
        return _common(bundle, run, classification, files, caps) | {
            "repository": repository and quoting.code(repository),
            "worktree": worktree and quoting.code(worktree),
            "extra": extra and quoting.fence(extra),
        }

    name = f"edit_{family(tool or bundle.tool)}"
    sizes = _sizes(bundle, run, files)
    return _written(name, values, sizes, EDIT_LADDER, classification, model, limit_tokens, templates)


def fix(
    bundle: WorkstreamBundle,
    run: str,
    *,
    step: str,
    failures: Sequence[Failure],
    diagnostics: Sequence[Diagnostic] = (),
    earlier: Sequence[str] = (),
    files: Sequence[str] | None = None,
    model: str = "",
    limit_tokens: int = FIX_TOKENS_MAX,
    templates: PromptTemplates | None = None,
) -> Prompt:
    """What FIX is told: what failed and where, what was tried before (`earlier`, patches from the oldest), and the task.

    `step` is the name of the step that failed; `files`, `model` and `templates` as for `edit`.

    Raises ValueError when `limit_tokens` is less than FIX_TOKENS_MIN.
    """
    if limit_tokens < FIX_TOKENS_MIN:
        raise ValueError(f"a FIX prompt cannot be kept to {limit_tokens} tokens: allow at least {FIX_TOKENS_MIN}")
    classification = classify(bundle)

    def values(caps: Caps) -> Values:
        shown = _numbered_patches(earlier, caps.patches)
        return _common(bundle, run, classification, files, caps) | {
            "step": quoting.words(step.upper()) if step in get_args(Step) else _name(step, caps),
            "diagnostics": diagnostics and quoting.bullets(_places(diagnostics, caps)),
            "failures": [_failure(failure, caps) for failure in failures[: caps.outputs]],
            "failures_left_out": max(len(failures) - caps.outputs, 0),
            "attempts": [
                {"number": number, "patch": quoting.fence(quoting.cut_end(patch, caps.patch_chars), "diff")}
                for number, patch in shown
            ],
            "attempts_left_out": len(earlier) - len(shown),
        }

    sizes = _sizes(bundle, run, files, failures, diagnostics, earlier)
    return _written("fix", values, sizes, FIX_LADDER, classification, model, limit_tokens, templates)


def _places(diagnostics: Sequence[Diagnostic], caps: Caps) -> list[str]:
    shown = [_place(found, caps) for found in diagnostics[: caps.diagnostics]]
    more = len(diagnostics) - len(shown)
    return [*shown, f"[... {more} more left out]"] if more else shown


def _place(found: Diagnostic, caps: Caps) -> str:
    """A diagnostic in a line: `src/a.py:3:7: error: what is wrong [code] (tool)`."""
    where = quoting.shortened([found.path], 1, caps.line_chars)[0]
    if found.line is not None:
        where += f":{found.line}"
        if found.column is not None:
            where += f":{found.column}"
    rule = f" [{found.code[: caps.name_chars]}]" if found.code else ""
    message = quoting.shortened([found.message], 1, caps.message_chars)[0]
    return f"{where}: {found.severity}: {message}{rule} ({found.tool[: caps.name_chars]})"


def _common(
    bundle: WorkstreamBundle, run: str, classification: Classification, files: Sequence[str] | None, caps: Caps
) -> Values:
    scope = list(bundle.files_scope if files is None else files)
    created = quoting.shortened(bundle.files_create, caps.files, caps.line_chars)
    return {
        "workstream": quoting.words(bundle.id),
        "run": _name(run, caps),
        "role": quoting.words(role(classification)),
        **{field: quoting.words(word) for field, word in msgspec.structs.asdict(classification).items()},
        "capability": bundle.capability and quoting.code(bundle.capability),
        "payload": _payload(bundle, caps.payload_chars),
        "production": classification.quality == "production",
        "change": _name(bundle.openspec_change, caps),
        "issue": _name(str(bundle.ccpm_issue), caps),
        "gate": bundle.gate,
        "tasks": quoting.numbered(_together(bundle.tasks, caps.tasks_chars)),
        "hints": bundle.hints and quoting.blockquote(_together(bundle.hints, caps.hints_chars)),
        "part": files is not None,
        "files": quoting.bullets(quoting.shortened(scope, caps.files, caps.line_chars)),
        "create": bundle.files_create and quoting.bullets(created),
        "tests": bundle.acceptance_tests
        and quoting.bullets(quoting.shortened(bundle.acceptance_tests, caps.tests, caps.line_chars)),
    }


def _sizes(
    bundle: WorkstreamBundle,
    run: str,
    files: Sequence[str] | None,
    failures: Sequence[Failure] = (),
    diagnostics: Sequence[Diagnostic] = (),
    earlier: Sequence[str] = (),
) -> Caps:
    """How much there is of each kind of data: the caps that would shorten nothing."""
    scope = bundle.files_scope if files is None else files
    return Caps(
        patches=len(earlier),
        patch_chars=_longest(earlier),
        outputs=len(failures),
        output_chars=_longest(failure.output for failure in failures),
        command_chars=_longest(failure.command for failure in failures),
        diagnostics=len(diagnostics),
        message_chars=_longest(found.message for found in diagnostics),
        files=max(len(scope), len(bundle.files_create)),
        tests=len(bundle.acceptance_tests),
        line_chars=_longest(
            [*scope, *bundle.files_create, *bundle.acceptance_tests, *(found.path for found in diagnostics)]
        ),
        tasks_chars=sum(map(len, bundle.tasks)),
        hints_chars=sum(map(len, bundle.hints)),
        payload_chars=len(_payload_text(bundle)),
        name_chars=_longest(
            [run, bundle.openspec_change, str(bundle.ccpm_issue), *(n for d in diagnostics for n in (d.code, d.tool))]
        ),
    )


def _payload_text(bundle: WorkstreamBundle) -> str:
    """What the bundle gives to its capability, as JSON, but for what is meant for whoever asks the tool; "" for nothing."""
    told = {key: value for key, value in bundle.capability_payload.items() if key not in {"timeout_ms", "max_retries"}}
    return msgspec.json.format(msgspec.json.encode(told), indent=2).decode() if told else ""


def _payload(bundle: WorkstreamBundle, chars: int) -> str:
    text = _payload_text(bundle)
    return quoting.fence(quoting.cut_end(text, chars), "json") if text and chars else ""


def _longest(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0)


def _left_out(sizes: Caps, caps: Caps) -> tuple[str, ...]:
    there, shown = msgspec.structs.asdict(sizes), msgspec.structs.asdict(caps)
    return tuple(f"{field}: {shown[field]} of {there[field]}" for field in there if there[field] > shown[field])


def _name(text: str, caps: Caps) -> Quoted:
    return quoting.code(text if len(text) <= caps.name_chars else f"{text[: caps.name_chars]} [...]")


def _failure(failure: Failure, caps: Caps) -> Values:
    output = quoting.cut_start(failure.output, caps.output_chars) if caps.output_chars else ""
    return {
        "command": quoting.fence(quoting.cut_end(failure.command, caps.command_chars), "sh"),
        "output": output.strip() and quoting.fence(output),
    }


def _numbered_patches(earlier: Sequence[str], count: int) -> list[tuple[int, str]]:
    return list(enumerate(earlier, 1))[len(earlier) - min(count, len(earlier)) :]


def _together(texts: Sequence[str], chars: int) -> list[str]:
    """The first of these texts, as far as so many characters go, and what is missing."""
    kept: list[str] = []
    for index, text in enumerate(texts):
        if len(text) > chars:
            kept.append(quoting.cut_end(text, chars))
            if more := len(texts) - index - 1:
                kept.append(f"[... {more} more left out]")
            break
        kept.append(text)
        chars -= len(text)
    return kept


def _written(
    name: str,
    values: Callable[[Caps], Values],
    sizes: Caps,
    ladder: Sequence[Caps],
    classification: Classification,
    model: str,
    limit_tokens: int,
    templates: PromptTemplates | None,
) -> Prompt:
    writer = _Writer(name, templates or shipped_templates())
    text, estimate, rung = "", 0, ladder[0]
    for rung in ladder:
        text = writer.text(values(rung))
        estimate = estimate_tokens(len(text), model)
        if estimate <= limit_tokens:
            break
    left_out = _left_out(sizes, rung)
    decision: Decision = "reduced" if left_out else "fits"
    if estimate > limit_tokens:
        decision = "too_large"
    return Prompt(
        text=text,
        template=writer.template,
        version=writer.version,
        digest=writer.digest,
        estimate=estimate,
        limit=limit_tokens,
        decision=decision,
        left_out=left_out,
        fallback=writer.fallback,
        classification=classification,
    )


class _Writer:
    """Fills in one template, or, once that has failed, puts the parts one under the other."""

    def __init__(self, name: str, templates: PromptTemplates) -> None:
        self._templates = templates
        self.fallback = ""
        self.template, self.version, self.digest = name, "", ""
        try:
            described = templates.describe(name)
        except PromptTemplateError as error:
            self._give_up(error)
        else:
            self.version, self.digest = described.version, described.digest

    def text(self, values: Values) -> str:
        if not self.fallback:
            try:
                return self._signed(self._templates.fill(self.template, values))
            except PromptTemplateError as error:
                self._give_up(error)
        return self._signed(_plain(values))

    def _signed(self, text: str) -> str:
        """With a last line that names the template: so that whoever reads the artifact knows what wrote it."""
        return f"{text.strip()}\n\n<!-- template {self.template} {self.version} sha256:{self.digest[:16]} -->\n"

    def _give_up(self, error: PromptTemplateError) -> None:
        self.fallback = str(error)
        self.template, self.version = PLAIN_TEMPLATE, "1.0"
        self.digest = sha256(repr(_PLAIN_PARTS).encode()).hexdigest()


_PLAIN_PARTS: Final = (
    ("step", "The step that failed"),
    ("diagnostics", "Diagnostics"),
    ("tasks", "Tasks"),
    ("hints", "What a reviewer says"),
    ("payload", "What the capability is given"),
    ("files", "Files you may change"),
    ("create", "Files you may create"),
    ("tests", "Acceptance tests"),
    ("extra", "Context"),
)


def _plain(values: Values) -> str:
    lines = [f"# Workstream {values['workstream']} (run {values['run']})", ""]
    for field, heading in _PLAIN_PARTS:
        if values.get(field):
            lines += [f"## {heading}", "", values[field], ""]
    for failure in values.get("failures", ()):
        lines += ["## Failed command", "", failure["command"], "", failure["output"], ""]
    for attempt in values.get("attempts", ()):
        lines += [f"## Already tried, without success ({attempt['number']})", "", attempt["patch"], ""]
    return "\n".join([*lines, "Change nothing outside the files named above. Do not commit."])
