"""A flow: what policies and selectors are matched against (struct flowi, RFC 4301's 5-tuple)."""

from __future__ import annotations

from typing import NamedTuple

from uxfrm.model.address import AF_INET, AF_INET6, Address

PROTO_ICMP, PROTO_IPIP, PROTO_TCP, PROTO_UDP, PROTO_IPV6 = 1, 4, 6, 17, 41
PROTO_ROUTING, PROTO_FRAGMENT, PROTO_GRE, PROTO_ESP, PROTO_AH = 43, 44, 47, 50, 51
PROTO_ICMPV6, PROTO_NONE, PROTO_DSTOPTS, PROTO_BEETPH, PROTO_COMP = 58, 59, 60, 94, 108
PROTO_SCTP, PROTO_MH, PROTO_UDPLITE = 132, 135, 136
PROTO_IPSEC_ANY = 255

_WITH_PORTS = (PROTO_TCP, PROTO_UDP, PROTO_SCTP, PROTO_UDPLITE)

# Destination unreachable and time exceeded; in ICMPv6 packet too big besides.
_ERRORS4, _ERRORS6 = (3, 11), (1, 2, 3)


class Flow(NamedTuple):
    """Addresses, protocol and ports of a packet, with the mark and interface it is looked up by.

    `sport` and `dport` are what Linux takes for ports: ICMP's type and code, the halves of a GRE key,
    an MH type; 0 for every other protocol and for every fragment. `oif` is an interface index.
    """

    daddr: Address
    saddr: Address
    proto: int = 0
    sport: int = 0
    dport: int = 0
    oif: int = 0
    mark: int = 0

    @property
    def family(self) -> int:
        return AF_INET if len(self.daddr) == 4 else AF_INET6

    @property
    def is_icmp_error(self) -> bool:
        """True for an ICMP message that may carry a packet it is about. Follows: icmp_err_packet."""
        if self.family == AF_INET:
            return self.proto == PROTO_ICMP and self.sport in _ERRORS4
        return self.proto == PROTO_ICMPV6 and self.sport in _ERRORS6

    def reversed(self) -> Flow:
        """The flow of the answer; only real ports change sides. Follows: decode_session4 with reverse set."""
        back = self._replace(daddr=self.saddr, saddr=self.daddr)
        if self.proto in _WITH_PORTS:
            back = back._replace(sport=self.dport, dport=self.sport)
        return back
