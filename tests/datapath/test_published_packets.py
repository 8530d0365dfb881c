"""Whole ESP packets that RFCs and drafts print, through a namespace: the state finds them, opens them, and
delivers what the document says was put in.

RFC 3602 prints IP headers around its packets (cases 5 and 7; of 6 and 8 the addresses), RFC 7634 too. The
packets of draft-mcgrew-gcm-test-01 begin with ESP: theirs are ours, with addresses of RFC 5737.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import pytest
from scapy.layers.inet import IP
from scapy.packet import Raw

from datapath.crypto import published
from uxfrm.datapath.batch import Batch
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, parse
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.outcome import Counter, Outcome
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.model.state import ESN, ReplayEsn, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.namespace import Namespace


class Published(NamedTuple):
    """A packet and what is in it: `inner` is the whole inner packet of a tunnel, else what follows IP."""

    source: str
    mode: Mode
    packet: bytes
    inner: bytes
    protocol: int
    aead: Algorithm | None = None
    crypt: Algorithm | None = None
    high: int = -1
    """The sequence number's high half, with ESN."""


def _ip(source: str, target: str, esp: str) -> bytes:
    return bytes(IP(src=source, dst=target, proto=50) / Raw(bytes.fromhex(esp)))


def _cbc(key: str) -> Algorithm:
    return algo.crypt("cbc(aes)", bytes.fromhex(key))


_CASE_5, _CASE_7 = _cbc("90d382b410eeba7ad938c46cec1a82bf"), _cbc("0123456789abcdef0123456789abcdef")
_PING = bytes(range(8, 56)).hex()

RFC_3602 = (
    Published(
        "RFC 3602, case 5",
        Mode.TRANSPORT,
        bytes.fromhex(
            "4500007c08f200004032f9a5c0a87b03c0a87b640000432100000001e96e8c08ab465763fd098d45dd3ff893"
            "f663c25d325c18c6a9453e194e120849a4870b66cc6b9965330013b4898dc856a4699e523a55db080b59ec3a8e4b7e52"
            "775b07d1db34ed9c538ab50c551b874aa269add047ad2d5913ac19b7cfbad4a6"
        ),
        bytes.fromhex("08000ebda70a00008e9c083db95b0700" + _PING),
        1,
        crypt=_CASE_5,
    ),
    Published(
        "RFC 3602, case 6",
        Mode.TRANSPORT,
        _ip(
            "192.168.123.3",
            "192.168.123.100",
            "000043210000000869d08df7d203329db093fc4924e5bd80"
            "f51995881ec4e0c4488987ce742e8109689bb379d2d750c0d915dca346a89f75",
        ),
        bytes.fromhex("0800b5e8a80a0500a69c083d0b660e00777777777777777777777777"),
        1,
        crypt=_CASE_5,
    ),
    Published(
        "RFC 3602, case 7",
        Mode.TUNNEL,
        bytes.fromhex(
            "4500008c090500004032f91ec0a87b03c0a87bc80000876500000002f4e765244f6407adf13dc1380f673f37"
            "773b5241a4c449225e4f3ce5ed611b0c237ca96cf74a93013c1b0ea1a0cf70f8e4ecaec78ac53aad7a0f022b859243c6"
            "47752e94a859352b8a4d4d2decd136e5c177f132ad3fbfb2201ac9904c74ee0a109e0ca1e4dfe9d5a100b842f1c22f0d"
        ),
        bytes.fromhex("45000054090400004001f988c0a87b03c0a87bc808009f76a90a0100b49c083d02a20400" + _PING),
        4,
        crypt=_CASE_7,
    ),
    Published(
        "RFC 3602, case 8",
        Mode.TUNNEL,
        _ip(
            "192.168.123.3",
            "192.168.123.200",
            "000087650000000585d47224b5f3dd5d2101d4ea8dffab22"
            "15b92683819596a8047232cc00f7048fe45318e11f8a0f62ede3c3fc61203bb50f980a08c9843fd3a1b06d5c07ff9639"
            "b7eb7dfb3512e5de435e7207ed971ef3d2726d9b5ef6affc6d17a0decbb13892",
        ),
        bytes.fromhex("45000044090c00004001f990c0a87b03c0a87bc80800d63caa0a0200c69c083da3de0300" + "ff" * 32),
        4,
        crypt=_CASE_7,
    ),
)

# With the sequence number's high half where there is one.
_RFC_7634_HEADER = "4500008c234500004032de5bcb007199cb007105"


def _of_vector(row: tuple[str, ...], name: str, mode: Mode, header: str = "") -> Published:
    """A row of `published`: what is sealed ends in padding, its length and the next header."""
    source, key, spi, number, iv, text, sealed = row
    esp = spi + number[-8:] + iv + sealed
    packet = bytes.fromhex(header + esp) if header else _ip("192.0.2.1", "192.0.2.2", esp)
    plain = bytes.fromhex(text)
    inner = plain[: len(plain) - 2 - plain[-2]]
    high = int(number[:8], 16) if len(number) == 16 else -1
    aead = algo.aead(name, bytes.fromhex(key), 128)
    return Published(source, mode, packet, inner, plain[-1], aead=aead, high=high)


PACKETS = [
    *RFC_3602,
    _of_vector(published.CHACHA[0], "rfc7539esp(chacha20,poly1305)", Mode.TUNNEL, _RFC_7634_HEADER),
    *(_of_vector(row, "rfc4106(gcm(aes))", Mode.TRANSPORT) for row in published.GCM[:-1]),
    *(_of_vector(row, "rfc4543(gcm(aes))", Mode.TRANSPORT) for row in published.GMAC),
]

NOTHING_INSIDE = _of_vector(published.GCM[-1], "rfc4106(gcm(aes))", Mode.TRANSPORT)


def receiver(what: Published) -> Namespace:
    """A host with the state that the document describes, and a policy that asks for it."""
    outer = IP(what.packet)
    source, target = parse(outer.src), parse(outer.dst)
    number = int.from_bytes(what.packet[24:28])
    config = {
        "daddr": target, "saddr": source, "spi": int.from_bytes(what.packet[20:24]), "reqid": 1,
        "mode": what.mode, "aead": what.aead, "crypt": what.crypt,
    }  # fmt: skip
    if what.high >= 0:
        # the number before it was the last one that came
        before = (what.high << 32 | number) - 1
        config |= {"flags": ESN, "replay_esn": ReplayEsn(1, 32, 0, before & 0xFFFFFFFF, 0, before >> 32)}
    else:
        config |= {"replay_window": 32}
    made = Namespace(randbytes=os.urandom)
    made.add_state(StateConfig(**config))  # type: ignore[arg-type]
    template = Template(target, source, family=AF_INET, reqid=1, mode=what.mode)
    made.add_policy(PolicyConfig(Direction.IN, Selector(AF_INET, bytes(16), bytes(16)), (template,)))
    return made


@pytest.mark.parametrize("what", PACKETS, ids=lambda what: what.source)
def test_what_a_document_prints_is_delivered(what: Published) -> None:
    batch = Batch.pack([what.packet])
    receiver(what).input(batch)
    assert Outcome.of(int(batch.packets[0]["outcome"])) == Outcome.DELIVERED
    found = batch.packet(0)
    if what.mode == Mode.TUNNEL:
        assert found == what.inner
        return
    assert (IP(found).proto, found[20:]) == (what.protocol, what.inner)


def test_a_packet_with_nothing_but_padding_is_refused_as_by_linux() -> None:
    """The draft's case 12 is one. Follows: esp_remove_trailer."""
    batch = Batch.pack([NOTHING_INSIDE.packet])
    namespace = receiver(NOTHING_INSIDE)
    namespace.input(batch)
    assert NOTHING_INSIDE.inner == b""
    assert Outcome.of(int(batch.packets[0]["outcome"])) == Outcome.IN_PADDING
    assert namespace.counters()[Counter.XfrmInStateProtoError] == 1


@pytest.mark.parametrize("what", [what for what in PACKETS if what.aead], ids=lambda what: what.source)
def test_what_was_changed_on_the_way_is_not(what: Published) -> None:
    """Any byte from SPI to ICV."""
    for at in range(24, len(what.packet)):
        damaged = bytearray(what.packet)
        damaged[at] ^= 0x10
        batch = Batch.pack([bytes(damaged)])
        namespace = receiver(what)
        namespace.input(batch)
        assert Outcome.of(int(batch.packets[0]["outcome"])) != Outcome.DELIVERED
