"""Scapy's SecurityAssociation as a witness that is no Linux: it opens what uxfrm seals, and the reverse.

Everything that it has: each of its ciphers with each of its integrity algorithms, AEADs, AH, in transport and
tunnel mode of all families, ESN, NAT-T. It has no BEET mode, IPComp, TFC padding or short ICVs, and aligns AH
in IPv4 as RFC 4302 does, Linux with align4 only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import AH, ESP, SecurityAssociation
from scapy.packet import Packet

from linux import suites
from linux.test_udp_encapsulation import bypassing
from linux.twin import SHAPES, SPI, TRANSPORT4, TUNNELS, Case, Suite, outcomes, packets
from uxfrm.datapath.batch import Batch
from uxfrm.model.address import AF_INET
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.flow import PROTO_AH
from uxfrm.model.outcome import Outcome
from uxfrm.model.state import ALIGN4, ENCAP_ESPINUDP, Encap

pytestmark = pytest.mark.compiled

_CRYPT = {
    "ecb(cipher_null)": "NULL", "cbc(aes)": "AES-CBC", "rfc3686(ctr(aes))": "AES-CTR", "cbc(des)": "DES",
    "cbc(des3_ede)": "3DES", "cbc(cast5)": "CAST", "cbc(blowfish)": "Blowfish",
    "rfc4106(gcm(aes))": "AES-GCM", "rfc4543(gcm(aes))": "AES-NULL-GMAC", "rfc4309(ccm(aes))": "AES-CCM",
    "rfc7539esp(chacha20,poly1305)": "CHACHA20-POLY1305",
}  # fmt: skip
_AUTH = {
    ("hmac(md5)", 96): "HMAC-MD5-96", ("hmac(sha1)", 96): "HMAC-SHA1-96",
    ("hmac(sha256)", 128): "SHA2-256-128", ("hmac(sha384)", 192): "SHA2-384-192",
    ("hmac(sha512)", 256): "SHA2-512-256", ("cmac(aes)", 96): "AES-CMAC-96",
}  # fmt: skip
PAYLOADS = suites.PAYLOADS[1::2]
NAT = Encap(ENCAP_ESPINUDP, 4500, 4500, bytes(16))


def _known(suite: Suite) -> bool:
    cipher = suite.aead or suite.crypt
    if cipher and (cipher.name not in _CRYPT or (cipher.name.startswith("rfc3686") and not suite.auth)):
        return False
    if suite.aead:
        return suite.aead.icv_bits == 128
    # Scapy takes the ICV's length for the AEAD's where there is no integrity algorithm
    return suite.auth is not None and (suite.auth.name, suite.auth.icv_bits) in _AUTH


def _aligned(case: Case) -> Case:
    return replace(case, flags=ALIGN4) if case.suite.proto == PROTO_AH and case.shape.outer == 4 else case


def cases() -> Iterator[Case]:
    known = [suite for suite in suites.BASIC + suites.PRODUCT + suites.AH_SUITES if _known(suite)]
    for i, suite in enumerate(known):
        yield Case(suite, SHAPES[i % len(SHAPES)])
        if suite in suites.BASIC[:20] or suite in suites.AH_SUITES:
            yield from (Case(suite, shape) for shape in SHAPES if shape != SHAPES[i % len(SHAPES)])
            yield from (Case(suite, shape, esn=True) for shape in (TRANSPORT4, *TUNNELS[1:3]))
        if suite in suites.BASIC[:20]:
            yield from (Case(suite, shape, encap=NAT) for shape in SHAPES if shape.outer == 4)


CASES = [_aligned(case) for case in cases()]


def association(case: Case) -> SecurityAssociation:
    """The state in Scapy's words."""
    suite, shape = case.suite, case.shape
    source, target = shape.outer_ends
    tunnel = None
    if shape.mode.tunnels:
        tunnel = IP(src=source, dst=target) if shape.outer == 4 else IPv6(src=source, dst=target)
    cipher = suite.aead or suite.crypt
    auth: Algorithm | None = suite.auth
    return SecurityAssociation(
        ESP if cipher else AH,
        spi=SPI,
        crypt_algo=_CRYPT[cipher.name] if cipher else None,
        crypt_key=cipher.key if cipher else None,
        auth_algo=_AUTH[auth.name, auth.icv_bits] if auth else None,
        auth_key=auth.key if auth else None,
        tunnel_header=tunnel,
        nat_t_header=UDP(sport=NAT.sport, dport=NAT.dport) if case.encap else None,
        esn_en=case.esn,
        esn=0,
    )


def read(case: Case, packet: bytes) -> Packet:
    return IP(packet) if case.shape.outer == 4 else IPv6(packet)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_scapy_opens_what_uxfrm_seals(case: Case) -> None:
    inner = [case.shape.datagram(payload) for payload in PAYLOADS]
    batch = Batch.pack(inner)
    case.namespace().output(batch)
    assert outcomes(batch) == [Outcome.SENT] * len(inner)
    scapys = association(case)
    assert [bytes(scapys.decrypt(read(case, packet))) for packet in packets(batch)] == inner


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_uxfrm_opens_what_scapy_seals(case: Case) -> None:
    inner = [case.shape.datagram(payload) for payload in PAYLOADS]
    scapys = association(case)
    kind = IP if case.shape.inner == 4 else IPv6
    wire = [bytes(scapys.encrypt(kind(packet))) for packet in inner]
    twin = case.twin()
    # the key manager's socket: what comes to its port is not for the policies before it is opened
    batch = Batch.pack(wire, 1000, socket=bypassing(twin, AF_INET) if case.encap else 0)
    twin.input(batch)
    assert outcomes(batch) == [Outcome.DELIVERED] * len(inner)
    assert packets(batch) == inner


def test_it_is_all_that_scapy_and_linux_have() -> None:
    ciphers = {cipher.name for case in CASES if (cipher := case.suite.aead or case.suite.crypt)}
    assert ciphers == set(_CRYPT)
    assert {(auth.name, auth.icv_bits) for case in CASES if (auth := case.suite.auth)} == set(_AUTH)
