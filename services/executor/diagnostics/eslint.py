"""Reports of ``eslint -f json``: one object for each file that was looked at, whether it has findings or not.

Exit codes: 0 (warnings included), 1 errors or more warnings than allowed, 2 eslint could not work.
"""

import msgspec

from services.executor.diagnostics.report import Findings, decoded, text_of


class _Message(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    message: str
    severity: int
    rule_id: str | None = None
    fatal: bool = False
    line: int | None = None
    column: int | None = None
    end_line: int | None = None
    end_column: int | None = None


class _File(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    file_path: str
    messages: list[_Message]


_files = msgspec.json.Decoder(list[_File])


def parse(data: bytes, found: Findings) -> None:
    """One diagnostic for each message; one without a rule is eslint's own, mostly that it cannot parse the file."""
    for file in decoded(_files, text_of(data), "eslint's JSON report"):
        for one in file.messages:
            found.add(
                tool="eslint",
                path=file.file_path,
                line=one.line,
                column=one.column,
                end_line=one.end_line,
                end_column=one.end_column,
                severity="warning" if one.severity == 1 and not one.fatal else "error",
                code=one.rule_id or ("parsing-error" if one.fatal else ""),
                message=one.message,
            )
