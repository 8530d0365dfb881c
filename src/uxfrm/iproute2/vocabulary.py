"""The words of `ip xfrm` and what they stand for: one literal table each, read by the grammar and by the printers.

Knows names and numbers, no order of words. Follows: ip-xfrm(8), the output of iproute2 6.1, /etc/protocols of
Debian (no file is read: the same text means the same on every machine).
"""

from __future__ import annotations

from typing import Final

from uxfrm.model import state as flags
from uxfrm.model.flow import PROTO_AH, PROTO_COMP, PROTO_DSTOPTS, PROTO_ESP, PROTO_IPSEC_ANY, PROTO_ROUTING
from uxfrm.model.policy import POLICY_ICMP, POLICY_LOCALOK, Action, DefaultAction, Direction, PolicyType
from uxfrm.model.state import SaDir
from uxfrm.model.template import Mode

Words = dict[str, int]


def names(words: Words) -> dict[int, str]:
    """The same table read the other way; the first word of a number wins."""
    return {number: word for word, number in reversed(words.items())}


XFRM_PROTOS: Final[Words] = {
    "esp": PROTO_ESP,
    "ah": PROTO_AH,
    "comp": PROTO_COMP,
    "route2": PROTO_ROUTING,
    "hao": PROTO_DSTOPTS,
    "ipsec-any": PROTO_IPSEC_ANY,
}

MODES: Final[Words] = {
    "transport": Mode.TRANSPORT,
    "tunnel": Mode.TUNNEL,
    "ro": Mode.ROUTEOPTIMIZATION,
    "in_trigger": Mode.IN_TRIGGER,
    "beet": Mode.BEET,
}

# iproute2 6.1 knows no word for IP-TFS: it prints 5. Newer ones write iptfs, which is read here too.
MODES_READ: Final[Words] = {**MODES, "iptfs": Mode.IPTFS}

STATE_FLAGS: Final[Words] = {
    "noecn": flags.NOECN,
    "decap-dscp": flags.DECAP_DSCP,
    "nopmtudisc": flags.NOPMTUDISC,
    "wildrecv": flags.WILDRECV,
    "icmp": flags.ICMP,
    "af-unspec": flags.AF_UNSPEC_FLAG,
    "align4": flags.ALIGN4,
    "esn": flags.ESN,
}

EXTRA_FLAGS: Final[Words] = {
    "dont-encap-dscp": flags.DONT_ENCAP_DSCP,
    "oseq-may-wrap": flags.OSEQ_MAY_WRAP,
}

POLICY_FLAGS: Final[Words] = {"localok": POLICY_LOCALOK, "icmp": POLICY_ICMP}

ENCAPS: Final[Words] = {
    "espinudp-nonike": 1,
    "espinudp": flags.ENCAP_ESPINUDP,
    "espintcp": flags.ENCAP_ESPINTCP,
}

SA_DIRECTIONS: Final[Words] = {"in": SaDir.IN, "out": SaDir.OUT}
DIRECTIONS: Final[Words] = {"in": Direction.IN, "out": Direction.OUT, "fwd": Direction.FWD}
SOCKET_DIRECTIONS: Final[Words] = {"in": 3, "out": 4, "fwd": 5}
ACTIONS: Final[Words] = {"allow": Action.ALLOW, "block": Action.BLOCK}
TYPES: Final[Words] = {"main": PolicyType.MAIN, "sub": PolicyType.SUB}
LEVELS: Final[Words] = {"required": 0, "use": 1}
SHARES: Final[Words] = {"any": 0, "session": 1, "user": 2, "unique": 3}
DEFAULTS: Final[Words] = {"accept": DefaultAction.ACCEPT, "block": DefaultAction.BLOCK}

OFFLOAD_INBOUND, OFFLOAD_PACKET = 2, 4
OFFLOAD_DIRECTIONS: Final[Words] = {"in": OFFLOAD_INBOUND, "out": 0}

# Where a limit is kept: the field of LifetimeConfig.
LIMITS: Final[dict[str, str]] = {
    "time-soft": "soft_add",
    "time-hard": "hard_add",
    "time-use-soft": "soft_use",
    "time-use-hard": "hard_use",
    "byte-soft": "soft_byte",
    "byte-hard": "hard_byte",
    "packet-soft": "soft_packet",
    "packet-hard": "hard_packet",
}

_PROTOCOLS: Final = """
0 ip IP|0 hopopt HOPOPT|1 icmp ICMP|2 igmp IGMP|3 ggp GGP|4 ipencap IP-ENCAP|5 st ST|6 tcp TCP|8 egp EGP
9 igp IGP|12 pup PUP|17 udp UDP|20 hmp HMP|22 xns-idp XNS-IDP|27 rdp RDP|29 iso-tp4 ISO-TP4|33 dccp DCCP
36 xtp XTP|37 ddp DDP|38 idpr-cmtp IDPR-CMTP|41 ipv6 IPv6|43 ipv6-route IPv6-Route|44 ipv6-frag IPv6-Frag
45 idrp IDRP|46 rsvp RSVP|47 gre GRE|50 esp IPSEC-ESP|51 ah IPSEC-AH|57 skip SKIP|58 ipv6-icmp IPv6-ICMP
59 ipv6-nonxt IPv6-NoNxt|60 ipv6-opts IPv6-Opts|73 rspf RSPF|81 vmtp VMTP|88 eigrp EIGRP|89 ospf OSPFIGP
93 ax.25 AX.25|94 ipip IPIP|97 etherip ETHERIP|98 encap ENCAP|103 pim PIM|108 ipcomp IPCOMP|112 vrrp VRRP
115 l2tp L2TP|124 isis ISIS|132 sctp SCTP|133 fc FC|135 mobility-header Mobility-Header|136 udplite UDPLite
137 mpls-in-ip MPLS-in-IP|138 manet|139 hip HIP|140 shim6 Shim6|141 wesp WESP|142 rohc ROHC
143 ethernet Ethernet
"""


def _protocols() -> Words:
    rows = [row.split() for row in _PROTOCOLS.strip().replace("\n", "|").split("|")]
    return {word: int(number) for number, *spellings in rows for word in spellings} | {"any": 0}


PROTOCOLS: Final[Words] = _protocols()
PROTOCOL_NAMES: Final[dict[int, str]] = {**names(PROTOCOLS), 135: "mobility-header"}

XFRM_PROTO_NAMES: Final = names(XFRM_PROTOS)
MODE_NAMES: Final = names(MODES)
ENCAP_NAMES: Final = names(ENCAPS)


def show(table: dict[int, str], number: int) -> str:
    """The word for `number`, or its digits."""
    return table.get(number) or str(number)


def show_flags(words: Words, value: int) -> str:
    """The words of the bits that are set, and in hexadecimal what no word is known for."""
    known = [word for word, bit in words.items() if value & bit]
    rest = value & ~sum(words.values())
    return " ".join(known + ([f"{rest:x}"] if rest else []))
