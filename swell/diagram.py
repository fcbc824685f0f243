"""A plan as a Mermaid flowchart. Pure.

What a renderer takes by default is limited, and a picture of hundreds of boxes tells nothing: a plan beyond NODES_MAX
workstreams or EDGES_MAX lines is drawn by its waves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from services.plan import ExecutionPlan

NODES_MAX: Final = 150
EDGES_MAX: Final = 400
"""Lines between boxes; Mermaid refuses more than 500."""


def mermaid(plan: ExecutionPlan, conflicts: Iterable[tuple[str, str]]) -> list[str]:
    """Waves as frames, dependencies as arrows (bold along the critical path), `conflicts` as dotted lines."""
    pairs = sorted(set(conflicts))
    edges = sum(map(len, plan.dependency_graph.values())) + len(pairs)
    if plan.total_workstreams > NODES_MAX or edges > EDGES_MAX:
        return _by_waves(plan)
    names = {id_: f"n{at}" for at, id_ in enumerate(id_ for wave in plan.waves for id_ in wave)}
    critical = set(pairwise(plan.critical_path))
    lines = ["flowchart LR"]
    for at, wave in enumerate(plan.waves, 1):
        lines += [f'  subgraph w{at}["wave {at}"]', *(f'    {names[id_]}["{id_}"]' for id_ in wave), "  end"]
    for id_, needed in plan.dependency_graph.items():
        lines += [f"  {names[other]} {'==>' if (other, id_) in critical else '-->'} {names[id_]}" for other in needed]
    lines += [f"  {names[a]} -. conflict .- {names[b]}" for a, b in pairs]
    return lines


def _by_waves(plan: ExecutionPlan) -> list[str]:
    """One box for each wave, and how many dependencies lead from one to another."""
    wave_of = {id_: at for at, wave in enumerate(plan.waves, 1) for id_ in wave}
    shown = min(len(plan.waves), NODES_MAX)
    lines = ["flowchart LR"]
    lines += [f'  w{at}["wave {at}: {len(wave)} workstreams"]' for at, wave in enumerate(plan.waves[:shown], 1)]
    if shown < len(plan.waves):
        rest = sum(map(len, plan.waves[shown:]))
        lines.append(f'  rest["{len(plan.waves) - shown} more waves: {rest} workstreams"]')
    counts: Counter[tuple[int, int]] = Counter()
    for id_, needed in plan.dependency_graph.items():
        for other in needed:
            counts[wave_of[other], wave_of[id_]] += 1
    seen = [(pair, n) for pair, n in sorted(counts.items()) if pair[1] <= shown]
    for (first, then), count in sorted(seen, key=lambda one: (-one[1], one[0]))[:EDGES_MAX]:
        lines.append(f"  w{first} -->|{count}| w{then}")
    if shown < len(plan.waves):
        lines.append(f"  w{shown} --> rest")
    return lines
