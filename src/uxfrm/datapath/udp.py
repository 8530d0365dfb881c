"""ESP in UDP (RFC 3948): datagrams for a port of ours, the header around what we send, changed mappings.

Follows: udp_queue_rcv_one_skb, xfrm4_udp_encap_rcv, esp_input_done2, esp_output_udp_encap, km_new_mapping.
"""

from __future__ import annotations

import struct
from typing import Any

import numba
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, I64S, PACKETS, Batch, Bytes, Int64s
from uxfrm.datapath.carriers import ESPINUDP, before
from uxfrm.datapath.headers import AF_INET, AF_INET6, write_checksum
from uxfrm.datapath.limits import NOTICE_MAPPING, NOTICE_NONE
from uxfrm.datapath.wire import read16, read32, sum16, write16, write32
from uxfrm.model.outcome import Outcome
from uxfrm.model.state import StateConfig
from uxfrm.tables.rows import ROWS

HEADER = 8
PROTO = 17

_PENDING = int(Outcome.PENDING)
_BAD = int(Outcome.IN_UDP_HEADER)
_KEEPALIVE = int(Outcome.IN_KEEPALIVE)
_SHORT = int(Outcome.IN_UDP_SHORT)
_TOO_LONG = int(Outcome.OUT_UDP_LENGTH)

_ESP, _TCP, _ICMPV6 = 50, 6, 58
_LENGTH_MAX = 0xFFFF
_ESP_HEADER = 8
_TTL = 64


# -- checksums


@compiled(int64(DATA, PACKETS, int64, int64, int64, int64))
def _checksum(data: Bytes, packets: Any, i: int, at: int, length: int, proto: int) -> int:
    """The checksum of pseudo header and `length` bytes at `at` (RFC 768, RFC 8200 8.1); 0 if it is right."""
    p = packets[i]
    start, size = (12, 8) if p["family"] == AF_INET else (8, 32)
    total = sum16(data, p["offset"] + start, size) + proto + length + sum16(data, at, length)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


@compiled(numba.void(DATA, PACKETS, int64, int64, int64, int64, int64))
def _write(data: Bytes, packets: Any, i: int, at: int, length: int, proto: int, where: int) -> None:
    """Set the checksum `where` bytes into what is at `at`; 0 is written as 0xffff."""
    write16(data, at + where, 0)
    value = _checksum(data, packets, i, at, length, proto)
    write16(data, at + where, value if value else 0xFFFF)


# -- input


@compiled(int64(DATA, PACKETS, int64, I64S))
def claim(data: Bytes, packets: Any, i: int, ports: Int64s) -> int:
    """Mark UDP packet i as encapsulated where it is for one of `ports`; an outcome if its length is wrong."""
    p = packets[i]
    room = p["length"] - p["header"]
    if p["fragment"] or room < HEADER:
        return _PENDING
    at = p["offset"] + p["header"]
    port = read16(data, at + 2)
    for k in range(ports.shape[0]):
        if ports[k] == port:
            length = read16(data, at + 4)
            if length < HEADER or length > room:
                return _BAD
            p["encap"] = ESPINUDP
    return _PENDING


@compiled(int64(DATA, PACKETS, int64))
def _open(data: Bytes, packets: Any, i: int) -> int:
    """Look into a datagram: 1. trim  2. checksum  3. keepalive, ESP, or the socket's own (p["encap"] = 0)."""
    p = packets[i]
    at = p["offset"] + p["header"]
    length = read16(data, at + 4)
    p["length"] = p["header"] + length
    if read16(data, at + 6):
        if _checksum(data, packets, i, at, length, PROTO):
            return _BAD
    elif p["family"] == AF_INET6:
        return _BAD
    if length == HEADER + 1 and data[at + HEADER] == 0xFF:
        return _KEEPALIVE
    if length <= HEADER + _ESP_HEADER or read32(data, at + HEADER) == 0:
        p["encap"] = 0
        return _PENDING
    if length < HEADER + (p["header"] if p["family"] == AF_INET else 40):
        return _SHORT
    # What is inside is for another socket.
    p["socket"] = 0
    p["owner"] = 0
    p["header"] += HEADER
    p["proto"] = _ESP
    p["wire_proto"] = _ESP
    return _PENDING


@compiled(int64(DATA, PACKETS, I64S, int64))
def unwrap(data: Bytes, packets: Any, active: Int64s, count: int) -> int:
    """Turn the claimed packets among active[:count] into ESP; keep those with IPsec in it, return how many.

    Those with an outcome are out already. The UDP header stays where it is, as part of the packet's header.
    """
    kept = 0
    for k in range(count):
        i = active[k]
        p = packets[i]
        if p["encap"] == ESPINUDP and not p["outcome"]:
            p["outcome"] = _open(data, packets, i)
            if p["outcome"] or not p["encap"]:
                continue
        if not p["outcome"]:
            active[kept] = i
            kept += 1
    return kept


@compiled(numba.void(PACKETS, int64))
def wrap_again(packets: Any, i: int) -> None:
    """Make packet i, for which there was no state, the datagram again that it is for others."""
    p = packets[i]
    if p["encap"] == ESPINUDP:
        p["header"] -= HEADER
        p["proto"] = PROTO
        p["wire_proto"] = PROTO
        p["encap"] = 0


@compiled(int64(ROWS, DATA, PACKETS, int64, int64))
def note_mapping(rows: Any, data: Bytes, packets: Any, i: int, row: int) -> int:
    """A notice where authenticated packet i comes from elsewhere than the state says, and that is news.

    The row keeps where from. Follows: the NAT part of esp_input_done2, km_new_mapping.
    """
    p, x = packets[i], rows[row]
    port = read16(data, p["offset"] + p["header"] - before(p["encap"]))
    at, words = (p["offset"] + 12, 1) if p["family"] == AF_INET else (p["offset"] + 8, 4)
    known = port == x["encap_ports"] >> 16
    for k in range(words):
        known = known and read32(data, at + 4 * k) == x["saddr"][k]
    if known:
        return NOTICE_NONE
    if x["mapping_maxage"]:
        if p["time"] - x["mapped_at"] <= x["mapping_maxage"] and port == x["mapped_port"]:
            return NOTICE_NONE
        x["mapped_at"] = p["time"]
    x["mapped_port"] = port
    for k in range(words):
        x["mapped_address"][k] = read32(data, at + 4 * k)
    return NOTICE_MAPPING


@compiled(numba.void(DATA, PACKETS, int64))
def mend_checksum(data: Bytes, packets: Any, i: int) -> None:
    """Make the checksum of a transport mode payload right: it covers addresses that NAT has changed.

    Linux marks such packets as checked instead (RFC 3948 3.1.2).
    """
    p = packets[i]
    at, length, proto = p["offset"] + p["header"], p["length"] - p["header"], p["proto"]
    if p["fragment"]:
        return
    if proto == PROTO and length >= HEADER and read16(data, at + 4) == length and read16(data, at + 6):
        _write(data, packets, i, at, length, proto, 6)
    elif proto == _TCP and length >= 20:
        _write(data, packets, i, at, length, proto, 16)
    elif proto == _ICMPV6 and length >= 4:
        _write(data, packets, i, at, length, proto, 2)


# -- output


@compiled(int64(ROWS, DATA, PACKETS, int64, int64, int64))
def write_header(rows: Any, data: Bytes, packets: Any, i: int, row: int, at: int) -> int:
    """Write packet i's UDP header at `at`, without checksum; return 0, or the outcome if it is too long."""
    length = packets[i]["offset"] + packets[i]["length"] - at
    if length > _LENGTH_MAX:
        return _TOO_LONG
    write32(data, at, rows[row]["encap_ports"])
    write32(data, at + 4, length << 16)
    return 0


@compiled(numba.void(DATA, PACKETS, int64))
def write_checksum6(data: Bytes, packets: Any, i: int) -> None:
    """Set the checksum of finished packet i where IPv6 wants one."""
    p = packets[i]
    if p["proto"] == PROTO and p["family"] == AF_INET6:
        at = p["offset"] + p["header"]
        _write(data, packets, i, at, p["length"] - p["header"], PROTO, 6)


def keepalive(config: StateConfig, now_s: int) -> Batch:
    """A NAT keepalive of a state, ready to be sent (RFC 3948 2.3). Follows: nat_keepalive_send."""
    assert config.encap is not None
    upper = struct.pack(">HHHHB", config.encap.sport, config.encap.dport, HEADER + 1, 0, 0xFF)
    ends = config.saddr + config.daddr
    if config.family == AF_INET:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(upper), 0, 0x4000, _TTL, PROTO, 0)
    else:
        head = struct.pack(">IHBB", 6 << 28, len(upper), PROTO, _TTL)
    batch = Batch.pack([head + ends + upper], now_s, mark=config.set_mark.v & config.set_mark.m)
    p = batch.packets[0]
    p["policy"], p["outcome"] = -1, Outcome.OUT_KEEPALIVE
    p["family"], p["proto"], p["header"] = config.family, PROTO, len(head + ends)
    if config.family == AF_INET:
        write_checksum(batch.data, int(p["offset"]), 20)
    else:
        write_checksum6(batch.data, batch.packets, 0)
    return batch
