"""Selectors: which packets a policy or a state is for (struct xfrm_selector, RFC 4301 4.4.1.1)."""

from __future__ import annotations

from dataclasses import dataclass

from uxfrm.model.address import AF_INET, AF_INET6, AF_UNSPEC, ANY4, ANY6, BITS, Address, in_prefix
from uxfrm.model.error import invalid
from uxfrm.model.flow import Flow


@dataclass(frozen=True, slots=True)
class Selector:
    """Prefixes, ports with masks, protocol and interface; `user` is kept and never matched.

    Family AF_UNSPEC (only in states) matches every packet.
    """

    family: int = AF_UNSPEC
    daddr: Address = ANY4
    saddr: Address = ANY4
    prefixlen_d: int = 0
    prefixlen_s: int = 0
    dport: int = 0
    dport_mask: int = 0
    sport: int = 0
    sport_mask: int = 0
    proto: int = 0
    ifindex: int = 0
    user: int = 0

    def matches(self, flow: Flow) -> bool:
        """True when `flow` is inside. Follows: xfrm_selector_match."""
        return (
            self.family == flow.family
            and in_prefix(flow.daddr, self.daddr, self.prefixlen_d)
            and in_prefix(flow.saddr, self.saddr, self.prefixlen_s)
            and not (flow.dport ^ self.dport) & self.dport_mask
            and not (flow.sport ^ self.sport) & self.sport_mask
            and self.proto in (0, flow.proto)
            and self.ifindex in (0, flow.oif)
        )


ANYTHING = Selector()
EVERYTHING = {
    AF_INET: Selector(AF_INET, ANY4, ANY4),
    AF_INET6: Selector(AF_INET6, ANY6, ANY6),
}


def check_prefixes(selector: Selector, family: int, unknown_family: str) -> None:
    """Raise EINVAL for prefixes longer than the family allows. Follows: verify_newsa_info."""
    if family not in BITS:
        raise invalid(unknown_family)
    name = "IPv4" if family == AF_INET else "IPv6"
    if max(selector.prefixlen_d, selector.prefixlen_s) > BITS[family]:
        raise invalid(f"Invalid prefix length in selector (must be <= {BITS[family]} for {name})")
