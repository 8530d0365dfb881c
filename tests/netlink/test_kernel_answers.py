"""What the machine's own kernel answers, uxfrm answers: to the same requests, byte for byte.

This kernel has no ESP, AH or IPComp, so states are larval ones; the policies are real. Port ids and
wall-clock seconds aside, replies, acknowledgements, extended acks and events are compared whole.
"""

from __future__ import annotations

import random
import struct

import pytest

from netlink.compare import attribute as attr
from netlink.compare import comparable, request
from netlink.kernel import Kernel, Uxfrm

ADDRESS_A, ADDRESS_B = bytes([10, 0, 0, 1]) + bytes(12), bytes([10, 0, 0, 2]) + bytes(12)
DUMP = 0x301


def selector(family: int = 2, dport: int = 0, proto: int = 0, bits: int = 32) -> bytes:
    mask = 0xFFFF if dport else 0
    return struct.pack(">16s16sHHHH", ADDRESS_A, ADDRESS_B, dport, mask, 0, 0) + struct.pack(
        "=HBBB3xiI", family, bits, bits, proto, 0, 0
    )


def limits(seconds: int = 0) -> bytes:
    return struct.pack("=8Q", *[2**64 - 1] * 4, 0, seconds, 0, 0)


def policy(
    sel: bytes | None = None,
    index: int = 0,
    direction: int = 1,
    action: int = 0,
    share: int = 0,
    priority: int = 0,
) -> bytes:
    head = (sel or selector()) + limits() + bytes(32)
    return head + struct.pack("=IIBBBB4x", priority, index, direction, action, 0, share)


def policy_id(sel: bytes | None = None, index: int = 0, direction: int = 1) -> bytes:
    return (sel or selector()) + struct.pack("=IB3x", index, direction)


def template(proto: int = 50, mode: int = 1, family: int = 2, reqid: int = 1, optional: int = 0) -> bytes:
    head = struct.pack("=16s4sB3xH2x16sI", ADDRESS_A, b"\0\0\x10\1", proto, family, ADDRESS_B, reqid)
    return head + struct.pack("=BBB1xIII", mode, 0, optional, *[2**32 - 1] * 3)


def state(
    proto: int = 50, spi: bytes = b"\0\0\x10\1", family: int = 2, mode: int = 0, flags: int = 0
) -> bytes:
    head = bytes(56) + struct.pack("=16s4sB3x16s", ADDRESS_A, spi, proto, ADDRESS_B) + limits() + bytes(44)
    return head + struct.pack("=IIHBBB7x", 0, 1, family, mode, 0, flags)


def spi_range(low: int, high: int, **fields: int) -> bytes:
    body = bytearray(state(spi=bytes(4), **{k: v for k, v in fields.items() if k != "seq"}))
    struct.pack_into("=I", body, 204, fields.get("seq", 0))
    return bytes(body) + struct.pack("=II", low, high)


def usersa_id(spi: bytes = b"\0\0\x10\1", proto: int = 50, family: int = 2) -> bytes:
    return struct.pack("=16s4sHBx", ADDRESS_A, spi, family, proto)


def algorithm(name: str, key: bytes, *extra: int, bits: int | None = None) -> bytes:
    head = struct.pack("=64sI", name.encode(), len(key) * 8 if bits is None else bits)
    return head + struct.pack(f"={len(extra)}I", *extra) + key


IF_ID = attr(31, struct.pack("=I", 7))
AUTH = attr(1, algorithm("hmac(sha1)", bytes(20)))
AEAD = attr(18, algorithm("rfc4106(gcm(aes))", bytes(20), 128))


def acquire(body: bytes | None = None, sel: bytes | None = None, masks: int = 5) -> bytes:
    head = struct.pack("=16s4sB3x16s", ADDRESS_A, b"\0\0\x10\1", 50, ADDRESS_B) + (sel or selector())
    return head + (body or policy()) + struct.pack("=4I", masks, masks + 1, masks + 2, 99)


def aevent(spi: bytes = b"\0\0\x10\1", proto: int = 50, flags: int = 0) -> bytes:
    return usersa_id(spi, proto) + struct.pack("=16sII", ADDRESS_B, flags, 9)


ADDRESS_C, ADDRESS_D = bytes([10, 0, 0, 3]) + bytes(12), bytes([10, 0, 0, 4]) + bytes(12)


def migrate(
    old: tuple[bytes, bytes] = (ADDRESS_A, ADDRESS_B),
    new: tuple[bytes, bytes] = (ADDRESS_C, ADDRESS_D),
    proto: int = 50,
    mode: int = 1,
    reqid: int = 1,
    families: tuple[int, int] = (2, 2),
) -> bytes:
    return b"".join((*old, *new)) + struct.pack("=BBHIHH", proto, mode, 0, reqid, *families)


ADDRESS_6 = b"\xfd" + bytes(14) + b"\1"
SUB = attr(16, b"\1" + bytes(5))
KMADDRESS = attr(19, ADDRESS_C + ADDRESS_D + struct.pack("=IH2x", 0, 2))
ENCAP = attr(4, struct.pack("=H2s2s2x16s", 2, b"\x11\x94", b"\x11\x94", bytes(16)))

IN, OUT = attr(33, b"\1"), attr(33, b"\2")
# What 6.18 takes, to find then that it has no AEAD.
TAKEN = {(36, IN), (37, IN), (38, OUT), (39, OUT), (40, OUT), (41, OUT)}

SEQUENCES: dict[str, list[bytes]] = {
    "types": [request(kind, bytes(300)) for kind in (0x22, 0x20, 0x26, 0x29, 0x2A, 0xFF)]
    + [request(kind, b"") for kind in range(0x10, 0x2A)]
    + [request(5, b""), request(0x13, policy(), flags=4), request(0x13, b"", flags=0)],
    "attribute lengths": [
        request(0x10, state() + attr(number, bytes(size)))
        for number in range(46)
        for size in (0, 1, 3, 5)
    ],
    "strict attributes": [
        request(0x10, state() + attr(number, data))
        for number in (33, 35, 37, 38, 0x8000 | 33, 0x4000 | 33, 0x8000 | 11, 0x8000 | 35)
        for data in (b"\1", b"\2", b"\3", b"\0", b"\5\0\0\0", b"")
    ],
    "where SA_DIR may be": [
        request(kind, bytes(280) + attr(number, data))
        for kind in range(0x10, 0x29)
        for number, data in ((33, b"\1"), (35, bytes(4)))
        if kind not in (0x1C, 0x1D, 0x24)
    ],
    "leftovers": [request(0x12, attr(1, b""), DUMP), request(0x12, usersa_id() + b"\1\2\3"),
                  request(0x28, bytes(4) + b"\1"),
                  request(0x13, policy() + attr(99, b"abc") + b"\0\0"), request(0x12, bytes(24), DUMP)],
    "policies": [
        request(0x13, policy()), request(0x13, policy()), request(0x19, policy(priority=5)),
        request(0x13, policy(direction=0)), request(0x13, policy(direction=2), pid=55),
        request(0x13, policy(sel=selector(dport=80, proto=6)) + attr(5, template() + template(51, 0))),
        request(0x13, policy(sel=selector(dport=81, proto=6)) + attr(21, struct.pack("=II", 0xFF, 0xF))),
        request(0x13, policy(sel=selector(dport=82, proto=6)) + IF_ID),
        request(0x13, policy(sel=selector(dport=83, proto=6)) + attr(16, b"\1" + bytes(5))),
        request(0x15, b"", DUMP), request(0x15, policy_id()), request(0x15, policy_id(index=8)),
        request(0x15, policy_id(index=9)), request(0x15, policy_id(index=9, direction=0)),
        request(0x14, policy_id(direction=2)), request(0x14, policy_id(index=9)), request(0x25, bytes(4)),
        request(0x1B, policy() + struct.pack("=B7x", 0)),
        request(0x1B, policy(direction=0) + b"\1" + bytes(7)),
        request(0x1D, b""), request(0x1D, b""), request(0x1D, attr(16, b"\1" + bytes(5))),
        request(0x1D, attr(16, b"\7" + bytes(5))), request(0x1D, attr(16, b"\xff" + bytes(5))),
        request(0x15, b"", DUMP),
    ],
    "bad policies": [
        request(0x13, body)
        for body in (
            policy(share=4), policy(action=2), policy(sel=selector(family=0)), policy(sel=selector(bits=33)),
            policy(direction=3), policy(index=9), policy(direction=7), policy() + attr(16, b"\2" + bytes(5)),
            policy() + attr(5, template() * 7), policy() + attr(5, template(proto=17)),
            policy() + attr(5, template(mode=6)), policy() + attr(5, template(optional=1)),
            policy() + attr(5, template(family=10, mode=0)), policy() + attr(5, template(family=3)),
            policy() + attr(5, template()[:-1]), policy() + attr(5, template() + b"\0"),
            policy() + attr(8, struct.pack("=HHBBH", 8, 0, 1, 1, 4)),
            policy(sel=selector(family=10, bits=129)),
        )
    ],
    "larval states": [
        request(0x16, spi_range(0x1001, 0x1001)), request(0x16, spi_range(0x1001, 0x1001)),
        request(0x16, spi_range(0x1002, 0x1001)), request(0x16, spi_range(0x1002, 0x1002, seq=5)),
        request(0x16, spi_range(0, 0)), request(0x16, spi_range(256, 0x10000, proto=108)),
        request(0x16, spi_range(1, 2, proto=17)), request(0x16, spi_range(1, 1, family=3)),
        request(0x16, spi_range(0x1003, 0x1003) + attr(33, b"\1")),
        request(0x16, spi_range(0x1004, 0x1004) + attr(33, b"\1") + attr(35, bytes(4))),
        request(0x16, spi_range(0x1005, 0x1005) + IF_ID + attr(21, struct.pack("=II", 9, 9))),
        request(0x12, usersa_id()), request(0x12, usersa_id(proto=17)), request(0x12, b"", DUMP),
        request(0x12, attr(25, b"\x33"), DUMP), request(0x12, attr(25, b"\xff"), DUMP),
        request(0x12, attr(26, ADDRESS_B + ADDRESS_A + struct.pack("=HBB", 2, 32, 32)), DUMP),
        request(0x12, attr(26, ADDRESS_A + ADDRESS_A + struct.pack("=HBB", 2, 32, 32)), DUMP),
        request(0x12, attr(26, ADDRESS_A + ADDRESS_A + struct.pack("=HBB", 2, 129, 32)), DUMP),
        request(0x23, bytes(4)), request(0x18, state() + b"\1" + bytes(7)),
        request(0x18, state(spi=b"1234") + bytes(8)),
        request(0x11, usersa_id(), pid=9), request(0x11, usersa_id()),
        request(0x1C, b"\x32"), request(0x1C, b"\0"),
    ],
    "acquires": [
        request(0x17, acquire()), request(0x17, acquire() + attr(5, template() + template(51, 0))),
        request(0x17, acquire() + attr(5, template()) + IF_ID + attr(21, struct.pack("=II", 9, 15))),
        request(0x17, acquire() + attr(5, template(108, 0) * 3) + attr(35, bytes(4)), pid=5),
        request(0x17, acquire() + attr(5, template()) + attr(35, b"\xff\xff\xff\xff")),
        request(0x17, acquire() + attr(5, template(proto=17))),
        request(0x17, acquire() + attr(5, template() * 7)),
        request(0x17, acquire(policy(direction=2, index=10)) + attr(5, template()) + SUB),
        request(0x17, acquire(policy(direction=3)) + attr(5, template())),
        request(0x17, acquire(policy(selector(10, bits=64)), selector(10)) + attr(5, template())),
        request(0x17, acquire() + attr(5, template()) + attr(8, struct.pack("=HHBBH", 8, 0, 1, 1, 4))),
        request(0x17, acquire() + attr(5, template()) + attr(16, b"\7" + bytes(5))),
        request(0x12, b"", DUMP),
    ],
    "aevents": [
        request(0x16, spi_range(0x1001, 0x1001)),
        *(request(0x1F, aevent(flags=flags)) for flags in (0, 1, 8, 15, 0xFFFFFFFF)),
        request(0x1F, aevent(), pid=77), request(0x1F, aevent(spi=b"1234")), request(0x1F, aevent(proto=4)),
        request(0x16, spi_range(0x1002, 0x1002) + IF_ID + attr(33, b"\1") + attr(35, bytes(4))),
        request(0x1F, aevent(b"\0\0\x10\2", flags=2)),
        *(
            request(0x1E, aevent(spi) + extra, flags)
            for spi in (b"\0\0\x10\1", b"\0\0\x10\7")
            for extra in (
                b"", attr(9, bytes(32)), attr(32, bytes(4)), attr(10, bytes(12)), attr(11, bytes(4)),
                attr(23, struct.pack("=7I", 4, 0, 0, 0, 0, 1, 0)),
            )
            for flags in (5, 0x105)
        ),
    ],
    "migrations": [
        request(0x13, policy(direction=1) + attr(5, template())),
        request(0x13, policy(direction=0) + attr(5, template(51, 0, reqid=3) + template())),
        request(0x13, policy(direction=2)),
        request(0x21, policy_id() + attr(17, migrate())), request(0x15, b"", DUMP),
        request(0x21, policy_id() + attr(17, migrate())),
        request(0x21, policy_id() + attr(17, migrate((ADDRESS_C, ADDRESS_D), (ADDRESS_A, ADDRESS_B)))
                + KMADDRESS + ENCAP, pid=7),
        request(0x21, policy_id(direction=0)
                + attr(17, migrate(reqid=0) + migrate(proto=51, mode=0, reqid=3))),
        request(0x21, policy_id(direction=2) + attr(17, migrate())), request(0x15, b"", DUMP),
        request(0x21, policy_id()), request(0x21, policy_id() + attr(17, migrate()[:-1])),
        request(0x21, policy_id() + attr(17, migrate() * 2)),
        request(0x21, policy_id() + attr(17, migrate() * 7)),
        request(0x21, policy_id() + attr(17, migrate(new=(bytes(16), ADDRESS_B)))),
        request(0x21, policy_id() + attr(17, migrate(new=(bytes(16), ADDRESS_B), families=(2, 3)))),
        request(0x21, policy_id(direction=3) + attr(17, migrate())),
        request(0x21, policy_id(selector(dport=5)) + attr(17, migrate())),
        request(0x21, policy_id(selector(family=10)) + attr(17, migrate())),
        request(0x21, policy_id(selector(family=7)) + attr(17, migrate())),
        request(0x21, policy_id() + attr(17, migrate()) + attr(16, b"\1" + bytes(5))),
        request(0x21, policy_id() + attr(17, migrate()) + attr(16, b"\7" + bytes(5))),
        request(0x21, policy_id() + attr(17, migrate()) + IF_ID),
        request(0x16, spi_range(0x1001, 0x1001, mode=1)),
        request(0x21, policy_id() + attr(17, migrate())), request(0x12, b"", DUMP),
        request(0x21, policy_id() + attr(17, migrate(families=(2, 10), new=(ADDRESS_6, ADDRESS_6)))),
        request(0x15, b"", DUMP),
    ],
    "states this kernel lacks": [
        request(kind, body)
        for kind in (0x10, 0x1A)
        for body in (
            state(family=7) + AUTH, state(mode=3) + AUTH, state(mode=5) + AUTH,
            state(proto=51) + AEAD, state(proto=108) + AUTH, state(proto=17) + AUTH,
            state() + AUTH + AEAD, state() + attr(3, algorithm("deflate", b"")), state(),
            state() + attr(1, algorithm("hmac(sha1)", bytes(20), bits=1000)),
            state() + attr(18, algorithm("rfc4106(gcm(aes))", bytes(20), 128, bits=4000)),
            state() + attr(20, algorithm("hmac(sha1)", bytes(20), 96, bits=4000)),
            state(flags=128) + AUTH, state() + AUTH + attr(35, bytes(4)), state() + AUTH + attr(32, bytes(4)),
            state() + AUTH + attr(23, struct.pack("=6I", 129, 0, 0, 0, 0, 1)),
            state() + AUTH + attr(23, struct.pack("=7I", 4, 0, 0, 0, 0, 1, 0)),
            state(flags=2) + AUTH + attr(33, b"\2"), state(flags=4) + AUTH + attr(33, b"\1"),
            state() + AUTH + attr(8, struct.pack("=HHBBH", 8, 0, 1, 1, 4)),
            state() + AUTH + attr(2, algorithm("cbc(aes)", bytes(16))) + OUT + attr(35, b"\xff\xff\0\0"),
        )
    ],
    "options of IP-TFS": [
        request(0x10, state(mode=mode) + AEAD + direction + attr(number, bytes(size)))
        for number, size in ((36, 4), (37, 2), (38, 0), (39, 4), (40, 4), (41, 4), (37, 4), (38, 1))
        for mode, direction in ((0, b""), (1, b""), (5, b""), (5, IN), (5, OUT))
        if (number, direction) not in TAKEN
    ],
    "defaults and thresholds": [
        request(0x27, b"\1\2\1"), request(0x28, bytes(4)), request(0x27, b"\0\7\2\0"),
        request(0x28, bytes(3)),
        request(0x27, b"\2\2"), request(0x24, bytes(4) + attr(3, b"\x10\x20")), request(0x25, b"abcd"),
        request(0x24, bytes(4) + attr(3, b"\x21\x20")), request(0x24, bytes(4) + attr(4, b"\x10\x81")),
        request(0x24, bytes(4) + attr(4, b"\x10")), request(0x25, bytes(4)), request(0x24, bytes(4)),
    ],
    "several in one datagram": [
        request(0x13, policy(sel=selector(dport=n))) + request(0x15, policy_id(sel=selector(dport=n)))
        for n in (1, 2, 3)
    ]
    + [request(0x13, policy(sel=selector(dport=9)))[:-8] + b"12345678" + b"\x04\0\0\0", request(0x1D, b"")],
}  # fmt: skip


@pytest.mark.linux
@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("capped", [False, True])
def test_uxfrm_answers_as_the_kernel(name: str, capped: bool) -> None:
    with Kernel() as kernel:
        ours = Uxfrm(kernel.port, random.Random(1).randbytes)
        if capped:
            kernel.cap_ack()
            ours.cap_ack()
        for number, datagram in enumerate(SEQUENCES[name]):
            theirs = comparable(kernel.request(datagram), kernel.port)
            assert comparable(ours.request(datagram), kernel.port) == theirs, (number, datagram[:32].hex())
