"""The `cryptography` package as an independent witness, for what it has."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import cmac, hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4
from hypothesis import given
from hypothesis import strategies as st

from datapath.crypto.choices import aeads, auths, crypts, heads, highs, text_bytes
from datapath.crypto.sealing import Packet, opened, sealed
from uxfrm.datapath.crypto.keyring import Keyring
from uxfrm.model.algorithm import Algorithm, aead_spec, crypt_spec

try:
    from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia
except ImportError:
    from cryptography.hazmat.primitives.ciphers.algorithms import Camellia

HASHES: dict[str, Any] = {
    "hmac(md5)": hashes.MD5, "hmac(sha1)": hashes.SHA1, "hmac(sha256)": hashes.SHA256,
    "hmac(sha384)": hashes.SHA384, "hmac(sha512)": hashes.SHA512, "hmac(sm3)": hashes.SM3,
}  # fmt: skip
BLOCKS: dict[str, Any] = {
    "cbc(aes)": AES, "cbc(camellia)": Camellia, "cbc(sm4)": SM4, "cbc(des3_ede)": TripleDES,
}  # fmt: skip


def aead_witness(aead: Algorithm, packet: Packet) -> bytes:
    """Text and ICV as RFC 4106, 4309, 4543 and 7634 have them."""
    spec = aead_spec(aead)
    key, salt = aead.key[: -spec.salt_bytes], aead.key[-spec.salt_bytes :]
    nonce, head = salt + packet.iv, packet.head
    if packet.high >= 0:
        head = head[:4] + packet.high.to_bytes(4) + head[4:]
    if "4543" in aead.name:
        return packet.text + AESGCM(key).encrypt(nonce, b"", head + packet.iv + packet.text)
    if "4309" in aead.name:
        return AESCCM(key, aead.icv_bits // 8).encrypt(nonce, packet.text, head)
    if "4106" in aead.name:
        found = AESGCM(key).encrypt(nonce, packet.text, head)
        return found[: len(packet.text) + aead.icv_bits // 8]
    return ChaCha20Poly1305(key).encrypt(nonce, packet.text, head)


def cipher_witness(crypt: Algorithm, packet: Packet) -> bytes:
    if crypt.name.startswith("rfc3686"):
        counter = crypt.key[-4:] + packet.iv + (1).to_bytes(4)
        running = Cipher(AES(crypt.key[:-4]), modes.CTR(counter)).encryptor()
    else:
        running = Cipher(BLOCKS[crypt.name](crypt.key), modes.CBC(packet.iv)).encryptor()
    return running.update(packet.text) + running.finalize()


def mac_witness(auth: Algorithm, message: bytes) -> bytes:
    running: Any
    if auth.name == "cmac(aes)":
        running = cmac.CMAC(AES(auth.key))
    else:
        running = hmac.HMAC(auth.key, HASHES[auth.name]())
    running.update(message)
    return running.finalize()[: auth.icv_bits // 8]  # type: ignore[no-any-return]


def check(ring: Keyring, packet: Packet, expected: bytes) -> None:
    [found] = sealed(ring, packet)
    assert (found.result, found.text + found.icv) == (1, expected)
    [back] = opened(ring, found)
    assert (back.result, back.text) == (1, packet.text)
    ring.remove(packet.slot)


@given(st.data(), aeads(), heads, st.binary(min_size=8, max_size=8), highs, st.booleans())
def test_aeads(
    all_engines: Keyring, without_ipsec_mb: Keyring, data: Any, aead: Algorithm, head: bytes, iv: bytes,
    high: int, plain: bool,
) -> None:  # fmt: skip
    ring = without_ipsec_mb if plain else all_engines
    text = text_bytes(data.draw, 1, empty="ccm" not in aead.name)
    packet = Packet(ring.add(aead=aead), head, iv, text, high=high)
    check(ring, packet, aead_witness(aead, packet))


@given(st.data(), heads, highs, st.booleans())
def test_ciphers_with_integrity(
    all_engines: Keyring, without_ipsec_mb: Keyring, data: Any, head: bytes, high: int, plain: bool
) -> None:
    ring = without_ipsec_mb if plain else all_engines
    crypt = data.draw(st.one_of([crypts(name) for name in (*BLOCKS, "rfc3686")]))
    auth = data.draw(st.one_of([auths(name) for name in (*HASHES, "cmac")]))
    spec = crypt_spec(crypt)
    iv = data.draw(st.binary(min_size=spec.iv_bytes, max_size=spec.iv_bytes))
    text = text_bytes(data.draw, spec.block_bytes)
    packet = Packet(ring.add(crypt=crypt, auth=auth), head, iv, text, high=high)
    body = cipher_witness(crypt, packet)
    message = head + iv + body + (b"" if high < 0 else high.to_bytes(4))
    check(ring, packet, body + mac_witness(auth, message))
