"""Real states over netlink: Linux 6.1 and uxfrm answer the same requests, byte for byte.

The machine's own kernel has no ESP; see tests/netlink for all that needs none. Times and the numbers of
acquires aside, replies, acknowledgements, extended acks and events are compared whole.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys

import pytest

import netlink.kernel
from linux.guest import LinuxGuest
from netlink.compare import attribute as attr
from netlink.compare import comparable, request
from netlink.kernel import Answer, Uxfrm
from netlink.test_kernel_answers import (
    ADDRESS_A,
    ADDRESS_B,
    ADDRESS_C,
    ADDRESS_D,
    AEAD,
    DUMP,
    ENCAP,
    KMADDRESS,
    SUB,
    aevent,
    algorithm,
    migrate,
    policy,
    policy_id,
    spi_range,
    state,
    template,
    usersa_id,
)
from uxfrm.netlink.wire import NLM_F_ACK_TLVS, NLMSG_ERROR, messages

pytestmark = pytest.mark.linux

AUTH = attr(20, algorithm("hmac(sha256)", bytes(range(32)), 128))
CBC = attr(2, algorithm("cbc(aes)", bytes(range(16))))
REPLACE = 0x105
NEWSA, DELSA, GETSA, NEWPOLICY, ALLOCSPI, EXPIRE, UPDSA = 0x10, 0x11, 0x12, 0x13, 0x16, 0x18, 0x1A
NEWAE, GETAE, MIGRATE, FLUSHSA = 0x1E, 0x1F, 0x21, 0x1C
EVERY = 15
CB = (ADDRESS_C, ADDRESS_B)


def spi(number: int) -> bytes:
    return struct.pack(">I", number)


def esn(words: int, window: int, *counters: int, bitmap: bytes = b"") -> bytes:
    oseq, seq, oseq_hi, seq_hi = counters + (0,) * (4 - len(counters))
    return attr(23, struct.pack("=6I", words, oseq, seq, oseq_hi, seq_hi, window) + bitmap)


def legacy(oseq: int, seq: int, bitmap: int) -> bytes:
    return attr(10, struct.pack("=3I", oseq, seq, bitmap))


def life(count: int, packets: int) -> bytes:
    """Bytes, packets; times stay 0, or a state with limits would end."""
    return attr(9, struct.pack("=4Q", count, packets, 0, 0))


def u32(number: int, value: int) -> bytes:
    return attr(number, struct.pack("=I", value))


ALGORITHMS = [
    AEAD, AUTH + CBC, attr(1, algorithm("sha1", bytes(20))) + attr(2, algorithm("aes", bytes(24))),
    attr(18, algorithm("rfc4309(ccm(aes))", bytes(19), 96)),
    attr(18, algorithm("rfc7539esp(chacha20,poly1305)", bytes(36), 128)),
    attr(18, algorithm("rfc4543(gcm(aes))", bytes(20), 128)),
    attr(1, algorithm("digest_null", b"")) + attr(2, algorithm("cipher_null", b"")),
    attr(20, algorithm("hmac(md5)", b"", 0)) + attr(2, algorithm("rfc3686(ctr(aes))", bytes(20))),
    attr(18, algorithm("rfc4106(gcm(aes))", bytes(21), 128)),
    attr(18, algorithm("rfc4106(gcm(aes))", bytes(20), 120)),
    attr(20, algorithm("hmac(sha1)", bytes(20), 168)) + CBC, attr(2, algorithm("cbc(aes)", bytes(15))),
    AUTH, attr(2, algorithm("cbc(nosuch)", b"")),
]  # fmt: skip

SEQUENCES: dict[str, list[bytes]] = {
    "algorithms": [
        datagram
        for number, found in enumerate(ALGORITHMS, 1)
        for datagram in (
            request(NEWSA, state(spi=spi(number), mode=1) + found), request(GETSA, usersa_id(spi(number))),
        )
    ] + [request(NEWSA, state(51, mode=0) + AUTH), request(NEWSA, state(51) + AUTH + CBC),
         request(NEWSA, state(108, spi(2000)) + attr(3, algorithm("deflate", b""))),
         request(NEWSA, state(108, spi(2000), mode=1) + attr(3, algorithm("nosuch", b""))),
         request(GETSA, b"", DUMP), request(FLUSHSA, b"\x33"), request(FLUSHSA, b"\0")],
    "states": [
        request(NEWSA, state(mode=1) + AEAD), request(NEWSA, state(mode=1) + AEAD),
        request(UPDSA, state(mode=1) + AEAD + u32(31, 7)), request(UPDSA, state(spi=spi(9)) + AEAD),
        request(UPDSA, state(mode=1) + AEAD + ENCAP), request(UPDSA, state(mode=1) + AEAD + u32(29, 5)),
        request(NEWSA, state(spi=bytes(4), mode=1) + AEAD),
        request(NEWSA, state(spi=bytes(4), mode=1) + AEAD),
        request(NEWSA, state(spi=spi(2)) + AEAD + attr(21, struct.pack("=II", 0xFF, 0xF)) + u32(22, 9)),
        request(NEWSA, state(spi=spi(2), mode=1) + AEAD + attr(21, struct.pack("=II", 5, 0xF)) + u32(22, 9)),
        request(GETSA, usersa_id(spi(2))),
        request(GETSA, usersa_id(spi(2)) + attr(21, struct.pack("=II", 5, 15))),
        request(NEWSA, state(spi=spi(3), flags=255) + AEAD + esn(4, 128) + u32(24, 3) + ENCAP),
        request(UPDSA, state(spi=spi(3), flags=0) + AEAD + ENCAP),
        request(NEWSA, state(spi=spi(4), flags=128) + AEAD + esn(1, 33)),
        request(NEWSA, state(spi=spi(4), flags=128) + AEAD + esn(1, 0)),
        request(NEWSA, state(spi=spi(4)) + AEAD + esn(2, 40, 7, 6, bitmap=bytes(range(8)))),
        request(NEWSA, state(spi=spi(5)) + AEAD + legacy(4, 5, 6) + life(7, 8) + u32(11, 3) + u32(12, 4)),
        request(ALLOCSPI, spi_range(0x100, 0x100, mode=1)),
        request(UPDSA, state(spi=spi(0x100), mode=1) + AEAD),
        request(ALLOCSPI, spi_range(0x101, 0x101, mode=1)),
        request(NEWSA, state(spi=spi(0x101), mode=1) + AEAD),
        request(ALLOCSPI, spi_range(0x102, 0x102, mode=1)),
        request(UPDSA, state(spi=spi(0x101), mode=1) + AEAD),
        request(GETSA, b"", DUMP), request(0x23, bytes(4)), request(EXPIRE, state(spi=spi(5)) + bytes(8)),
        request(EXPIRE, state() + bytes(8)),
        request(EXPIRE, state(spi=spi(2)) + bytes(8) + attr(21, struct.pack("=II", 5, 15))),
        request(EXPIRE, state(spi=spi(5)) + b"\1" + bytes(7), pid=4), request(DELSA, usersa_id(spi(3))),
        request(DELSA, usersa_id(spi(3))), request(FLUSHSA, b"\0"), request(GETSA, b"", DUMP),
    ],
    "aevents": [
        request(NEWSA, state(mode=1) + AEAD), request(GETAE, aevent(flags=EVERY)),
        request(GETAE, aevent(), pid=9),
        request(NEWAE, aevent() + legacy(10, 20, 0xF0F)),
        request(NEWAE, aevent() + legacy(10, 20, 15), REPLACE),
        request(NEWAE, aevent() + life(100, 3) + u32(11, 50), REPLACE), request(GETAE, aevent(flags=EVERY)),
        request(NEWAE, aevent() + esn(1, 32, 1, 2), REPLACE), request(GETSA, usersa_id()),
        request(NEWSA, state(spi=spi(2), flags=128) + AEAD + esn(4, 128)),
        request(GETAE, aevent(spi(2), flags=1)),
        request(NEWAE, aevent(spi(2)) + legacy(1, 2, 3), REPLACE),
        request(NEWAE, aevent(spi(2)) + esn(4, 128, 9, 8, 1, 2, bitmap=bytes(range(16))), REPLACE),
        request(NEWAE, aevent(spi(2)) + esn(4, 64, 9, 8, 1, 2), REPLACE),
        request(NEWAE, aevent(spi(2)) + esn(2, 64, bitmap=bytes(8)), REPLACE),
        request(NEWAE, aevent(spi(2)) + esn(4, 129, bitmap=bytes(16)), REPLACE),
        request(NEWAE, aevent(spi(2)) + esn(4, 0, 3, 2, 1, 0, bitmap=b"\xff" * 16), REPLACE),
        request(GETAE, aevent(spi(2))), request(GETSA, usersa_id(spi(2))), request(FLUSHSA, b"\0"),
    ],
    "migrations": [
        request(NEWPOLICY, policy(direction=1) + attr(5, template())),
        request(NEWSA, state(mode=1) + AEAD + legacy(5, 6, 7) + life(8, 9)),
        request(MIGRATE, policy_id() + attr(17, migrate()) + KMADDRESS), request(GETSA, b"", DUMP),
        request(0x15, b"", DUMP),
        request(MIGRATE, policy_id() + attr(17, migrate((ADDRESS_C, ADDRESS_D), CB)) + ENCAP),
        request(GETSA, b"", DUMP),
        request(NEWSA, state(mode=1) + AEAD), # in the way
        request(MIGRATE, policy_id() + attr(17, migrate(CB, (ADDRESS_A, ADDRESS_B)))),
        request(GETSA, b"", DUMP), request(0x15, b"", DUMP), request(DELSA, usersa_id()),
        request(MIGRATE, policy_id() + attr(17, migrate(CB, (ADDRESS_A, ADDRESS_B), reqid=0))),
        request(GETSA, b"", DUMP),
        request(ALLOCSPI, spi_range(0x200, 0x200, mode=1)),
        request(MIGRATE, policy_id() + attr(17, migrate())), request(GETSA, b"", DUMP),
        request(FLUSHSA, b"\0"),
        request(NEWSA, state(spi=spi(3), flags=128) + AEAD + esn(2, 64, 9, 8, 7, 6, bitmap=bytes(range(8)))),
        request(NEWPOLICY, policy(direction=0) + attr(5, template(mode=0)) + SUB),
        request(MIGRATE, policy_id(direction=0) + attr(17, migrate(mode=0)) + SUB), request(GETSA, b"", DUMP),
        request(0x15, b"", DUMP), request(FLUSHSA, b"\0"),
    ],
}  # fmt: skip


BODIES = {NEWSA: 224, UPDSA: 224, NEWAE: 48, DELSA: 24}


def without_pad(datagram: bytes) -> bytes:
    """The message without XFRMA_PAD, which only kernels for some processors need before 64-bit values."""
    size, kind = struct.unpack_from("=IH", datagram)
    at = 16 + BODIES.get(kind, size)
    kept = datagram[:at]
    while at < len(datagram):
        length, number = struct.unpack_from("=HH", datagram, at)
        if number != 27:
            kept += datagram[at : at + (length + 3 & ~3)]
        at += length + 3 & ~3
    return struct.pack("=I", len(kept)) + kept[4:]


def split(datagram: bytes) -> list[bytes]:
    """The messages of a datagram, for a dump's may be cut at other places."""
    return [without_pad(message.pack()) for message in messages(datagram)]


def messages_of(answer: list[list[str]]) -> Answer:
    """An answer whose datagrams are in hex."""
    replies, events = ([m for text in side for m in split(bytes.fromhex(text))] for side in answer)
    return Answer(replies, events)


def asked(guest: LinuxGuest, sequence: list[bytes]) -> tuple[int, list[Answer]]:
    """The guest's port and answers, in a namespace of its own."""
    program = ["unshare", "--net", os.path.realpath(sys.executable), "-I", "-S", netlink.kernel.__file__]
    code, out, err = guest.run(program, "".join(f"{datagram.hex()}\n" for datagram in sequence))
    assert code == 0, err
    port, *lines = out.splitlines()
    return int(port), [messages_of(json.loads(line)) for line in lines]


def in_fewer_words(ours: Answer, theirs: Answer) -> Answer:
    """Our answer without an extended ack that 6.1, which explains less than 6.18, does not give."""
    replies = list(ours.replies)
    for number, (mine, other) in enumerate(zip(replies, theirs.replies, strict=False)):
        flags, said = (struct.unpack_from("=H", message, 6)[0] for message in (mine, other))
        if struct.unpack_from("=H", other, 4)[0] == NLMSG_ERROR and flags & ~said == NLM_F_ACK_TLVS:
            replies[number] = struct.pack("=IHH", len(other), NLMSG_ERROR, said) + mine[8 : len(other)]
    return ours._replace(replies=replies)


@pytest.mark.parametrize("name", SEQUENCES)
def test_uxfrm_answers_as_linux_6_1(own_guest: LinuxGuest, name: str) -> None:
    port, answers = asked(own_guest, SEQUENCES[name])
    ours = Uxfrm(port, random.Random(1).randbytes)
    for number, (datagram, theirs) in enumerate(zip(SEQUENCES[name], answers, strict=True)):
        found = in_fewer_words(ours.request(datagram), theirs)
        assert comparable(found, port) == comparable(theirs, port), (number, datagram[:32].hex())
