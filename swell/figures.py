"""Swell from Python: what runs of a cluster have cost and what they came to, as the ledger has it.

As in swell/api.py, the cluster is the one that SWELL_SCHEDULER and SWELL_LEDGER name, else the embedded one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from swell.client import Client
from swell.cluster import connected
from swell.errors import invalid
from swell.values import Selection

_RUN: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


def get_run_metrics(run_id: str) -> dict[str, Any]:
    """What a run came to, so far or in the end: the keys of `MetricsAggregator.get_summary`, and the rest of docs/costs.md.

    None stands for what cannot be known. Raises SwellError when there is no such run.
    """
    if not isinstance(run_id, str) or not _RUN.fullmatch(run_id):
        raise invalid(
            "BAD_RUN", f"run_id: {str(run_id)[:80]!r} is no run id", "Use 1 to 128 letters, digits, '-' or '_'."
        )
    with connected() as endpoints, Client(endpoints) as client:
        found: dict[str, Any] = msgspec.to_builtins(client.get_metrics(Selection(run=run_id)))
    return found


def get_costs(group_by: Sequence[str] = (), *, limit: int = 100, **selection: Any) -> dict[str, Any]:
    """What was spent: `rows` by group, the dearest first, at most `limit`, and the `total` of everything, in nano-dollars.

    `group_by`: run, workstream, step, tool, provider, model, day, month, repository, tenant, label:<key>. `selection`: run,
    tool, provider, model, repository, labels (a mapping), tenant, since_ns and until_ns. A cost that nobody knows is None.
    Raises SwellError for what cannot be grouped by or selected.
    """
    if isinstance(group_by, str):
        raise invalid("BAD_GROUPS", f"group_by: {group_by[:80]!r} is one text", f"Give a list, as [{group_by[:80]!r}].")
    try:
        chosen = msgspec.convert(selection, Selection)
    except msgspec.ValidationError as error:
        raise invalid("BAD_SELECTION", str(error), "Mend the value of that argument.") from error
    if unknown := sorted(selection.keys() - set(Selection.__struct_fields__)):
        known = ", ".join(Selection.__struct_fields__)
        raise invalid("BAD_SELECTION", f"nothing is selected by {unknown[0]!r}", f"Use {known}.")
    with connected() as endpoints, Client(endpoints) as client:
        found: dict[str, Any] = msgspec.to_builtins(client.get_costs(chosen, group_by, limit=limit))
    return found
