"""Generates what `deploy/` repeats from elsewhere: `python -m deploy.generate` writes it, `--check` compares.

* The image's requirements: the part of requirements.lock that runs Swell, and the part that builds its wheel.
* The chart's copies of rules and dashboards; a chart cannot read files that lie outside of it.
* The permissions of NATS users, for a pool called POOL, which the chart replaces by the names of its pools.
* In the chart's values.schema.json, what may stand in `settings`: the services' own settings without those that the chart sets.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from services.executor.config import ExecutorConfig
from services.ledger.config import LedgerConfig
from services.permissions import User, executor, ledger, scheduler
from services.scheduler.config import SchedulerConfig

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = ROOT / "deploy" / "helm" / "swell"

SERVICES: Final[dict[str, type[msgspec.Struct]]] = {
    "scheduler": SchedulerConfig,
    "executor": ExecutorConfig,
    "ledger": LedgerConfig,
}
SET_BY_CHART: Final = frozenset({
    "auth", "bind", "bus", "file", "id", "metrics_address", "metrics_plaintext", "pool", "ready_file", "slots", "state_dir",
    "tls", "token_file",
})  # fmt: skip
"""Settings that follow from other values of the chart."""

BUILT_WITH: Final = ("setuptools",)
"""What builds dependencies that come as source only."""

_PINNED: Final = re.compile(r"^([a-z0-9][a-z0-9._-]*)==", re.MULTILINE)


class LockError(ValueError):
    """requirements.lock cannot be taken apart; the text says why."""


def generated() -> Iterator[tuple[Path, str]]:
    """Every file that is generated, with its content."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    yield ROOT / "deploy" / "requirements.lock", subset(lock, project["project"]["dependencies"])
    yield ROOT / "deploy" / "build.lock", subset(lock, [*project["build-system"]["requires"], *BUILT_WITH])
    rules = ROOT / "deploy" / "prometheus" / "swell.rules.yml"
    yield CHART / "files" / rules.name, rules.read_text(encoding="utf-8")
    for board in sorted((ROOT / "deploy" / "grafana").glob("*.json")):
        yield CHART / "files" / "dashboards" / board.name, board.read_text(encoding="utf-8")
    table = {user.name: permissions_of(user) for user in (scheduler(), ledger(), executor("POOL"))}
    yield CHART / "files" / "nats-permissions.json", json.dumps(table, indent=1) + "\n"
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    schema["$defs"] = {name: one for name, one in schema["$defs"].items() if not name.startswith("settings.")}
    for service, kind in SERVICES.items():
        schema["$defs"] |= settings_schema(f"settings.{service}", kind)
    yield CHART / "values.schema.json", json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def permissions_of(user: User) -> dict[str, Any]:
    """What a user of NATS may do, as a server's configuration has it."""
    denied = {"deny": list(user.denied)} if user.denied else {}
    return {
        "publish": {"allow": user.subjects("publish")} | denied,
        "subscribe": {"allow": user.subjects("subscribe")},
    }


def subset(lock: str, wanted: list[str]) -> str:
    """The part of a lock that `wanted` and all that they need stand in, as it stands there. Raises LockError."""
    starts = [found.start() for found in _PINNED.finditer(lock)]
    entries = [lock[at:end] for at, end in zip(starts, [*starts[1:], len(lock)], strict=True)]
    by_name = {_PINNED.match(entry)[1]: entry for entry in entries}  # type: ignore[index]  # each begins with one
    asked_by = {
        name: set(re.findall(r"# +(?:via )?([a-z0-9][a-z0-9._-]*)$", entry, re.MULTILINE))
        for name, entry in by_name.items()
    }
    taken = {re.split(r"[<>=\[ ;!~]", one)[0].lower() for one in wanted}
    if missing := taken - by_name.keys():
        raise LockError(f"requirements.lock lacks {', '.join(sorted(missing))}: run `make lock`")
    while more := {name for name, askers in asked_by.items() if askers & taken} - taken:
        taken |= more
    return "".join(entry for name, entry in by_name.items() if name in taken)


def settings_schema(name: str, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """JSON Schema of the settings of a service that a user of the chart may set, and of what stands in them."""
    (_,), parts = msgspec.json.schema_components(
        (kind,), schema_hook=_schema_of, ref_template=f"#/$defs/{name}.{{name}}"
    )
    found = {f"{name}.{part}": _bare(schema) for part, schema in parts.items()}
    top = found.pop(f"{name}.{kind.__name__}")
    top["properties"] = {key: one for key, one in top["properties"].items() if key not in SET_BY_CHART}
    top.pop("required", None)
    reached = _reached({name: top}, found)
    return {name: top} | {part: found[part] for part in found if part in reached}


def _reached(top: dict[str, Any], parts: dict[str, Any]) -> set[str]:
    reached: set[str] = set()
    left = [json.dumps(top)]
    while left:
        named = set(re.findall(r"#/\$defs/([\w.]+)", left.pop())) - reached
        reached |= named
        left += [json.dumps(parts[name]) for name in named]
    return reached


def _schema_of(kind: type) -> dict[str, Any]:
    if kind is Path:
        return {"type": "string", "minLength": 1}
    raise NotImplementedError(kind)


def _bare(schema: Any) -> Any:
    """The same without titles, texts and defaults, which stand in config/*.toml, and without null: a key is left out."""
    if isinstance(schema, list):
        return [_bare(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    match [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]:
        case [single]:
            return _bare(single)
    dropped = {"title", "description", "default"}
    return {
        key: {name: _bare(one) for name, one in value.items()} if key == "properties" else _bare(value)
        for key, value in schema.items()
        if key not in dropped
    }


def stale() -> list[str]:
    """Generated files that are not what they would be if they were generated now."""
    return [
        str(file.relative_to(ROOT))
        for file, text in generated()
        if not file.is_file() or file.read_text(encoding="utf-8") != text
    ]


def main() -> None:
    """Entry point of `make chart`, and of the check of it."""
    if sys.argv[1:] == ["--check"]:
        if found := stale():
            raise SystemExit(f"stale: {', '.join(found)}; run `make chart` and commit the result")
        sys.stdout.write("what deploy/ repeats is current\n")
        return
    for file, text in generated():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
