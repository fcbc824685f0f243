"""Repair what checks have reported: `fix_from_diagnostics.py --diagnostics FILE FILE…`.

Reads the diagnostics that the failed check left, and repairs by rule what a rule exists for:

    ruff     its own fixes for exactly the reported codes
    mypy     no-untyped-def, return-value and assignment of None, var-annotated, and None where a value is needed
             (union-attr, arg-type, index)
    pytest   state shared by mistake: a list, dict or set that belongs to a class, or that is a default value,
             in code that a failing test reaches

Invariants: it edits from the diagnostics alone, touches only the files given, and knows nothing of any particular
repository. What it has no rule for it names and leaves alone.

Exit codes: 0 done, also when nothing could be repaired; 1 unreadable diagnostics or sources; 2 wrong arguments.
"""

import argparse
import ast
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from files import read
from repairs_mypy import repair
from repairs_state import repair_shared_state

#: Larger diagnostics are refused.
DIAGNOSTICS_BYTES = 20_000_000
RUFF_TIMEOUT_S = 60

_FAILED = re.compile(r"^(?:FAILED|ERROR) (?P<path>[^\s:]+\.py)::(?P<test>[\w:]+)", re.MULTILINE)

#: How a report of JUnit's form names a test: its module (and class), two colons, its name (and parameters).
_CASE = re.compile(r"(?P<place>[\w.]+)::(?P<test>\w+)")


@dataclass(frozen=True)
class Finding:
    """One diagnostic, as far as a repair needs it."""

    tool: str
    path: str
    line: int
    code: str
    message: str


def load(path: Path) -> tuple[list[Finding], str]:
    """The findings of a diagnostics file, and the tail of what the failed checks printed.

    Raises:
        ValueError: too large, or not the form that Swell writes; the text names the field.
    """
    if path.stat().st_size > DIAGNOSTICS_BYTES:
        raise ValueError(f"{path}: larger than {DIAGNOSTICS_BYTES} bytes")
    document = json.loads(path.read_bytes())
    if not isinstance(document, dict) or not isinstance(document.get("diagnostics"), list):
        raise ValueError(  # noqa: TRY004 - the content of a file is wrong, not the type of an argument
            f"{path}: no list in the field diagnostics; is this a diagnostics file of Swell?"
        )
    findings = [
        Finding(
            tool=str(each.get("tool") or ""),
            path=str(each.get("path") or ""),
            line=int(each.get("line") or 0),
            code=str(each.get("code") or ""),
            message=str(each.get("message") or ""),
        )
        for each in document["diagnostics"]
    ]
    tails = [str(check.get("output_tail") or "") for check in document.get("checks", [])]
    return findings, "\n".join(tails)


def fix_ruff(findings: list[Finding], files: list[Path]) -> None:
    """Let ruff repair the codes it has reported."""
    codes = sorted({each.code for each in findings if re.fullmatch(r"[A-Z]+\d+", each.code)})
    if not codes:
        return
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--quiet", "--exit-zero", "--fix"]
    command += ["--unsafe-fixes", "--select", ",".join(codes), "--", *map(str, files)]
    subprocess.run(command, check=True, timeout=RUFF_TIMEOUT_S, stdin=subprocess.DEVNULL)
    print(f"ruff: fixed what it can of {', '.join(codes)}")


def fix_mypy(findings: list[Finding], files: list[Path]) -> None:
    """Repair type errors, file by file."""
    for path in files:
        mine = [each for each in findings if _same(each.path, path)]
        if not mine:
            continue
        before = read(path)
        after, done = repair(before, [(each.line, each.code, each.message) for each in mine])
        _write(path, before, after, done)
        for each in mine:
            if each.line not in {line for line, _ in done}:
                print(f"{path}:{each.line}: no rule repairs {each.code}: {each.message}")


def fix_pytest(findings: list[Finding], tail: str, files: list[Path]) -> None:
    """Repair state that failing tests share by mistake."""
    failing: set[tuple[Path, str]] = set()
    for match in _FAILED.finditer("\n".join([tail, *(each.message for each in findings)])):
        failing.add((Path(match["path"]), match["test"].split("::")[-1]))
    for each in findings:
        case = _CASE.match(each.message)
        if case is not None:
            failing.add((_file_of(case["place"]), case["test"]))
        failing |= {(Path(each.path), name) for name in _tests_at(Path(each.path), each.line, each.message)}
    tests = [(_text(path), name) for path, name in sorted(failing)]
    if not tests:
        print("pytest: no failing test is named in the diagnostics")
        return
    sources = {path: read(path) for path in files}
    for path, (after, done) in repair_shared_state(sources, tests).items():
        _write(path, sources[path], after, done)


def _file_of(place: str) -> Path:
    """The file that a test's dotted place means: its module, and perhaps a class in it."""
    module = Path(*place.split(".")).with_suffix(".py")
    return module if module.is_file() else module.parent.with_suffix(".py")


def _tests_at(path: Path, line: int, message: str) -> set[str]:
    """The test function around a line of a file, and those that a message names."""
    try:
        tree = ast.parse(_text(path))
    except SyntaxError:
        return set()
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    around = {each.name for each in functions if each.lineno <= line <= (each.end_lineno or each.lineno)}
    named = {each.name for each in functions if re.search(rf"\b{each.name}\b", message)}
    return {name for name in around | named if name.startswith("test")}


def _text(path: Path) -> str:
    return read(path) if path.is_file() and path.suffix == ".py" else ""


def _same(reported: str, path: Path) -> bool:
    return bool(reported) and Path(reported).resolve() == path.resolve()


def _write(path: Path, before: str, after: str, done: list[tuple[int, str]]) -> None:
    if after != before:
        path.write_bytes(after.encode("utf-8"))
    for line, text in done:
        print(f"{path}:{line}: {text}")


def main(arguments: list[str] | None = None) -> int:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="fix_from_diagnostics", description="Repair what checks have reported.")
    parser.add_argument("--diagnostics", type=Path, required=True)
    parser.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    files = sorted(path for path in options.files if path.suffix == ".py" and path.is_file())
    try:
        findings, tail = load(options.diagnostics)
        by_tool = {tool: [each for each in findings if each.tool == tool] for tool in ("ruff", "mypy", "pytest")}
        fix_ruff(by_tool["ruff"], files)
        fix_mypy(by_tool["mypy"], files)
        if by_tool["pytest"] or _FAILED.search(tail):
            fix_pytest(by_tool["pytest"], tail, files)
    except (OSError, ValueError, cst.ParserSyntaxError, subprocess.SubprocessError) as error:
        print(f"fix_from_diagnostics: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
