"""Link layers: where IP is and which way a frame went, against frames that scapy built."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether, Loopback

from attach import capture_bytes as make
from uxfrm.attach.link import KNOWN, Direction, Placement, locate
from uxfrm.attach.pcap import open_capture

V4 = IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / b"four"
V6 = IPv6(src="fd00::1", dst="fd00::2") / UDP() / b"six"
HOST, PEER, THIRD = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
MAC = bytes.fromhex(HOST.replace(":", ""))
UNKNOWN, IN, OUT, OTHER = Direction


def place(frames: list[tuple[int, bytes]], mac: bytes | None = None) -> tuple[Placement, list[bytes | None]]:
    """Locate (link, frame) pairs; also the IP bytes found."""
    links = sorted({link for link, _ in frames})
    data = make.section() + b"".join(make.interface(link) for link in links)
    data += b"".join(make.enhanced(frame, number=links.index(link)) for link, frame in frames)
    with open_capture(io.BytesIO(data)) as capture:
        batch = next(capture)
    found = locate(batch, mac)
    packets = [
        batch.data[at : at + n].tobytes() if at >= 0 else None
        for at, n in zip(found.ip_offset, found.ip_length, strict=True)
    ]
    return found, packets


IP_FRAMES = {
    "ethernet": (1, Ether(src=PEER, dst=HOST)),
    "vlan": (1, Ether(src=PEER, dst=HOST) / Dot1Q(vlan=7)),
    "qinq": (1, Ether(src=PEER, dst=HOST) / Dot1AD(vlan=7) / Dot1Q(vlan=8)),
    "qinq-old": (1, Ether(src=PEER, dst=HOST, type=0x9100) / Dot1Q(vlan=7) / Dot1Q(vlan=8)),
    "sll": (113, CookedLinux()),
    "sll-vlan": (113, CookedLinux() / Dot1Q(vlan=7)),
    "sll2": (276, CookedLinuxV2()),
    "sll2-vlan": (276, CookedLinuxV2() / Dot1Q(vlan=7)),
    "raw": (101, None),
    "raw-bsd": (12, None),
    "raw-openbsd": (14, None),
}


@pytest.mark.parametrize("packet", [V4, V6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("name", IP_FRAMES)
def test_finds_ip(name: str, packet: Any) -> None:
    link, layer = IP_FRAMES[name]
    frame = bytes(layer / packet) if layer is not None else bytes(packet)
    assert place([(link, frame)])[1] == [bytes(packet)]


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("link", [0, 108])
@pytest.mark.parametrize(
    ("family", "packet"), [(2, V4), (10, V6), (24, V6), (28, V6), (30, V6)], ids=lambda v: str(v)[:3]
)
def test_finds_ip_behind_an_address_family(link: int, order: Any, family: int, packet: Any) -> None:
    assert place([(link, family.to_bytes(4, order) + bytes(packet))])[1] == [bytes(packet)]


def test_finds_ip_in_scapys_loopback() -> None:
    assert place([(0, bytes(Loopback(type=2) / V4))])[1] == [bytes(V4)]


def test_links_of_one_ip_version() -> None:
    frames = [(228, bytes(V4)), (228, bytes(V6)), (229, bytes(V4)), (229, bytes(V6))]
    assert place(frames)[1] == [bytes(V4), None, None, bytes(V6)]


@pytest.mark.parametrize(
    ("link", "frame"),
    [
        (1, bytes(Ether() / ARP())),
        (1, bytes(Ether(type=0x0026) / b"length")),
        (1, bytes(Ether() / Dot1Q() / Dot1Q() / Dot1Q() / Dot1Q() / Dot1Q() / V4)),
        (1, bytes(Ether() / V4)[:13]),
        (1, bytes(Ether() / Dot1Q() / V4)[:17]),
        (1, b""),
        (113, bytes(CookedLinux(proto=0x0806) / ARP())),
        (113, bytes(CookedLinux() / V4)[:15]),
        (276, bytes(CookedLinuxV2() / V4)[:19]),
        (101, b""),
        (101, b"\x55" + bytes(30)),
        (0, bytes([0, 0, 0, 7]) + bytes(V4)),
        (0, bytes([2, 0, 1, 0]) + bytes(V4)),
        (0, bytes([2, 0])),
        (105, bytes(Ether() / V4)),
    ],
)
def test_what_is_not_ip(link: int, frame: bytes) -> None:
    found, packets = place([(link, frame)])
    assert packets == [None]
    assert found.ip_length.tolist() == [0]


def test_a_header_without_packet_is_ip_of_no_bytes() -> None:
    found, packets = place([(1, bytes(Ether() / V4)[:14])])
    assert packets == [b""]
    assert found.ip_offset[0] >= 0


@pytest.mark.parametrize(
    ("src", "dst", "want"),
    [
        (PEER, HOST, IN),
        (HOST, PEER, OUT),
        (PEER, THIRD, OTHER),
        (PEER, "ff:ff:ff:ff:ff:ff", OTHER),
        (HOST, "ff:ff:ff:ff:ff:ff", OUT),
        (PEER, "33:33:00:00:00:01", OTHER),
        (HOST, HOST, OUT),
        (PEER, "02:00:00:00:00:00", OTHER),
    ],
)
def test_direction_on_ethernet(src: str, dst: str, want: Direction) -> None:
    frames = [(1, bytes(Ether(src=src, dst=dst) / V4)), (1, bytes(Ether(src=src, dst=dst) / ARP()))]
    assert place(frames, MAC)[0].direction.tolist() == [want, want]
    assert place(frames)[0].direction.tolist() == [UNKNOWN, UNKNOWN]


@pytest.mark.parametrize(
    ("kind", "want"), [(0, IN), (1, OTHER), (2, OTHER), (3, OTHER), (4, OUT), (5, UNKNOWN), (6, UNKNOWN)]
)
@pytest.mark.parametrize("mac", [None, MAC])
def test_direction_on_cooked_links(kind: int, want: Direction, mac: bytes | None) -> None:
    frames = [
        (113, bytes(CookedLinux(pkttype=kind, src=MAC) / V4)),
        (276, bytes(CookedLinuxV2(pkttype=kind, src=MAC) / V6)),
    ]
    assert place(frames, mac)[0].direction.tolist() == [want, want]


def test_links_without_addresses_have_no_direction() -> None:
    frames = [(101, bytes(V4)), (0, b"\x02\0\0\0" + bytes(V4)), (228, bytes(V4))]
    assert place(frames, MAC)[0].direction.tolist() == [UNKNOWN] * 3


def test_a_mac_has_six_bytes() -> None:
    with pytest.raises(ValueError, match="not 5"):
        place([(1, bytes(Ether() / V4))], b"12345")


@given(
    st.lists(
        st.tuples(st.sampled_from([*sorted(KNOWN), 105]), st.binary(max_size=60)), min_size=1, max_size=8
    )
)
def test_any_frame_stays_inside_itself(frames: list[tuple[int, bytes]]) -> None:
    found, packets = place(frames, MAC)
    for (_, frame), packet, at, number in zip(frames, packets, found.ip_offset, found.ip_length, strict=True):
        if packet is None:
            assert (at, number) == (-1, 0)
        else:
            assert frame.endswith(packet)
