"""Runs the workstreams of a shipped example as the engine would, one after the other, without the engine.

Every step is the real command of the example's tool profiles in a copy of its repository; only scheduling, fencing
and git are left out. Each workstream starts from the line of its wave; what it changed within its scope is merged.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from services.executor.diagnostics import judge, read

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FIX_LIMIT = {"static": 3, "runtime": 2}
TOOL_TIMEOUT_S = 60


def bundles(example: str) -> dict[str, dict]:
    """The workstreams of an example by id."""
    found = [json.loads(path.read_text()) for path in sorted((EXAMPLES / example / "workstreams").glob("*.json"))]
    return {bundle["id"]: bundle for bundle in found}


def levels(workstreams: dict[str, dict]) -> list[list[str]]:
    """The ids by dependency level."""
    done: set[str] = set()
    result = []
    while len(done) < len(workstreams):
        level = [
            name
            for name, bundle in workstreams.items()
            if name not in done and set(bundle.get("depends_on", [])) <= done
        ]
        assert level, "the dependencies form a cycle, or name a workstream that does not exist"
        done |= set(level)
        result.append(sorted(level))
    return result


@dataclass
class Outcome:
    """How one workstream ended, and by which steps."""

    status: str = "completed"
    steps: list[str] = field(default_factory=list)
    reason: str = ""


class Flow:
    """One run of an example."""

    def __init__(self, example: str, line: Path, scratch: Path) -> None:
        self.example = example
        self.line = line
        self.scratch = scratch
        self.profiles = json.loads((EXAMPLES / "modernise" / "tool_profiles.json").read_text())
        self.checks = tomllib.loads((line / "swell.toml").read_text())
        self.workstreams = bundles(example)
        self.outcomes: dict[str, Outcome] = {}
        self.seconds: dict[str, list[float]] = {}
        self.merged: list[str] = []
        self.line_green: list[bool] = []

    def run(self) -> dict[str, Outcome]:
        """Run every workstream, level by level, and check the line after each."""
        for level in levels(self.workstreams):
            trees = [(name, self._workstream(name)) for name in level]
            for name, tree in trees:
                if self.outcomes[name].status == "completed":
                    for path in self._files(tree, [name]):
                        (self.line / path).parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(tree / path, self.line / path)
                    self.merged.append(name)
            failures = self._check(self.line, self.merged, "static") or self._check(self.line, self.merged, "runtime")
            self.line_green.append(not failures)
        return self.outcomes

    def _workstream(self, name: str) -> Path:
        tree = self.scratch / name
        outcome = self.outcomes[name] = Outcome()
        failed = [
            each for each in self.workstreams[name].get("depends_on", []) if self.outcomes[each].status != "completed"
        ]
        if failed:
            outcome.status, outcome.reason = "blocked", f"dependency {failed[0]} {self.outcomes[failed[0]].status}"
            return tree
        shutil.copytree(self.line, tree, ignore=shutil.ignore_patterns(".git"))
        before = self._tree(tree)
        edited = self._tool(tree, self.workstreams[name]["tool"], [name])
        outcome.steps.append("edit")
        assert edited.returncode == 0, edited.stderr
        assert self._tree(tree) != before, f"{name}: EDIT changed nothing"
        with contextlib.suppress(StopIteration):
            self._gate(tree, name, "static", outcome)
            self._gate(tree, name, "runtime", outcome)
        self._stay_in_scope(tree, name, before)
        return tree

    def _gate(self, tree: Path, name: str, step: str, outcome: Outcome) -> None:
        """Check, FIX while red, and stop at the limit or when a tree comes back."""
        seen = [self._tree(tree)]
        for attempt in range(FIX_LIMIT[step] + 1):
            outcome.steps.append(step)
            failures = self._check(tree, [name], step)
            if not failures:
                return
            if attempt == FIX_LIMIT[step] or seen.count(seen[-1]) > 1:
                outcome.status = "failed"
                codes = sorted(
                    {f"{each['tool']} {each['code']}".strip() for check in failures for each in check["found"]}
                )
                limit = "oscillation" if seen.count(seen[-1]) > 1 else "limit"
                outcome.reason = f"{step} {limit}: {', '.join(codes)}"
                raise StopIteration
            report = self.scratch / f"{name}-{step}-{attempt}.json"
            report.write_text(json.dumps(self._document(step, failures)))
            fixed = self._tool(tree, self.checks["fix_tool"], [name], diagnostics_file=str(report))
            assert fixed.returncode == 0, fixed.stderr
            outcome.steps.append("fix")
            seen.append(self._tree(tree))
            if step == "runtime" and seen[-1] != seen[-2]:
                self._gate(tree, name, "static", outcome)

    def _document(self, step: str, failures: list[dict]) -> dict:
        """The diagnostics file in the form that the engine hands to a FIX tool."""
        checks = [{key: each[key] for key in ("check", "command", "exit_code", "output_tail")} for each in failures]
        found = [diagnostic for each in failures for diagnostic in each["found"]]
        return {"step": step, "checks": checks, "diagnostics": found, "previous_attempts": []}

    def _check(self, tree: Path, names: list[str], step: str) -> list[dict]:
        """The first check of a step that fails, or nothing."""
        tools = self.checks["static_tools"]
        if step == "runtime":
            own = [self.workstreams[name].get("metadata", {}).get("swell", {}) for name in names]
            tools = list(dict.fromkeys(each.get("runtime_tool", self.checks["runtime_tool"]) for each in own))
        for tool in tools:
            argv = self._argv(tree, tool, names)
            done = self._spawn(tree, tool, argv)
            if done.returncode != 0:
                tail = (done.stdout + done.stderr)[-4000:]
                found = self._diagnostics(tree, tool, done)
                failure = {"check": tool, "command": argv, "exit_code": done.returncode, "output_tail": tail}
                return [{**failure, "found": found}]
        return []

    def _diagnostics(self, tree: Path, tool: str, done: "subprocess.CompletedProcess[str]") -> list[dict]:
        """What the check reports, read by the engine's own parsers."""
        report = self.profiles[tool].get("report", {"format": "none", "source": "stdout"})
        source = report["source"]
        data = done.stdout.encode() if source == "stdout" else read(Path(self._fill(source, tree, [])))
        found = judge(
            report["format"], data, worktree=tree, exit_code=done.returncode, success=done.returncode == 0
        ).diagnostics
        return [msgspec.to_builtins(each) for each in found]

    def _tool(self, tree: Path, tool: str, names: list[str], **context: str) -> "subprocess.CompletedProcess[str]":
        return self._spawn(tree, tool, self._argv(tree, tool, names, **context))

    def _argv(self, tree: Path, tool: str, names: list[str], **context: str) -> list[str]:
        profile = self.profiles[tool]
        argv = [self._fill(profile["command"], tree, names, **context)]
        for argument in profile["args"]:
            if argument == "{files}":
                argv += self._files(tree, names)
            else:
                argv.append(self._fill(argument, tree, names, **context))
        return argv

    def _fill(self, text: str, tree: Path, names: list[str], **context: str) -> str:
        known = {
            "python": sys.executable,
            "example_tools": str(EXAMPLES / "tools"),
            "cache": str(self.scratch / "cache"),
            "scratch": str(self.scratch),
            "cwd": str(tree),
            "workstream": names[0] if names else "",
            **context,
        }
        return re.sub(r"\{(\w+)\}", lambda match: known[match[1]], text)

    def _files(self, tree: Path, names: list[str]) -> list[str]:
        declared = {
            path
            for name in names
            for path in (*self.workstreams[name]["files_scope"], *self.workstreams[name].get("files_create", []))
        }
        return sorted(path for path in declared if (tree / path).is_file())

    def _spawn(self, tree: Path, tool: str, argv: list[str]) -> "subprocess.CompletedProcess[str]":
        own = self.profiles[tool].get("env", {})
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.scratch), "PYTHONDONTWRITEBYTECODE": "1", **own}
        start = time.monotonic()
        done = subprocess.run(
            argv, cwd=tree, env=environment, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=False
        )
        self.seconds.setdefault(tool, []).append(time.monotonic() - start)
        return done

    def _tree(self, tree: Path) -> dict[str, str]:
        return {
            str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(tree.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        }

    def _stay_in_scope(self, tree: Path, name: str, before: dict[str, str]) -> None:
        after = self._tree(tree)
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        bundle = self.workstreams[name]
        assert changed <= {*bundle["files_scope"], *bundle.get("files_create", [])}, f"{name} left its scope: {changed}"
