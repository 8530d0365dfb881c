"""Input: from SPI to inner packet, one layer at a time, a run of packets at a time.

Follows: xfrm_input. A run is as many packets as may be decrypted together and still end exactly as if they
had come one by one: `begin` looks up states and describes the ciphertexts, the engines open them, `commit`
then judges the packets in their order against the live rows. What a packet before it in the same run could
change (the ESN high half, a hard limit) makes `begin` stop in front of the packet, and the next run starts
there.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath import ah, esp, espintcp, ipcomp, udp
from uxfrm.datapath.batch import DATA, I64S, JOBS, PACKETS, Bytes, Int64s
from uxfrm.datapath.carriers import ESPINTCP
from uxfrm.datapath.headers import parse
from uxfrm.datapath.limits import (
    NOTICE_AEVENT,
    NOTICE_HARD,
    NOTICE_MAPPING,
    NOTICE_NONE,
    NOTICE_USED,
    check_aevent,
    check_limits,
    near_hard,
)
from uxfrm.datapath.modes import remove
from uxfrm.datapath.replay import advance, blame, check, infer_high, seq_high
from uxfrm.datapath.wire import read16, read32
from uxfrm.model.outcome import Outcome
from uxfrm.model.template import MAX_DEPTH
from uxfrm.tables.hashindex import I32, Int32s
from uxfrm.tables.rows import (
    REPLAY_ESN,
    ROWS,
    TRANSFORM_AH,
    TRANSFORM_COMP,
    TRANSFORM_ESP,
    TRANSFORM_UNSUPPORTED,
)
from uxfrm.tables.statehash import find_by_spi

_PENDING = int(Outcome.PENDING)
_SHORT = int(Outcome.IN_HEADER_SHORT)
_DEPTH = int(Outcome.IN_DEPTH)
_NO_STATE = int(Outcome.IN_NO_STATE)
_DIR = int(Outcome.IN_STATE_DIR)
_ACQ = int(Outcome.IN_STATE_ACQ)
_INVALID = int(Outcome.IN_STATE_INVALID)
_ENCAP = int(Outcome.IN_ENCAP_MISMATCH)
_EXPIRED = int(Outcome.IN_EXPIRED)
_OLD = int(Outcome.IN_SEQ_OLD)
_HIGH = int(Outcome.IN_SEQ_HIGH)
_ICV = int(Outcome.IN_ICV)
_INSIDE = int(Outcome.IN_AH_INSIDE)
_ESP_LENGTH = int(Outcome.IN_ESP_LENGTH)
_UNSUPPORTED_MODE = int(Outcome.UNSUPPORTED_MODE)

_ESP, _AH, _COMP, _IPIP, _IPV6 = 50, 51, 108, 4, 41
_ICMP, _ICMPV6 = 1, 58
_VALID, _LARVAL = 1, 2
_DIR_OUT = 2

# Where `commit` counts, in `found`, the fragments that it uncovered.
FRAGMENTS = 6


@compiled(numba.types.UniTuple(int64, 3)(DATA, PACKETS, I64S, I64S))
def classify(data: Bytes, packets: Any, encap_ports: Int64s, active: Int64s) -> tuple[int, int, int]:
    """Read every packet's IP header, list those that may carry IPsec.

    Returns how many they are, how many fragments there are, and how many ICMP messages.

    `encap_ports` are the destination ports of states with UDP encapsulation; what is for those is listed,
    fragments are not. Messages of TCP streams come with their `encap`.
    """
    count = fragments = messages = 0
    for i in range(packets.shape[0]):
        p = packets[i]
        p["policy"] = -1
        p["origin"] = i
        if p["encap"] == ESPINTCP:
            p["outcome"] = espintcp.take_in(data, packets, i)
            if not p["outcome"]:
                active[count] = i
                count += 1
            continue
        p["encap"] = 0
        p["outcome"] = parse(data, packets, i)
        if p["outcome"]:
            continue
        proto = p["proto"]
        p["wire_proto"] = proto
        if p["fragment"]:
            fragments += 1
        elif proto in (_ESP, _AH, _COMP):
            active[count] = i
            count += 1
        elif proto == udp.PROTO and encap_ports.shape[0]:
            p["outcome"] = udp.claim(data, packets, i, encap_ports)
            if p["encap"]:
                active[count] = i
                count += 1
        elif proto in (_ICMP, _ICMPV6):
            messages += 1
    return count, fragments, messages


@compiled(numba.boolean(DATA, PACKETS, int64))
def read_header(data: Bytes, packets: Any, i: int) -> bool:
    """Read SPI and sequence number; those of the outermost layer are kept as what was on the wire.

    False where the packet is too short for them. IPComp has a CPI and no number; what goes with a companion
    has neither, and got both before. Follows: xfrm_parse_spi.
    """
    p = packets[i]
    at, room = p["offset"] + p["header"], p["length"] - p["header"]
    if p["proto"] == _COMP:
        if room < ipcomp.HEADER:
            return False
        p["spi"] = read16(data, at + 2)
        p["seq"] = 0
    elif p["proto"] == _AH:
        if room < ah.HEADER:
            return False
        p["spi"] = read32(data, at + 4)
        p["seq"] = read32(data, at + 8)
    elif p["proto"] not in (_IPIP, _IPV6):
        if room < esp.HEADER:
            return False
        p["spi"] = read32(data, at)
        p["seq"] = read32(data, at + 4)
    if p["depth"] == 0:
        p["wire_spi"] = p["spi"]
        p["wire_seq"] = p["seq"]
    return True


@compiled(int64(ROWS, int64, int64))
def _usable(rows: Any, row: int, encap: int) -> int:
    """The refusals that depend on the state and the kind of encapsulation alone, in the kernel's order."""
    x = rows[row]
    if x["direction"] == _DIR_OUT:
        return _DIR
    if x["life"] != _VALID:
        return _ACQ if x["life"] == _LARVAL else _INVALID
    if x["encap"] != encap:
        return _ENCAP
    return _UNSUPPORTED_MODE if x["transform"] == TRANSFORM_UNSUPPORTED else _PENDING


@compiled(numba.boolean(ROWS, int64, int64, int64))
def _must_wait(rows: Any, row: int, seq: int, run: int) -> bool:
    """True when an earlier packet of this run could change what becomes of this one."""
    x = rows[row]
    if x["run"] != run:
        x["run"] = run
        x["run_packets"] = 0
        x["run_bytes"] = 0
        x["run_top"] = x["seq"]
        x["run_top_hi"] = x["seq_hi"]
        return False
    if near_hard(rows, row):
        return True
    if x["replay"] != REPLAY_ESN:
        return False
    window = int64(x["window"])
    now = infer_high(seq, x["seq"], x["seq_hi"], window)
    return now != infer_high(seq, x["run_top"], x["run_top_hi"], window)


@compiled(numba.boolean(ROWS, int64))
def _crosses(rows: Any, row: int) -> bool:
    """True when this run takes an ESN window over 2^32: it may take then what it refuses now.

    Bits belong to numbers one below, modulo the window's width, so that it crosses between 0 and 1.
    """
    x = rows[row]
    now = x["seq_hi"] - (1 if x["seq"] == 0 else 0)
    later = x["run_top_hi"] - (1 if x["run_top"] == 0 else 0)
    return bool(now != later)


@compiled(numba.void(ROWS, PACKETS, int64, int64))
def _account(rows: Any, packets: Any, i: int, row: int) -> None:
    """Let the rest of the run see what this packet may do."""
    x, p = rows[row], packets[i]
    x["run_packets"] += 1
    x["run_bytes"] += ipcomp.INFLATED_MAX if x["transform"] == TRANSFORM_COMP else p["length"]
    later = p["seq_hi"] > x["run_top_hi"] or (p["seq_hi"] == x["run_top_hi"] and p["seq"] > x["run_top"])
    if x["replay"] == REPLAY_ESN and later:
        x["run_top"] = p["seq"]
        x["run_top_hi"] = p["seq_hi"]


@compiled(int64(ROWS, I32, I32, I64S, int64, DATA, PACKETS, int64))
def lookup(
    rows: Any, heads: Int32s, links: Int32s, hashes: Int64s, seed: int, data: Bytes, packets: Any, i: int
) -> int:
    """Find the state of packet i by its outer destination and SPI, or -1."""
    p = packets[i]
    proto = p["proto"]
    if proto in (_IPIP, _IPV6):
        # The companion's protocol is that of its own family, whatever is inside.
        proto = _IPIP if p["family"] == 2 else _IPV6
    if p["family"] == 2:
        a0, a1, a2, a3 = read32(data, p["offset"] + 16), 0, 0, 0
    else:
        at = p["offset"] + 24
        a0, a1 = read32(data, at), read32(data, at + 4)
        a2, a3 = read32(data, at + 8), read32(data, at + 12)
    return int(
        find_by_spi(rows, heads, links, hashes, seed, a0, a1, a2, a3, p["spi"], proto, p["family"], p["mark"])
    )


@compiled(int64(ROWS, DATA, PACKETS, int64, int64, JOBS, int64))
def open_(rows: Any, data: Bytes, packets: Any, i: int, row: int, jobs: Int64s, number: int) -> int:
    """Describe what state `row` is to open of packet i as job `number`; return 0, or the outcome."""
    transform = rows[row]["transform"]
    if transform == TRANSFORM_ESP:
        return int(esp.open_(rows, packets, i, row, jobs, number))
    if transform == TRANSFORM_AH:
        return int(ah.open_(rows, data, packets, i, row, jobs, number))
    return int(ipcomp.open_(rows, packets, i, row, jobs, number))


@compiled(int64(ROWS, DATA, PACKETS, int64, int64, JOBS, I64S))
def payload(rows: Any, data: Bytes, packets: Any, i: int, row: int, jobs: Int64s, found: Int64s) -> int:
    """Find what packet i's job has opened: found = (offset, length, next header); return 0 or the outcome."""
    transform = rows[row]["transform"]
    if transform == TRANSFORM_AH:
        return int(ah.payload(rows, data, packets, i, jobs, found))
    if transform != TRANSFORM_ESP:
        return int(ipcomp.payload(rows, data, packets, i, row, jobs, found))
    result = jobs[packets[i]["job"], esp.RESULT]
    if result != 1:
        return _ICV if result == 0 else _ESP_LENGTH
    return int(esp.payload(data, jobs, packets[i]["job"], found))


@compiled(
    numba.types.UniTuple(int64, 2)(
        ROWS, I32, I32, I64S, int64, I64S, DATA, PACKETS, I64S, int64, int64, JOBS, int64
    )
)
def begin(
    rows: Any,
    heads: Int32s,
    links: Int32s,
    hashes: Int64s,
    seed: int,
    words: Int64s,
    data: Bytes,
    packets: Any,
    active: Int64s,
    start: int,
    count: int,
    jobs: Int64s,
    run: int,
) -> tuple[int, int]:
    """Look up states and describe ciphertexts for active[start:count]; return (where it stopped, jobs).

    1. SPI and sequence number  2. state  3. depth, direction, life, encapsulation  4. wait, if need be
    5. path and mark  6. replay pre-check  7. lengths
    A packet that is refused here has its outcome; the replay check is only a hint, `commit` decides.
    """
    made = 0
    for k in range(start, count):
        i = active[k]
        p = packets[i]
        p["job"] = -1
        if not read_header(data, packets, i):
            p["outcome"] = _SHORT
            continue
        if p["depth"] >= MAX_DEPTH:
            p["outcome"] = _DEPTH
            continue
        row = lookup(rows, heads, links, hashes, seed, data, packets, i)
        if row < 0:
            p["outcome"] = _NO_STATE
            continue
        x = rows[row]
        p["outcome"] = _usable(rows, row, p["encap"])
        if not p["outcome"]:
            if _must_wait(rows, row, p["seq"], run):
                return k, made
            if _crosses(rows, row) and check(rows, words, row, p["seq"]):
                return k, made
        p["path"][p["depth"]] = row
        p["pathgen"][p["depth"]] = x["genid"]
        p["depth"] += 1
        p["seq_hi"] = seq_high(rows, row, p["seq"])
        p["mark"] = (p["mark"] & ~x["set_m"]) | x["set_v"]
        if p["outcome"]:
            continue
        _account(rows, packets, i, row)
        if check(rows, words, row, p["seq"]) == 0 and open_(rows, data, packets, i, row, jobs, made) == 0:
            p["job"] = made
            made += 1
    return count, made


@compiled(int64(ROWS, DATA, PACKETS, int64, int64, JOBS))
def _refusal(rows: Any, data: Bytes, packets: Any, i: int, row: int, jobs: Int64s) -> int:
    """Why `begin` made no job of packet i: its lengths, unless its number is not new after all."""
    outcome = open_(rows, data, packets, i, row, jobs, jobs.shape[0] - 1)
    if outcome == _ICV:
        rows[row]["stat_failed"] += 1
    return outcome if outcome else _OLD


@compiled(int64(ROWS, I64S, DATA, PACKETS, int64, int64, JOBS, I64S))
def _judge(
    rows: Any, words: Int64s, data: Bytes, packets: Any, i: int, row: int, jobs: Int64s, found: Int64s
) -> int:
    """Everything between lookup and mode for packet i, in the kernel's order.

    found[3] becomes a notice of limits, found[4], if set, one of aevents, found[5], if set, of a mapping.

    1. replay  2. limits  3. ICV and trailer  4. mapping  5. replay again, with the ESN half  6. advance
    7. counters
    """
    p, x = packets[i], rows[row]
    seq = p["seq"]
    p["top"], p["window"] = x["seq"], int64(x["window"])
    outcome = check(rows, words, row, seq)
    if outcome:
        blame(rows, row, outcome)
        return outcome
    found[3] = check_limits(rows, row, p["time"])
    if found[3] == NOTICE_HARD:
        return _EXPIRED
    if p["job"] < 0:
        return _refusal(rows, data, packets, i, row, jobs)
    outcome = payload(rows, data, packets, i, row, jobs, found)
    if outcome:
        if outcome in (_ICV, _INSIDE):
            x["stat_failed"] += 1
        return outcome
    if p["encap"]:
        mapped = udp.note_mapping(rows, data, packets, i, row)
        found[5] = mapped if found[5] else NOTICE_NONE
    if seq_high(rows, row, seq) != p["seq_hi"]:
        x["stat_window"] += 1
        return _HIGH
    advance(rows, words, row, seq)
    if found[4] and x["window"]:
        found[4] = check_aevent(rows, row)
    x["bytes"] += found[1]
    x["packets"] += 1
    x["lastused"] = p["time"]
    return 0


@compiled(int64(JOBS, int64, int64, I64S))
def _note(notices: Int64s, noted: int, row: int, found: Int64s) -> int:
    """Append the notices of one packet; return how many there are now."""
    if found[5] == NOTICE_MAPPING:
        notices[noted, 0], notices[noted, 1] = row, NOTICE_MAPPING
        noted += 1
    if found[3]:
        notices[noted, 0], notices[noted, 1] = row, found[3]
        noted += 1
    if found[4] == NOTICE_AEVENT:
        notices[noted, 0], notices[noted, 1] = row, NOTICE_AEVENT
        noted += 1
    return noted


@compiled(
    numba.types.UniTuple(int64, 3)(
        ROWS, I64S, DATA, PACKETS, I64S, int64, int64, JOBS, I64S, int64, JOBS, int64, I64S
    )
)
def commit(
    rows: Any,
    words: Int64s,
    data: Bytes,
    packets: Any,
    active: Int64s,
    start: int,
    stop: int,
    jobs: Int64s,
    again: Int64s,
    agains: int,
    notices: Int64s,
    monitored: int,
    found: Int64s,
) -> tuple[int, int, int]:
    """Judge active[start:stop] in order and undo the mode of those that pass.

    Packets that carry IPsec again are appended to `again`; `notices` gets rows to attend to. It stops behind
    a packet at a state's limit and, where aevents (1) or mappings (2) are `monitored`, behind one that causes
    one. Returns (where it stopped, agains, number of notices). `found` is scratch, but for the count of
    fragments.
    """
    noted = 0
    for k in range(start, stop):
        i = active[k]
        p = packets[i]
        if p["outcome"]:
            continue
        row = p["path"][p["depth"] - 1]
        if not 0 < rows[row]["serial"] <= p["pathgen"][p["depth"] - 1]:
            # A companion that went with the last IPComp state, which a packet before this one ended.
            p["outcome"] = _NO_STATE
            continue
        found[3], found[4], found[5] = NOTICE_NONE, monitored & 1, monitored & 2
        p["outcome"] = _judge(rows, words, data, packets, i, row, jobs, found)
        waits = found[3] not in (NOTICE_NONE, NOTICE_USED)
        waits = waits or found[4] == NOTICE_AEVENT or found[5] == NOTICE_MAPPING
        noted = _note(notices, noted, row, found)
        if not p["outcome"]:
            p["outcome"] = remove(rows, data, packets, i, row, found)
            p["encap"] = 0
            if not p["outcome"] and p["fragment"]:
                found[FRAGMENTS] += 1
            elif not p["outcome"] and p["proto"] in (_ESP, _AH, _COMP):
                again[agains] = i
                agains += 1
        if waits:
            return k + 1, agains, noted
    return stop, agains, noted
