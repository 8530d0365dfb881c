"""An IP packet in one line, for people: protocol, endpoints, what it carries.

Only headers are read; what cannot be read is left out.
"""

from __future__ import annotations

from uxfrm.model.address import show

PROTOCOLS = {
    0: "hopopt", 1: "icmp", 2: "igmp", 4: "ipip", 6: "tcp", 17: "udp", 41: "ipv6", 43: "route2",
    44: "fragment", 47: "gre", 50: "esp", 51: "ah", 58: "icmp6", 60: "hao", 89: "ospf", 94: "beet",
    108: "comp", 132: "sctp", 135: "mh", 136: "udplite", 144: "iptfs",
}  # fmt: skip

_WITH_PORTS = frozenset({6, 17, 132, 136})
_EXTENSIONS = frozenset({0, 43, 60})
_ICMP = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}
_ICMP6 = {
    1: "unreachable", 2: "packet too big", 3: "time exceeded", 128: "echo request", 129: "echo reply",
    133: "router solicitation", 134: "router advertisement", 135: "neighbour solicitation",
    136: "neighbour advertisement",
}  # fmt: skip
_TCP_FLAGS = ((0x02, "S"), (0x10, "."), (0x08, "P"), (0x01, "F"), (0x04, "R"), (0x20, "U"))


def protocol(number: int) -> str:
    """The name of an IP protocol as `ip xfrm` spells it, or its number."""
    return PROTOCOLS.get(number, str(number))


def one_line(packet: bytes) -> str:
    """Describe an IPv4 or IPv6 packet."""
    if not packet:
        return ""
    four = packet[0] >> 4 == 4
    if len(packet) < (20 if four else 40):
        return "cut short"
    return _ipv4(packet) if four else _ipv6(packet)


def _ipv4(packet: bytes) -> str:
    header = (packet[0] & 15) * 4
    offset = int.from_bytes(packet[6:8])
    where = f" fragment at {(offset & 0x1FFF) * 8}" if offset & 0x3FFF else ""
    upper = b"" if offset & 0x1FFF else packet[header:]
    body = len(packet) - header
    return _endpoints(packet[9], show(packet[12:16]), show(packet[16:20]), upper, body) + where


def _ipv6(packet: bytes) -> str:
    proto, header, where = packet[6], 40, ""
    while proto in _EXTENSIONS and header + 8 <= len(packet):
        proto, header = packet[header], header + (packet[header + 1] + 1) * 8
    if proto == 44 and header + 8 <= len(packet):
        offset = int.from_bytes(packet[header + 2 : header + 4]) & 0xFFF8
        proto, header, where = packet[header], header + 8, f" fragment at {offset}"
        if offset:
            return _endpoints(proto, show(packet[8:24]), show(packet[24:40]), b"", 0) + where
    upper = packet[header:]
    return _endpoints(proto, show(packet[8:24]), show(packet[24:40]), upper, len(upper)) + where


def _endpoints(proto: int, source: str, destination: str, upper: bytes, body: int) -> str:
    name = protocol(proto)
    if proto in _WITH_PORTS and len(upper) >= 4:
        bracket = "[{}]:{}" if ":" in source else "{}:{}"
        source = bracket.format(source, int.from_bytes(upper[:2]))
        destination = bracket.format(destination, int.from_bytes(upper[2:4]))
    return f"{name} {source} > {destination}{_inside(proto, upper, body)}"


def _inside(proto: int, upper: bytes, body: int) -> str:
    """What the upper-layer header says, and how many bytes it carries."""
    if proto == 17 and len(upper) >= 8:
        return f" {body - 8} bytes"
    if proto == 6 and len(upper) >= 14:
        flags = "".join(letter for bit, letter in _TCP_FLAGS if upper[13] & bit)
        return f" [{flags}] {body - (upper[12] >> 4) * 4} bytes"
    if proto == 1 and upper:
        return f" {_ICMP.get(upper[0], f'type {upper[0]}')}"
    if proto == 58 and upper:
        return f" {_ICMP6.get(upper[0], f'type {upper[0]}')}"
    if proto in (50, 108) and len(upper) >= 8:
        return f" spi 0x{int.from_bytes(upper[:4]):08x} seq {int.from_bytes(upper[4:8])}"
    return f" {body} bytes"
