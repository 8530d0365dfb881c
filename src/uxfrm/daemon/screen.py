"""What the kernel must turn away itself where only what is routed into a device comes before uxfrm.

Packets in clear that a policy wants protected (in, fwd) reach the host without passing the device. Rules of
nftables, made of the same policies, drop them. They stay when the process dies; `remove` takes them away.

Rule 1: a packet that came out of the device, or over the loopback device, was judged already.
Rule 2: IPsec itself and IKE pass: sockets receive them, which have policies of their own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from ipaddress import ip_network

from uxfrm.attach.attachment import AttachmentError
from uxfrm.model.address import AF_INET, show
from uxfrm.model.policy import Action, Direction, PolicyConfig, PolicyType
from uxfrm.model.selector import Selector

TABLE = "uxfrm"
_HOOKS = {Direction.IN: "input", Direction.FWD: "forward"}
_WITH_PORTS = (6, 17, 33, 132, 136)
_WITH_TYPES = (1, 58)
_PASS = ("meta l4proto { 50, 51, 108 } accept", "udp dport { 500, 4500 } accept")


def ruleset(
    device: str, policies: Iterable[PolicyConfig], blocked: Iterable[Direction], closed: Iterable[str] = ()
) -> str:
    """The rules as `nft -f` reads them, in one transaction.

    `policies` in the order of lookups, `blocked` the directions whose default is to block, `closed` prefixes
    from which nothing in clear may come, whatever the policies say.
    """
    listed, shut, blocking = list(policies), list(closed), set(blocked)
    lines = [f"add table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    for direction, hook in _HOOKS.items():
        lines.append(f"chain {hook} {{ type filter hook {hook} priority filter - 5; policy accept;")
        lines.append(f'iifname {{ "{device}", "lo" }} accept')
        lines += _PASS if direction == Direction.IN else ()
        lines += [rule for config in listed if config.direction == direction for rule in _rules(config)]
        lines += [f"{_word(prefix)} saddr {prefix} drop" for prefix in shut]
        lines += ["drop"] if direction in blocking else []
        lines.append("}")
    return "\n".join([*lines, "}\n"])


def _rules(config: PolicyConfig) -> Iterator[str]:
    """A policy's rule; policies of xfrm interfaces say nothing of other devices."""
    if config.if_id:
        return
    dropped = config.action == Action.BLOCK or any(not t.optional for t in config.templates)
    if not dropped and config.type == PolicyType.SUB:
        return  # the main policies have their say as well
    verdict = "drop" if dropped else "accept"
    yield " ".join([*_matches(config.selector, config.mark.v, config.mark.m), verdict])


def _matches(selector: Selector, mark: int, mask: int) -> Iterator[str]:
    ip = "ip" if selector.family == AF_INET else "ip6"
    yield f"meta nfproto {'ipv4' if ip == 'ip' else 'ipv6'}"
    if selector.prefixlen_s:
        yield f"{ip} saddr {show(selector.saddr)}/{selector.prefixlen_s}"
    if selector.prefixlen_d:
        yield f"{ip} daddr {show(selector.daddr)}/{selector.prefixlen_d}"
    if selector.ifindex:
        yield f"meta iif {selector.ifindex}"
    if mask:
        yield f"meta mark & {mask:#x} == {mark:#x}"
    yield from _upper(selector)


def _upper(selector: Selector) -> Iterator[str]:
    """Protocol and ports; of ICMP the type is where the source port would be, the code where the other."""
    if selector.proto:
        yield f"meta l4proto {selector.proto}"
    ports = ((0, selector.sport, selector.sport_mask), (16, selector.dport, selector.dport_mask))
    if not any(mask for _, _, mask in ports):
        return
    if not selector.proto:
        yield f"meta l4proto {{ {', '.join(map(str, _WITH_PORTS))} }}"
    width = 8 if selector.proto in _WITH_TYPES else 16
    for at, port, mask in ports:
        kept = mask & ((1 << width) - 1)
        if kept:
            yield f"@th,{at * width // 16},{width} & {kept:#x} == {port & kept:#x}"


def _word(prefix: str) -> str:
    return "ip" if ip_network(prefix).version == 4 else "ip6"


def install(rules: str) -> None:
    """Put rules in force, all or none. Raises AttachmentError."""
    _nft(rules)


def remove() -> None:
    """Take the rules away, whoever made them. Raises AttachmentError."""
    _nft(f"add table inet {TABLE}\ndelete table inet {TABLE}\n")


def _nft(text: str) -> None:
    try:
        done = subprocess.run(["nft", "-f", "-"], input=text.encode(), capture_output=True, check=False)
    except FileNotFoundError:
        raise AttachmentError("nft is not there: install nftables") from None
    if done.returncode:
        words = done.stderr.decode(errors="replace").splitlines()[:1]
        raise AttachmentError(f"nft: {' '.join(words)}")
