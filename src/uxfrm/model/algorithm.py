"""The algorithms that Linux's XFRM knows, with every figure that goes on the wire.

Follows: net/xfrm/xfrm_algo.c (names, aliases, ICV and key sizes, PF_KEY numbers). A row of the tables
exists whether or not an engine on this machine can run it: an algorithm without a provider is ENOSYS when
a state is made, as in a kernel without the module.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import NamedTuple

from uxfrm.model.error import XfrmError, invalid


class AeadSpec(NamedTuple):
    """A combined-mode algorithm: key lengths in bits include the salt at the key's end."""

    name: str
    icv_bits: int
    key_bits: tuple[int, ...]
    salt_bytes: int
    iv_bytes: int
    pfkey: int


class AuthSpec(NamedTuple):
    """An integrity algorithm: its default truncation and its full size in bits."""

    name: str
    alias: str
    icv_bits: int
    full_bits: int
    key_bits: tuple[int, ...]
    pfkey: int


class CryptSpec(NamedTuple):
    """A cipher: block and IV size in bytes; key lengths in bits include a nonce at the key's end."""

    name: str
    alias: str
    block_bytes: int
    key_bits: tuple[int, ...]
    iv_bytes: int
    nonce_bytes: int
    pfkey: int


class CompSpec(NamedTuple):
    """A compression: payloads below `threshold` bytes go uncompressed."""

    name: str
    threshold: int
    pfkey: int


_GCM_KEYS = (160, 224, 288)
_CCM_KEYS = (152, 216, 280)

AEADS: tuple[AeadSpec, ...] = (
    AeadSpec("rfc4106(gcm(aes))", 64, _GCM_KEYS, 4, 8, 18),
    AeadSpec("rfc4106(gcm(aes))", 96, _GCM_KEYS, 4, 8, 19),
    AeadSpec("rfc4106(gcm(aes))", 128, _GCM_KEYS, 4, 8, 20),
    AeadSpec("rfc4309(ccm(aes))", 64, _CCM_KEYS, 3, 8, 14),
    AeadSpec("rfc4309(ccm(aes))", 96, _CCM_KEYS, 3, 8, 15),
    AeadSpec("rfc4309(ccm(aes))", 128, _CCM_KEYS, 3, 8, 16),
    AeadSpec("rfc4543(gcm(aes))", 128, _GCM_KEYS, 4, 8, 23),
    AeadSpec("rfc7539esp(chacha20,poly1305)", 128, (288,), 4, 8, 0),
)

_ANY: tuple[int, ...] = ()  # every key length is accepted, also none at all

AUTHS: tuple[AuthSpec, ...] = (
    AuthSpec("digest_null", "", 0, 0, _ANY, 251),
    AuthSpec("hmac(md5)", "md5", 96, 128, _ANY, 2),
    AuthSpec("hmac(sha1)", "sha1", 96, 160, _ANY, 3),
    AuthSpec("hmac(sha256)", "sha256", 96, 256, _ANY, 5),
    AuthSpec("hmac(sha384)", "", 192, 384, _ANY, 6),
    AuthSpec("hmac(sha512)", "", 256, 512, _ANY, 7),
    AuthSpec("hmac(rmd160)", "rmd160", 96, 160, _ANY, 8),
    AuthSpec("xcbc(aes)", "", 96, 128, (128,), 9),
    AuthSpec("cmac(aes)", "", 96, 128, (128, 192, 256), 0),
    AuthSpec("hmac(sm3)", "sm3", 256, 256, _ANY, 10),
)


def _bytes(low: int, high: int) -> tuple[int, ...]:
    return tuple(range(low, high + 1, 8))


CRYPTS: tuple[CryptSpec, ...] = (
    CryptSpec("ecb(cipher_null)", "cipher_null", 1, (0,), 0, 0, 11),
    CryptSpec("cbc(des)", "des", 8, (64,), 8, 0, 2),
    CryptSpec("cbc(des3_ede)", "des3_ede", 8, (192,), 8, 0, 3),
    CryptSpec("cbc(cast5)", "cast5", 8, _bytes(40, 128), 8, 0, 6),
    CryptSpec("cbc(blowfish)", "blowfish", 8, _bytes(32, 448), 8, 0, 7),
    CryptSpec("cbc(aes)", "aes", 16, (128, 192, 256), 16, 0, 12),
    CryptSpec("cbc(serpent)", "serpent", 16, _bytes(0, 256), 16, 0, 252),
    CryptSpec("cbc(camellia)", "camellia", 16, (128, 192, 256), 16, 0, 22),
    CryptSpec("cbc(twofish)", "twofish", 16, (128, 192, 256), 16, 0, 253),
    CryptSpec("rfc3686(ctr(aes))", "", 1, (160, 224, 288), 8, 4, 13),
    CryptSpec("cbc(sm4)", "sm4", 16, (128,), 16, 0, 24),
)

COMPS: tuple[CompSpec, ...] = (
    CompSpec("deflate", 90, 2),
    CompSpec("lzs", 90, 3),
    CompSpec("lzjh", 50, 4),
)


@dataclass(frozen=True, slots=True)
class Algorithm:
    """An algorithm with its key, as a state holds it: canonical name, key bytes, ICV length in bits.

    `icv_bits` is 0 for ciphers and compressions. The key never appears in repr, str or comparisons' output.
    """

    name: str
    key: bytes = field(default=b"", repr=False)
    icv_bits: int = 0

    @property
    def key_bits(self) -> int:
        """Key length in bits, salt or nonce included."""
        return len(self.key) * 8


@dataclass(frozen=True, slots=True)
class Wanted(Algorithm):
    """An algorithm as a request names it, by the attribute it came in; a state looks it up when made.

    What else is wrong with a request the kernel says before it looks for algorithms. `flaw` says that the
    attribute was shorter than its key.
    """

    attribute: str = ""
    flaw: str = ""

    def found(self) -> Algorithm:
        """The algorithm of the tables; ENOSYS for none, EINVAL for an ICV longer than the digest."""
        if self.attribute == "AEAD":
            return aead(self.name, self.key, self.icv_bits)
        if self.attribute == "AUTH_TRUNC":
            return auth_trunc(self.name, self.key, self.icv_bits)
        return {"AUTH": auth, "CRYPT": crypt, "COMP": comp}[self.attribute](self.name, self.key)


_AEAD = {(spec.name, spec.icv_bits): spec for spec in AEADS}
_AUTH = {name: spec for spec in AUTHS for name in (spec.name, spec.alias) if name}
_CRYPT = {name: spec for spec in CRYPTS for name in (spec.name, spec.alias) if name}
_COMP = {spec.name: spec for spec in COMPS}


def aead_spec(algorithm: Algorithm) -> AeadSpec:
    """The row of a state's AEAD; KeyError for none."""
    return _AEAD[algorithm.name, algorithm.icv_bits]


def auth_spec(algorithm: Algorithm) -> AuthSpec:
    """The row of a state's integrity algorithm; KeyError for none."""
    return _AUTH[algorithm.name]


def crypt_spec(algorithm: Algorithm) -> CryptSpec:
    """The row of a state's cipher; KeyError for none."""
    return _CRYPT[algorithm.name]


def comp_spec(algorithm: Algorithm) -> CompSpec:
    """The row of a state's compression; KeyError for none."""
    return _COMP[algorithm.name]


def _unknown(attribute: str) -> XfrmError:
    return XfrmError(errno.ENOSYS, f"Requested {attribute} algorithm not found")


def aead(name: str, key: bytes, icv_bits: int) -> Algorithm:
    """Find an AEAD by name and ICV length. ENOSYS for none. Follows: attach_aead."""
    if (name, icv_bits) not in _AEAD:
        raise _unknown("AEAD")
    return Algorithm(name, key, icv_bits)


def auth(name: str, key: bytes) -> Algorithm:
    """Find an integrity algorithm, truncated as its table row says. Follows: attach_auth."""
    spec = _AUTH.get(name)
    if spec is None:
        raise _unknown("AUTH")
    return Algorithm(spec.name, key, spec.icv_bits)


def auth_trunc(name: str, key: bytes, icv_bits: int) -> Algorithm:
    """Find an integrity algorithm with an ICV of `icv_bits` (0: the row's). Follows: attach_auth_trunc."""
    spec = _AUTH.get(name)
    if spec is None:
        raise _unknown("AUTH_TRUNC")
    if icv_bits > spec.full_bits:
        raise invalid("Invalid length requested for truncated ICV")
    return Algorithm(spec.name, key, icv_bits or spec.icv_bits)


def crypt(name: str, key: bytes) -> Algorithm:
    """Find a cipher. Follows: attach_crypt."""
    spec = _CRYPT.get(name)
    if spec is None:
        raise _unknown("CRYPT")
    return Algorithm(spec.name, key)


def comp(name: str, key: bytes = b"") -> Algorithm:
    """Find a compression; only deflate has a provider in Linux. Follows: attach_one_algo."""
    if name != "deflate":
        raise _unknown("COMP")
    return Algorithm(name, key)


def check_aead_key(algorithm: Algorithm) -> None:
    """Refuse an AEAD key that the kernel's cipher refuses. Follows: esp_init_aead."""
    if algorithm.key_bits not in aead_spec(algorithm).key_bits:
        raise invalid("Kernel was unable to initialize cryptographic operations")


def check_esp_keys(crypt: Algorithm, auth: Algorithm | None) -> None:
    """Refuse keys that the kernel's authenc template refuses, without words. Follows: esp_init_authenc."""
    if crypt.key_bits not in crypt_spec(crypt).key_bits:
        raise invalid("")
    if auth is not None:
        check_auth_key(auth)


def check_auth_key(auth: Algorithm) -> None:
    """Refuse a key of a length the integrity algorithm does not take."""
    allowed = auth_spec(auth).key_bits
    if allowed and auth.key_bits not in allowed:
        raise invalid()
