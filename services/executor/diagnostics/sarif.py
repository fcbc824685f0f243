"""Reports in SARIF 2.1.0 (OASIS), which most static analysers can write.

A run says that all is well by an empty list of results (§3.14.23). No results, or null, mean that it came to none: an
error, and so is an invocation that says of itself that it failed. What is suppressed, passes, or is gone does not count.
"""

import re
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from services.diagnostic import Severity
from services.executor.diagnostics.report import (
    NAME_CHARS,
    PATH_CHARS,
    Findings,
    ReportError,
    clean,
    decoded,
    severity,
    text_of,
)

BASES_MAX: Final = 8
_ARGUMENT = re.compile(r"\{(\d{1,3})\}")


class _Message(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    text: str | None = None
    markdown: str | None = None
    id: str | None = None
    arguments: tuple[str, ...] = ()


class _File(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    uri: str | None = None
    uri_base_id: str | None = None
    index: int = -1


class _Artifact(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    location: _File | None = None


class _Region(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    start_line: int | None = None
    start_column: int | None = None
    end_line: int | None = None
    end_column: int | None = None


class _Physical(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    artifact_location: _File | None = None
    region: _Region | None = None


class _Location(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    physical_location: _Physical | None = None


class _Component(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    index: int = -1


class _RuleRef(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    id: str | None = None
    index: int = -1
    tool_component: _Component | None = None


class _Suppression(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    status: str = "accepted"


class _Result(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    message: _Message
    rule_id: str | None = None
    rule_index: int = -1
    rule: _RuleRef | None = None
    level: str | None = None
    kind: str = "fail"
    locations: tuple[_Location, ...] = ()
    suppressions: tuple[_Suppression, ...] | None = None
    baseline_state: str | None = None


class _Configuration(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    level: str | None = None


class _Rule(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    id: str = ""
    default_configuration: _Configuration | None = None
    message_strings: dict[str, _Message] = {}


class _Driver(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    name: str
    rules: tuple[_Rule, ...] = ()


class _Extension(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    rules: tuple[_Rule, ...] = ()


class _Tool(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    driver: _Driver
    extensions: tuple[_Extension, ...] = ()


class _Notification(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    message: _Message = _Message()
    level: str = "warning"


class _Invocation(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    execution_successful: bool = True
    tool_execution_notifications: tuple[_Notification, ...] = ()
    tool_configuration_notifications: tuple[_Notification, ...] = ()


class _Run(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    tool: _Tool
    results: tuple[_Result, ...] | None = None
    invocations: tuple[_Invocation, ...] = ()
    artifacts: tuple[_Artifact, ...] = ()
    original_uri_base_ids: dict[str, _File] = {}


class _Log(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    version: str
    runs: list[_Run]


_NO_RULE: Final = _RuleRef()
_log = msgspec.json.Decoder(_Log)


def parse(data: bytes, found: Findings) -> None:
    """One diagnostic for each result, at the first of its places."""
    log = decoded(_log, text_of(data), "the SARIF report")
    if not log.version.startswith("2.1"):
        raise ReportError(f"the SARIF report has the version {clean(log.version, 20)!r}; have the tool write 2.1.0.")
    if not log.runs:
        raise ReportError("the SARIF report holds no run, so nothing was checked. The tool's output says why.")
    for run in log.runs:
        _add_run(run, found)


def _add_run(run: _Run, found: Findings) -> None:
    tool = run.tool.driver.name
    for invocation in run.invocations:
        if not invocation.execution_successful:
            raise ReportError(f"{clean(tool, 80)} reports that it failed itself: {_why(invocation)}")
    if run.results is None:
        raise ReportError(f"the SARIF report of {clean(tool, 80)} has no results, so it came to none.")
    rules = {rule.id: rule for rule in reversed(run.tool.driver.rules)}
    for result in run.results:
        if not _counts(result):
            continue
        rule = _rule(result, run, rules)
        if found.full:
            found.count(_severity(result, rule))
        else:
            _add(result, run, rule, found)


def _why(invocation: _Invocation) -> str:
    told = [*invocation.tool_execution_notifications, *invocation.tool_configuration_notifications]
    told.sort(key=lambda one: one.level != "error")
    return clean(told[0].message.text or "", 300) if told else "it does not say why."


def _counts(result: _Result) -> bool:
    if result.suppressions and any(one.status == "accepted" for one in result.suppressions):
        return False
    return result.kind not in {"pass", "notApplicable"} and result.baseline_state != "absent"


def _add(result: _Result, run: _Run, rule: _Rule | None, found: Findings) -> None:
    place = next((one.physical_location for one in result.locations if one.physical_location), None) or _Physical()
    region = place.region or _Region()
    found.add(
        tool=run.tool.driver.name,
        path=_path(place.artifact_location, run),
        line=region.start_line,
        column=region.start_column,
        end_line=region.end_line,
        end_column=region.end_column,
        severity=_severity(result, rule),
        code=result.rule_id or (result.rule.id if result.rule else None) or (rule.id if rule else ""),
        message=_text(result.message, rule),
    )


def _rule(result: _Result, run: _Run, rules: dict[str, _Rule]) -> _Rule | None:
    reference = result.rule or _NO_RULE
    index = result.rule_index if result.rule_index >= 0 else reference.index
    listed = run.tool.driver.rules
    if reference.tool_component is not None and reference.tool_component.index >= 0:
        extensions = run.tool.extensions[reference.tool_component.index :][:1]
        listed = extensions[0].rules if extensions else ()
    if 0 <= index < len(listed):
        return listed[index]
    return rules.get(result.rule_id or reference.id or "")


def _severity(result: _Result, rule: _Rule | None) -> Severity:
    """§3.27.10: what the result says, else what its rule does, else a warning; what is no failure has none."""
    if result.kind != "fail":
        return "info"
    configuration = rule.default_configuration if rule else None
    return severity(result.level or (configuration.level if configuration else None) or "warning")


def _text(message: _Message, rule: _Rule | None) -> str:
    text = message.text or message.markdown
    if text is None and message.id is not None and rule is not None:
        named = rule.message_strings.get(message.id, message)
        text = named.text or named.markdown
    arguments = [argument[:NAME_CHARS] for argument in message.arguments[:100]]
    return _ARGUMENT.sub(
        lambda place: arguments[int(place[1])] if int(place[1]) < len(arguments) else place[0], (text or "")[:10_000]
    )


def _path(file: _File | None, run: _Run) -> str:
    """The path that a place's address names: of a file, as it is or below its base; of anything else none."""
    if file is not None and file.uri is None and 0 <= file.index < len(run.artifacts):
        file = run.artifacts[file.index].location
    uri = _short(file)
    for _ in range(BASES_MAX):
        if file is None or file.uri_base_id is None or _scheme(uri) != "":
            break
        file = run.original_uri_base_ids.get(file.uri_base_id)
        if base := _short(file):
            uri = f"{base.rstrip('/')}/{uri}"
    if _scheme(uri) not in {"", "file"}:
        return ""
    return unquote(urlsplit(uri).path)


def _short(file: _File | None) -> str:
    """Its address, unless that is too long for the address of a path."""
    uri = (file.uri or "") if file is not None else ""
    return uri if len(uri) <= 4 * PATH_CHARS else ""


def _scheme(uri: str) -> str | None:
    """The scheme of an address, which may be empty; None for what is no address."""
    try:
        return urlsplit(uri).scheme
    except ValueError:
        return None
