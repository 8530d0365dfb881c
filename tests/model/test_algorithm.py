"""Algorithms: names, sizes and keys as xfrm_algo.c and its ciphers have them (xfrm-semantics 3.2, 5.1)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from uxfrm.model import algorithm as algo
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.error import XfrmError

SECRET = bytes(range(0xA0, 0xC0))


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("md5", "hmac(md5)"),
        ("sha1", "hmac(sha1)"),
        ("sha256", "hmac(sha256)"),
        ("rmd160", "hmac(rmd160)"),
        ("sm3", "hmac(sm3)"),
        ("hmac(sha512)", "hmac(sha512)"),
    ],
)
def test_integrity_aliases_become_canonical_names(alias: str, name: str) -> None:
    assert algo.auth(alias, SECRET).name == name
    assert algo.auth_trunc(alias, SECRET, 64).name == name


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("cipher_null", "ecb(cipher_null)"),
        ("des", "cbc(des)"),
        ("des3_ede", "cbc(des3_ede)"),
        ("cast5", "cbc(cast5)"),
        ("blowfish", "cbc(blowfish)"),
        ("aes", "cbc(aes)"),
        ("serpent", "cbc(serpent)"),
        ("camellia", "cbc(camellia)"),
        ("twofish", "cbc(twofish)"),
        ("rfc3686(ctr(aes))", "rfc3686(ctr(aes))"),
    ],
)
def test_cipher_aliases_become_canonical_names(alias: str, name: str) -> None:
    assert algo.crypt(alias, SECRET).name == name


@pytest.mark.parametrize(
    ("name", "default", "full"),
    [
        ("digest_null", 0, 0),
        ("hmac(md5)", 96, 128),
        ("hmac(sha1)", 96, 160),
        ("hmac(sha256)", 96, 256),  # RFC 4868 wants 128; Linux says 96 unless told
        ("hmac(sha384)", 192, 384),
        ("hmac(sha512)", 256, 512),
        ("hmac(rmd160)", 96, 160),
        ("xcbc(aes)", 96, 128),
        ("cmac(aes)", 96, 128),
        ("hmac(sm3)", 256, 256),
    ],
)
def test_the_icv_is_the_default_or_what_was_asked_up_to_the_digest(
    name: str, default: int, full: int
) -> None:
    assert algo.auth(name, SECRET).icv_bits == default
    assert algo.auth_trunc(name, SECRET, 0).icv_bits == default
    assert algo.auth_trunc(name, SECRET, full).icv_bits == full
    with pytest.raises(XfrmError) as caught:
        algo.auth_trunc(name, SECRET, full + 8)
    assert (caught.value.number, caught.value.text) == (
        errno.EINVAL,
        "Invalid length requested for truncated ICV",
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: algo.aead("gcm(aes)", SECRET, 128), "Requested AEAD algorithm not found"),
        (lambda: algo.aead("rfc4106(gcm(aes))", SECRET, 80), "Requested AEAD algorithm not found"),
        (lambda: algo.aead("rfc4543(gcm(aes))", SECRET, 96), "Requested AEAD algorithm not found"),
        (lambda: algo.auth_trunc("sha3", SECRET, 96), "Requested AUTH_TRUNC algorithm not found"),
        (lambda: algo.auth("sha384", SECRET), "Requested AUTH algorithm not found"),
        (lambda: algo.auth("", SECRET), "Requested AUTH algorithm not found"),
        (lambda: algo.crypt("", SECRET), "Requested CRYPT algorithm not found"),
        (lambda: algo.crypt("cbc(xyz)", SECRET), "Requested CRYPT algorithm not found"),
        (lambda: algo.comp("lzs"), "Requested COMP algorithm not found"),
        (lambda: algo.comp("zstd"), "Requested COMP algorithm not found"),
    ],
)
def test_an_unknown_algorithm_is_enosys(make: Callable[[], object], words: str) -> None:
    with pytest.raises(XfrmError) as caught:
        make()
    assert (caught.value.number, caught.value.text) == (errno.ENOSYS, words)


# Key lengths in bits, 0..576 in whole bytes: exactly these are taken.
AEAD_KEYS = [
    ("rfc4106(gcm(aes))", 128, {160, 224, 288}),
    ("rfc4106(gcm(aes))", 64, {160, 224, 288}),
    ("rfc4309(ccm(aes))", 96, {152, 216, 280}),
    ("rfc4543(gcm(aes))", 128, {160, 224, 288}),
    ("rfc7539esp(chacha20,poly1305)", 128, {288}),
]
CRYPT_KEYS = [
    ("ecb(cipher_null)", {0}),
    ("cbc(des)", {64}),
    ("cbc(des3_ede)", {192}),
    ("cbc(cast5)", set(range(40, 129, 8))),
    ("cbc(aes)", {128, 192, 256}),
    ("cbc(camellia)", {128, 192, 256}),
    ("cbc(twofish)", {128, 192, 256}),
    ("rfc3686(ctr(aes))", {160, 224, 288}),
    ("cbc(sm4)", {128}),
]
AUTH_KEYS = [("xcbc(aes)", {128}), ("cmac(aes)", {128, 192, 256})]
LENGTHS = range(0, 577, 8)


def refusal(check: Callable[[bytes], None], bits: int) -> tuple[int, str] | None:
    try:
        check(bytes(bits // 8))
    except XfrmError as error:
        return error.number, error.text
    return None


def accepted(check: Callable[[bytes], None], words: str) -> set[int]:
    """The lengths that `check` takes; it must refuse the others with EINVAL and `words`."""
    refusals = {bits: refusal(check, bits) for bits in LENGTHS}
    assert set(refusals.values()) <= {None, (errno.EINVAL, words)}
    return {bits for bits, refused in refusals.items() if refused is None}


@pytest.mark.parametrize(("name", "icv", "lengths"), AEAD_KEYS)
def test_aead_key_lengths(name: str, icv: int, lengths: set[int]) -> None:
    words = "Kernel was unable to initialize cryptographic operations"
    assert accepted(lambda key: algo.check_aead_key(algo.aead(name, key, icv)), words) == lengths


@pytest.mark.parametrize(("name", "lengths"), CRYPT_KEYS)
@pytest.mark.parametrize("auth", [algo.auth("sha1", b""), None], ids=["sha1", "none"])
def test_cipher_key_lengths_are_refused_without_words(
    name: str, lengths: set[int], auth: algo.Algorithm | None
) -> None:
    assert accepted(lambda key: algo.check_esp_keys(algo.crypt(name, key), auth), "") == lengths


@pytest.mark.parametrize(("name", "lengths"), AUTH_KEYS)
def test_mac_key_lengths(name: str, lengths: set[int]) -> None:
    crypt = algo.crypt("cipher_null", b"")
    assert accepted(lambda key: algo.check_esp_keys(crypt, algo.auth(name, key)), "") == lengths


@pytest.mark.parametrize("name", [spec.name for spec in algo.AUTHS if spec.name.startswith("hmac")])
def test_hmac_takes_any_key_even_none(name: str) -> None:
    assert accepted(lambda key: algo.check_auth_key(algo.auth(name, key)), "") == set(LENGTHS)


@pytest.mark.parametrize(
    "algorithm",
    [
        algo.aead("rfc4106(gcm(aes))", SECRET, 128),
        algo.auth("sha256", SECRET),
        algo.crypt("aes", SECRET),
        Algorithm("cbc(aes)", SECRET),
    ],
)
def test_no_key_is_ever_printed(algorithm: Algorithm) -> None:
    hex_key = SECRET.hex()
    for text in (repr(algorithm), str(algorithm), f"{[algorithm]}", "%s" % (algorithm,)):  # noqa: UP031
        assert algorithm.name in text
        assert hex_key[:8] not in text.replace("\\x", "")
    with pytest.raises(XfrmError) as caught:
        algo.check_aead_key(algo.aead("rfc4106(gcm(aes))", SECRET, 128))
    for text in (repr(caught.value), str(caught.value), str(caught.value.args)):
        assert hex_key[:8] not in text.replace("\\x", "")


def test_the_tables_agree_with_themselves() -> None:
    """Numbers that go on the wire: whole bytes, defaults within the digest, PF_KEY numbers unique."""
    for spec in algo.AUTHS:
        assert spec.icv_bits % 8 == spec.full_bits % 8 == 0
        assert spec.icv_bits <= spec.full_bits
    for crypt in algo.CRYPTS:
        assert crypt.iv_bytes in (0, 8, crypt.block_bytes)
    numbers = [s.pfkey for s in (*algo.AEADS, *algo.CRYPTS) if s.pfkey]
    assert len(numbers) == len(set(numbers))
    numbers = [s.pfkey for s in algo.AUTHS]
    assert len(numbers) == len(set(numbers))
