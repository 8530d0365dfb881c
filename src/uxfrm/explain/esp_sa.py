"""States as Wireshark's table of ESP SAs (the preference file `esp_sa`), so that Wireshark opens a capture.

It knows Wireshark's names, those of 4.0 and later, and what Wireshark cannot do: an algorithm it has no
name for becomes a comment without a key. An integrity algorithm that it cannot check, and an HMAC with
ESN, is given by its length alone; AES-GCM cannot be, so Wireshark 4.0, which knows no ESN, opens it but calls
its ICV bad. AH needs no keys to be read, and IPComp has none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from uxfrm.model.address import AF_INET6, show
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.dump import StateDump
from uxfrm.model.flow import PROTO_ESP
from uxfrm.model.state import ESN, StateConfig

HEADER = "# ESP SAs for Wireshark, written by uxfrm. This file holds keys.\n"

# Kernel's name -> Wireshark's, and the key lengths in bits that it takes.
_CIPHERS: dict[str, tuple[str, frozenset[int]]] = {
    "ecb(cipher_null)": ("NULL", frozenset({0})),
    "cbc(des)": ("DES-CBC [RFC2405]", frozenset({64})),
    "cbc(des3_ede)": ("TripleDES-CBC [RFC2451]", frozenset({192})),
    "cbc(cast5)": ("CAST5-CBC [RFC2144]", frozenset({128})),
    "cbc(blowfish)": ("BLOWFISH-CBC [RFC2451]", frozenset({128})),
    "cbc(twofish)": ("TWOFISH-CBC", frozenset({128, 256})),
    "cbc(aes)": ("AES-CBC [RFC3602]", frozenset({128, 192, 256})),
    "rfc3686(ctr(aes))": ("AES-CTR [RFC3686]", frozenset({160, 224, 288})),
}

_GCM = "rfc4106(gcm(aes))"

_AUTHS: dict[tuple[str, int], str] = {
    ("hmac(md5)", 96): "HMAC-MD5-96 [RFC2403]",
    ("hmac(sha1)", 96): "HMAC-SHA-1-96 [RFC2404]",
    ("hmac(sha256)", 96): "HMAC-SHA-256-96 [draft-ietf-ipsec-ciph-sha-256-00]",
    ("hmac(sha256)", 128): "HMAC-SHA-256-128 [RFC4868]",
    ("hmac(sha384)", 192): "HMAC-SHA-384-192 [RFC4868]",
    ("hmac(sha512)", 256): "HMAC-SHA-512-256 [RFC4868]",
    ("hmac(rmd160)", 96): "MAC-RIPEMD-160-96 [RFC2857]",
}

_UNCHECKED = frozenset({64, 96, 128, 192, 256})


class EspSaTable(NamedTuple):
    """The file's text, which holds keys, and a line without any for each state that Wireshark cannot open."""

    text: str
    problems: list[str]


def esp_sa_table(dumps: Iterable[StateDump]) -> EspSaTable:
    """Wireshark's table of these states' ESP, in their order; states of other protocols are left out."""
    lines, problems = [HEADER], list[str]()
    for dump in dumps:
        state = dump.config
        if not isinstance(state, StateConfig) or state.proto != PROTO_ESP:
            continue
        try:
            lines.append(_line(state))
        except LookupError as error:
            problem = f"{show(state.saddr)} > {show(state.daddr)} spi {state.spi:#010x}: {error.args[0]}"
            problems.append(problem)
            lines.append(f"# {problem}\n")
    return EspSaTable("".join(lines), problems)


def _line(state: StateConfig) -> str:
    """One row. Raises LookupError, whose argument says what Wireshark has no name for."""
    cipher, cipher_key, auth, auth_key = _aead(state.aead) if state.aead else _combined(state)
    fields = (
        "IPv6" if state.family == AF_INET6 else "IPv4",
        _source(state),
        show(state.daddr),
        f"{state.spi:#010x}",
        cipher,
        _hex(cipher_key),
        auth,
        _hex(auth_key),
    )
    return ",".join(f'"{field}"' for field in fields) + "\n"


def _source(state: StateConfig) -> str:
    """The sender's address; any where a NAT may change it. XFRM finds states without it."""
    return "*" if state.encap or not any(state.saddr) else show(state.saddr)


def _hex(key: bytes) -> str:
    return f"0x{key.hex()}" if key else ""


def _aead(aead: Algorithm) -> tuple[str, bytes, str, bytes]:
    if aead.name != _GCM:
        raise LookupError(f"Wireshark has no {aead.name}")
    return f"AES-GCM with {aead.icv_bits // 8} octet ICV [RFC4106]", aead.key, "NULL", b""


def _combined(state: StateConfig) -> tuple[str, bytes, str, bytes]:
    crypt = state.crypt
    name, lengths = _CIPHERS.get(crypt.name if crypt else "", ("", frozenset[int]()))
    if not crypt or not name:
        raise LookupError(f"Wireshark has no {crypt.name if crypt else 'such state'}")
    if crypt.key_bits not in lengths:
        raise LookupError(f"Wireshark has no {crypt.name} with a key of {crypt.key_bits} bits")
    return name, crypt.key, *_auth(state.auth, bool(state.flags & ESN))


def _auth(auth: Algorithm | None, esn: bool) -> tuple[str, bytes]:
    """Wireshark's name and the key; by length alone where it could not check."""
    if auth is None or not auth.icv_bits:
        return "NULL", b""
    name = _AUTHS.get((auth.name, auth.icv_bits))
    if name and not esn:
        return name, auth.key
    if auth.icv_bits not in _UNCHECKED:
        raise LookupError(f"Wireshark has no {auth.name} of {auth.icv_bits} bits")
    return f"ANY {auth.icv_bits} bit authentication [no checking]", b""
