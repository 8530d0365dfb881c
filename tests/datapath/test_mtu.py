"""The largest packet that fits into a path: what Linux has as MTU of the bundle (xfrm-semantics 6.6).

The IPv4 figures are from Linux 6.1 in user-mode-linux, IPv6's is the kernel's own selftest's.
"""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from uxfrm.datapath.batch import Batch
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_INET6, parse
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import EVERYTHING
from uxfrm.model.state import Encap, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.namespace import Namespace

Keys = dict[str, Algorithm | Encap]


def aead(icv: int) -> Keys:
    return {"aead": algo.aead("rfc4106(gcm(aes))", bytes(20), icv)}


def pair(crypt: str, key: int, auth: str, icv: int) -> Keys:
    return {"crypt": algo.crypt(crypt, bytes(key)), "auth": algo.auth_trunc(auth, bytes(20), icv)}


SHA1 = ("sha1", 96)
LARGEST = [
    ("gcm128", aead(128), 1446),
    ("gcm96", aead(96), 1450),
    ("cbc-sha1", pair("aes", 16, *SHA1), 1438),
    ("cbc-sha256-128", pair("aes", 16, "sha256", 128), 1438),
    ("null-sha1", pair("cipher_null", 0, *SHA1), 1458),
    ("ctr-sha1", pair("rfc3686(ctr(aes))", 20, *SHA1), 1450),
    ("gcm128 in udp", aead(128) | {"encap": Encap(2, 4500, 4500)}, 1438),
]


def host(keys: Keys, family: int, mtu: int) -> Namespace:
    """A host whose packets leave by a tunnel over a path of `mtu` bytes."""
    a, b = ("192.0.2.1", "192.0.2.2") if family == AF_INET else ("2001:db8::1", "2001:db8::2")
    ns = Namespace(randbytes=random.Random(1).randbytes)
    ns.add_state(
        StateConfig(parse(b), parse(a), family=family, spi=1, reqid=1, mode=Mode.TUNNEL, **keys)  # type: ignore[arg-type]
    )
    template = Template(parse(b), parse(a), family=family, reqid=1, mode=Mode.TUNNEL)
    ns.add_policy(PolicyConfig(Direction.OUT, EVERYTHING[family], (template,)))
    ns.set_mtu(mtu)
    return ns


def fate(ns: Namespace, packet: bytes) -> tuple[Outcome, int]:
    """What becomes of a packet, and how long it is then."""
    batch = Batch.pack([packet])
    ns.output(batch)
    return Outcome.of(int(batch.packets[0]["outcome"])), int(batch.packets[0]["length"])


def four(size: int, flags: str = "DF") -> bytes:
    return bytes(IP(src="10.1.0.1", dst="10.2.0.1", flags=flags) / UDP() / Raw(bytes(size - 28)))


def six(size: int) -> bytes:
    return bytes(IPv6(src="fd01::1", dst="fd02::1") / UDP() / Raw(bytes(size - 48)))


@pytest.mark.parametrize(("keys", "largest"), [row[1:] for row in LARGEST], ids=[row[0] for row in LARGEST])
def test_what_fits_into_1500_bytes(keys: Keys, largest: int) -> None:
    ns = host(keys, AF_INET, 1500)
    outcome, length = fate(ns, four(largest))
    assert (outcome, length <= 1500) == (Outcome.SENT, True)
    assert fate(ns, four(largest + 1))[0] == Outcome.OUT_TOO_BIG
    assert fate(ns, four(largest + 1, flags=""))[0] == Outcome.OUT_FRAGMENTED


def test_ipv6_through_1300_bytes() -> None:
    """1230 are left, which is less than IPv6's minimum: Linux refuses it all the same (tests/linux)."""
    ns = host(aead(96), AF_INET6, 1300)
    assert fate(ns, six(1230)) == (Outcome.SENT, 1300)
    assert fate(ns, six(1231))[0] == Outcome.OUT_TOO_BIG
