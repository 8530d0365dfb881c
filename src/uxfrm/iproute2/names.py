"""The words that `ip xfrm` has for numbers, both ways."""

from __future__ import annotations

from collections.abc import Mapping

from uxfrm.iproute2.words import unsigned
from uxfrm.model.flow import PROTO_GRE, PROTO_ICMP, PROTO_ICMPV6, PROTO_MH

Table = Mapping[int, str]

XFRM_PROTO: Table = {50: "esp", 51: "ah", 108: "comp", 43: "route2", 60: "hao", 255: "ipsec-any"}
IPSEC = frozenset({50, 51, 108, 255})
"""Protocols of states that have an SPI (xfrm_id_proto_match's IPSEC_PROTO_ANY)."""
MODE: Table = {0: "transport", 1: "tunnel", 2: "ro", 3: "in_trigger", 4: "beet", 5: "iptfs"}
MODE_SHOWN: Table = {mode: word for mode, word in MODE.items() if word != "iptfs"}
STATE_FLAG: Table = {
    1: "noecn",
    2: "decap-dscp",
    4: "nopmtudisc",
    8: "wildrecv",
    16: "icmp",
    32: "af-unspec",
    64: "align4",
    128: "esn",
}
EXTRA_FLAG: Table = {1: "dont-encap-dscp", 2: "oseq-may-wrap"}
ENCAP: Table = {1: "espinudp-nonike", 2: "espinudp", 7: "espintcp"}
SA_DIR: Table = {1: "in", 2: "out"}
DIRECTION: Table = {0: "in", 1: "out", 2: "fwd"}
SOCKET_DIRECTION: Table = {3: "in", 4: "out", 5: "fwd"}
ACTION: Table = {0: "allow", 1: "block"}
PTYPE: Table = {0: "main", 1: "sub"}
LEVEL: Table = {0: "required", 1: "use"}
POLICY_FLAG: Table = {1: "localok", 2: "icmp"}
SHARE: Table = {0: "any", 1: "session", 2: "user", 3: "unique"}
DEFAULT: Table = {1: "block", 2: "accept"}
DEFAULT_SHOWN: Table = {0: "unspec", **DEFAULT}

GRE = PROTO_GRE
PORTED = frozenset({6, 17, 33, 132})
TYPED = frozenset({PROTO_ICMP, PROTO_ICMPV6, PROTO_MH})

# Debian's /etc/protocols, from which `ip` there has these words; the core reads no files.
# fmt: off
PROTOCOL: Table = {
    0: "ip", 1: "icmp", 2: "igmp", 3: "ggp", 4: "ipencap", 5: "st", 6: "tcp", 8: "egp", 9: "igp", 12:
    "pup", 17: "udp", 20: "hmp", 22: "xns-idp", 27: "rdp", 29: "iso-tp4", 33: "dccp", 36: "xtp", 37:
    "ddp", 38: "idpr-cmtp", 41: "ipv6", 43: "ipv6-route", 44: "ipv6-frag", 45: "idrp", 46: "rsvp", 47:
    "gre", 50: "esp", 51: "ah", 57: "skip", 58: "ipv6-icmp", 59: "ipv6-nonxt", 60: "ipv6-opts", 73:
    "rspf", 81: "vmtp", 88: "eigrp", 89: "ospf", 93: "ax.25", 94: "ipip", 97: "etherip", 98: "encap",
    103: "pim", 108: "ipcomp", 112: "vrrp", 115: "l2tp", 124: "isis", 132: "sctp", 133: "fc", 135:
    "mobility-header", 136: "udplite", 137: "mpls-in-ip", 138: "manet", 139: "hip", 140: "shim6", 141:
    "wesp", 142: "rohc", 143: "ethernet",
}
# Aliases there, where they are not just the name in capitals.
_SPELLED = {
    "IP-ENCAP": 4, "IPv6": 41, "IPv6-Route": 43, "IPv6-Frag": 44, "IPSEC-ESP": 50, "IPSEC-AH": 51,
    "IPv6-ICMP": 58, "IPv6-NoNxt": 59, "IPv6-Opts": 60, "OSPFIGP": 89, "Mobility-Header": 135,
    "UDPLite": 136, "MPLS-in-IP": 137, "Shim6": 140, "Ethernet": 143,
}
# `ip` has "any" itself, and keeps 8 bits of MPTCP's 262.
_ALIAS = _SPELLED | {"any": 0, "hopopt": 0, "HOPOPT": 0, "mptcp": 6, "MPTCP": 6} | {
    word.upper(): value for value, word in PROTOCOL.items() if value not in _SPELLED.values()
}
# fmt: on


def name(table: Table, value: int) -> str:
    """The word for `value`, or its digits."""
    return table.get(value, str(int(value)))


def number(table: Table, word: str) -> int | None:
    """The number that `word` stands for, None for none."""
    return next((value for value, text in table.items() if text == word), None)


def protocol(word: str) -> int | None:
    """The protocol of this name or number, None for none."""
    found = number(PROTOCOL, word)
    return _ALIAS.get(word, unsigned(word, 8)) if found is None else found
