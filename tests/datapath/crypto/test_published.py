"""Every engine seals what RFCs, drafts and a Linux kernel say, and opens it again."""

from __future__ import annotations

from typing import Any

import pytest

from datapath.crypto import published
from datapath.crypto.sealing import ENGINES, Packet, opened, sealed, slot_for
from uxfrm.datapath.crypto import known_answers
from uxfrm.datapath.crypto.keyring import Keyring
from uxfrm.datapath.crypto.known_answers_data import ROWS
from uxfrm.datapath.crypto.known_answers_published import PUBLISHED
from uxfrm.model.algorithm import Algorithm, auth_spec

ORDERS = [ENGINES, ENGINES[1:], ENGINES[::-1]]


@pytest.fixture(scope="module", params=ORDERS, ids="+".join)
def ring(request: pytest.FixtureRequest) -> Keyring:
    return Keyring(request.param, prove=False)


def name_of(value: Any) -> str:
    return f"{value[0]} {value[1]}" if isinstance(value, tuple) and len(str(value[1])) < 20 else str(value[0])


def check(ring: Keyring, packet: Packet, expected: bytes) -> None:
    """Seal, compare, open, and refuse what was damaged."""
    [found] = sealed(ring, packet)
    assert (found.result, (found.text + found.icv).hex()) == (1, expected.hex())
    [back] = opened(ring, found)
    assert (back.result, back.text) == (1, packet.text)
    if found.icv:
        found.icv = found.icv[:-1] + bytes([found.icv[-1] ^ 0x80])
        assert opened(ring, found)[0].result == 0


def check_aead(ring: Keyring, algorithm: str, row: tuple[str, ...]) -> None:
    _, *parts = row
    key, spi, sequence, iv, text, expected = (bytes.fromhex(part) for part in parts)
    high = int.from_bytes(sequence[:4]) if len(sequence) == 8 else -1
    slot = slot_for(ring, aead=(algorithm, key, 128))
    check(ring, Packet(slot, spi + sequence[-4:], iv, text, high=high), expected)
    ring.remove(slot)


@pytest.mark.parametrize("row", published.GCM, ids=name_of)
def test_gcm(ring: Keyring, row: tuple[str, ...]) -> None:
    check_aead(ring, "rfc4106(gcm(aes))", row)


@pytest.mark.parametrize("row", published.GMAC, ids=name_of)
def test_gmac(ring: Keyring, row: tuple[str, ...]) -> None:
    check_aead(ring, "rfc4543(gcm(aes))", row)


@pytest.mark.parametrize("row", published.CHACHA, ids=name_of)
def test_chacha20_poly1305(ring: Keyring, row: tuple[str, ...]) -> None:
    check_aead(ring, "rfc7539esp(chacha20,poly1305)", row)


@pytest.mark.parametrize("row", published.CIPHERS, ids=name_of)
def test_ciphers(ring: Keyring, row: tuple[str, ...]) -> None:
    _, algorithm, *parts = row
    key, iv, text, expected = (bytes.fromhex(part) for part in parts)
    slot = slot_for(ring, crypt=(algorithm, key))
    check(ring, Packet(slot, bytes(8), iv, text), expected)
    ring.remove(slot)


@pytest.mark.parametrize(
    ("row", "esn"),
    # A message whose end is the high half must hold SPI and sequence number before it.
    [(row, esn) for row in published.MACS for esn in (False, True) if not esn or len(row[3]) >= 24],
    ids=lambda value: name_of(value) if isinstance(value, tuple) else "esn" if value else "",
)
def test_macs(ring: Keyring, row: tuple[str, ...], esn: bool) -> None:
    """With ESN the message's last four bytes are hashed as the high half, which is not sent."""
    _, algorithm, *parts = row
    key, message, tag = (bytes.fromhex(part) for part in parts)
    high = -1
    if esn:
        message, high = message[:-4], int.from_bytes(message[-4:])
    for bits in (8, auth_spec(Algorithm(algorithm)).icv_bits, len(tag) * 8):
        slot = slot_for(ring, auth=(algorithm, key, bits), crypt=("cipher_null", b""))
        icv = tag[: bits // 8]
        check(ring, Packet(slot, message[:8], b"", message[8:], high=high), message[8:] + icv)
        ring.remove(slot)


@pytest.mark.parametrize("row", [*ROWS, *PUBLISHED], ids=name_of)
def test_what_engines_are_admitted_by(ring: Keyring, row: known_answers.Answer) -> None:
    assert known_answers.holds(ring, row)


@pytest.mark.parametrize(
    "row",
    # Without an ICV, a recorded packet whose last block is damaged is only another plaintext.
    [row for row in (*ROWS, *PUBLISHED) if not row[0].startswith("esp-cbc-noauth")],
    ids=name_of,
)
def test_what_engines_are_admitted_by_can_fail(all_engines: Keyring, row: known_answers.Answer) -> None:
    damaged = row[-1][:-3] + ("0" if row[-1][-3] != "0" else "1") + row[-1][-2:]
    assert not known_answers.holds(all_engines, (*row[:-1], damaged))  # type: ignore[arg-type]
