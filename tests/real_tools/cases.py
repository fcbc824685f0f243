"""What is tried with each tool, and what has to come of it.

A case is a script of the model, what the run is given besides, and the class of error by which the tool's first attempt
has to close; "" stands for a run that completes, with a FIX in it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tests.real_tools.server import FILE, Script

RETRY_AFTER_S: Final = 3
IDLE_S: Final = 8.0
"""In place of the shipped profile's minutes, where a tool has to be ended for its silence."""
CAP_USD: Final = 0.01
"""An answer costs 0.00321: the fourth is one too many."""
COMMAND_S: Final = 9753
COMMAND: Final = f"timeout {COMMAND_S} tail -f {FILE}"
"""What the agent has running when it is ended; no other process has this argument. Claude Code refuses a bare `sleep`."""

TOOLS: Final = ("claude", "codex", "aider", "opencode", "gemini")

_LIMITED: Final = {"retry-after": str(RETRY_AFTER_S)}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """`cancel`: the run is cancelled by `swell cancel` once the tool waits. `profile` replaces fields of the shipped one.

    `weight` orders: what takes longest begins first.
    """

    tool: str
    name: str
    script: Script
    expect: str = ""
    cancel: bool = False
    context: dict[str, Any] = {}
    profile: dict[str, Any] = {}
    weight: int = 0


def cases(tools: list[str], names: list[str]) -> list[Case]:
    """Those of these tools and names, in the order in which they are told; no names: all of them."""
    return [case for case in _all() if case.tool in tools and (not names or case.name in names)]


def _all() -> list[Case]:
    found = []
    for tool in TOOLS:
        slow = 2 if tool in {"aider", "opencode"} else 0

        def case(name: str, script: Script, expect: str = "", tool: str = tool, **more: Any) -> None:
            found.append(Case(tool=tool, name=name, script=script, expect=expect, **more))

        case("success", Script())
        if tool == "codex":
            case("own-sandbox", Script(), profile={"sandbox": "none"})
        case("401", Script(kind="status", status=401), "auth", weight=slow)
        case("429", Script(kind="status", status=429, headers=_LIMITED), "rate_limited", weight=slow + 1)
        case("500", Script(kind="status", status=500), "server_error", weight=slow + 1)
        case("529", Script(kind="status", status=529), "overloaded", weight=slow + 1)
        case("hang", Script(kind="hang"), "idle_timeout", profile={"idle_timeout_sec": IDLE_S})
        case("drop", Script(kind="drop"), "network", weight=slow + 1)
        if tool == "claude":
            case("budget", Script(kind="endless"), "budget", profile={"cost_cap_usd": CAP_USD})
            case("turns", Script(kind="endless"), "max_turns", context={"max_turns": 3})
        waiting = Script(kind="hang") if tool == "aider" else Script(kind="command", command=COMMAND)
        case("SIGTERM", waiting, "cancelled", cancel=True)
    return found
