"""Reports of ``go vet -json``: for each package an object `{"<package>": {"<analyzer>": [{"posn", "message"}]}}`.

Lines that begin with ``#`` stand between them and name the package. An analyzer that failed has an object with ``error``
in place of its list. With this flag go vet ends with 0 whatever it finds, so its report decides; a report without any
object is an error.
"""

import re
from collections.abc import Iterator

import msgspec

from services.executor.diagnostics.report import Findings, ReportError, clean, decoded, digits, lines_of

_PLACE = re.compile(r"(.*?):(\d{1,10})(?::(\d{1,10}))?")


class _Finding(msgspec.Struct, frozen=True, gc=False):
    message: str
    posn: str = ""
    end: str = ""


class _Failure(msgspec.Struct, frozen=True, gc=False):
    error: str | None = None


_tree = msgspec.json.Decoder(dict[str, dict[str, list[_Finding] | _Failure]])


def parse(data: bytes, found: Findings) -> None:
    """One diagnostic for each finding; a package is looked at with and without its tests, which counts once."""
    documents = 0
    told: set[tuple[str, str, str]] = set()
    for text in _documents(data):
        documents += 1
        for analyzers in decoded(_tree, text, "the go vet report").values():
            for analyzer, findings in analyzers.items():
                if isinstance(findings, _Failure):
                    raise ReportError(f"go vet's {clean(analyzer, 80)} failed: {clean(findings.error or '', 300)}")
                for finding in findings:
                    _add(analyzer, finding, told, found)
    if not documents:
        raise ReportError("the go vet report is empty, so nothing was checked. Its output says why.")


def _documents(data: bytes) -> Iterator[str]:
    """The objects: each begins with { at the beginning of a line, and ends with } at the beginning of one."""
    held: list[str] = []
    for number, line in enumerate(lines_of(data), start=1):
        if not held and (not line.strip() or line.startswith("#")):
            continue
        if not held and not line.startswith("{"):
            raise ReportError(f"go vet printed something else than JSON in line {number}: {clean(line, 200)}")
        held.append(line)
        if line.startswith("}") or (len(held) == 1 and line.rstrip().endswith("}")):
            yield "\n".join(held)
            held = []
    if held:
        raise ReportError("the go vet report was cut short.")


def _add(analyzer: str, finding: _Finding, told: set[tuple[str, str, str]], found: Findings) -> None:
    key = (analyzer, finding.posn, finding.message)
    if key in told:
        return
    told.add(key)
    place = _PLACE.fullmatch(finding.posn[:4_096])
    end = _PLACE.fullmatch(finding.end[:4_096])
    found.add(
        tool="go vet",
        path=place[1] if place else "",
        line=digits(place[2]) if place else None,
        column=digits(place[3]) if place else None,
        end_line=digits(end[2]) if end else None,
        end_column=digits(end[3]) if end else None,
        code=analyzer,
        message=finding.message,
    )
