"""NetworkPolicies as rules of the packet filter, in a network namespace of the lab's own."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.deploy.lab.engine import EngineError
from tests.deploy.lab.manifest import Policy, UnknownError

BRIDGED: Final = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
CHAIN: Final = "SWELL-LAB"
TIMEOUT_S: Final = 30

Known = tuple[str, Mapping[str, str]]
"""A pod: its address and its labels."""


class Fence:
    """What may be said by whom to whom, as policies have it. Does nothing where bridges cannot be filtered; see `works`."""

    def __init__(self) -> None:
        self.works = BRIDGED.exists()
        self._text = ""

    def put(self, policies: Sequence[Policy], pods: Sequence[Known]) -> None:
        """Put these policies in force. Raises EngineError, and UnknownError for what the lab does not know in them."""
        text = "\n".join(["*filter", f":{CHAIN} - [0:0]", f"-F {CHAIN}", *rules(policies, pods), "COMMIT", ""])
        if not self.works or text == self._text:
            return
        BRIDGED.write_text("1", encoding="utf-8")
        _run(["iptables-restore", "--noflush"], text)
        if subprocess.run(["iptables", "-C", "FORWARD", "-j", CHAIN], check=False, capture_output=True).returncode:
            _run(["iptables", "-I", "FORWARD", "1", "-j", CHAIN])
        self._text = text


def _run(command: list[str], told: str = "") -> None:
    done = subprocess.run(command, input=told, text=True, capture_output=True, check=False, timeout=TIMEOUT_S)
    if done.returncode:
        raise EngineError(f"{' '.join(command)}: {done.stderr.strip()}")


def rules(policies: Sequence[Policy], pods: Sequence[Known]) -> list[str]:
    """Rules of iptables: what has been begun may go on; a pod that is selected says and hears only what some policy allows.

    Both ends have to allow it: it is dropped where the sender may not say it, and then where the receiver may not hear it.
    """
    found = [f"-A {CHAIN} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"]
    for direction, (own, other) in {"egress": ("-s", "-d"), "ingress": ("-d", "-s")}.items():
        mark = "0x1" if direction == "egress" else "0x2"
        for address, labels in pods:
            mine = [one for one in policies if _selects(one.selector, labels) and getattr(one, direction) is not None]
            if not mine:
                continue
            key = "to" if direction == "egress" else "from"
            matches = [match for one in mine for match in _matches(getattr(one, direction), key, other, pods)]
            found += [f"-A {CHAIN} {own} {address} {match} -j MARK --or-mark {mark}" for match in matches]
            found.append(f"-A {CHAIN} {own} {address} -m mark ! --mark {mark}/{mark} -j DROP")
    return found


def _matches(allowed: Iterable[Mapping[str, Any]], key: str, other: str, pods: Sequence[Known]) -> Iterator[str]:
    for rule in allowed:
        if rule.keys() - {"ports", key}:
            raise UnknownError(f"a policy with {sorted(rule)}: the lab knows ports and {key}")
        ports = [f"-p {one['protocol'].lower()} --dport {one['port']}" for one in rule.get("ports", [])] or [""]
        peers = [address for peer in rule[key] for address in _peer(peer, pods)] if key in rule else ["0.0.0.0/0"]
        for address in peers:
            yield from (f"{other} {address} {port}".strip() for port in ports)


def _peer(peer: Mapping[str, Any], pods: Sequence[Known]) -> Iterator[str]:
    match dict(peer):
        case {"podSelector": selector} if len(peer) == 1:
            yield from (address for address, labels in pods if _selects(selector, labels))
        case {"namespaceSelector": selector} if len(peer) == 1 and not selector:
            yield "0.0.0.0/0"
        case {"ipBlock": {"cidr": cidr, **more}} if len(peer) == 1:
            left = [ipaddress.ip_network(cidr)]
            for text in more.get("except", []):
                without = ipaddress.ip_network(text)
                left = [
                    part for one in left for part in (one.address_exclude(without) if without.subnet_of(one) else [one])
                ]  # type: ignore[arg-type]
            yield from map(str, left)
        case _:
            raise UnknownError(f"the lab does not know the peer {peer}")


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if selector.keys() - {"matchLabels", "matchExpressions"}:
        raise UnknownError(f"the lab does not know the selector {selector}")
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        one["operator"] == "In" and labels.get(one["key"]) in one["values"]
        for one in selector.get("matchExpressions", [])
    )
