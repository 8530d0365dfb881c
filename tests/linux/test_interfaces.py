"""XFRM interfaces, played on Linux 6.12 and on uxfrm: the same on the wire, delivered, counted, and where."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator

import pytest

from linux.guest import LinuxGuest
from linux.interfaces import (
    INNER,
    NEIGHBOUR,
    OUTER,
    OUTER6,
    LinuxSide,
    Side,
    UxfrmSide,
    from_peer,
    policy,
    state,
)

pytestmark = pytest.mark.linux

Scenario = Callable[[Side], None]


def both_ways(side: Side) -> None:
    """out and in by the if_id: on the interface, with the states that have it"""
    side.interface("x5", 5)
    side.interface("x6", 6)
    for if_id in (5, 6):
        side.ip(state(True, if_id, f"if_id {if_id}"), state(False, if_id, f"if_id {if_id}"))
        for family in (4, 6):
            side.ip(
                policy(True, if_id, f"if_id {if_id}", family), policy(False, if_id, f"if_id {if_id}", family)
            )
    for name in ("x5", "x6"):
        side.route(name)
        side.send()
        side.send(6, count=2)
    for spi in (5, 6):
        side.receive(*from_peer(spi, 4, 2))
        side.receive(*from_peer(spi, 6))


def without_states(side: Side) -> None:
    """nothing, a policy without states, one of another if_id, an optional template, a block: lost carriers"""
    side.interface("x5", 5)
    side.route("x5")
    side.send()
    side.ip(policy(True, 5, "if_id 5"))
    side.send(count=2)
    side.ip(state(True, 5, "if_id 6"))
    side.send()
    side.ip(
        "policy flush", policy(True, 5, "if_id 5", more="level use").replace("mode tunnel", "mode transport")
    )
    side.send()
    side.ip("policy flush", policy(True, 0, "if_id 5 action block"))
    side.send()
    side.ip("policy flush", policy(True, 0, "if_id 5"))
    side.send()
    side.ip(
        state(True, 5, "if_id 5").replace("spi 0x5", "spi 0x55"), "policy flush", policy(True, 5, "if_id 5")
    )
    side.send()


def policies_of_the_route(side: Side) -> None:
    """a block of if_id 0 comes before the interface, and a transform of if_id 0 instead of its own"""
    side.interface("x5", 5)
    side.route("x5")
    side.ip(state(True, 5, "if_id 5"), policy(True, 5, "if_id 5"))
    side.ip(policy(True, 0, "action block"))
    side.send()
    side.ip("policy flush", policy(True, 5, "if_id 5"), policy(True, 0))
    side.send()


def loop(side: Side) -> None:
    """outer packets that are routed to the interface again"""
    far = (OUTER[0], "10.5.0.1")
    side.interface("x5", 5, link=False)
    side.route("x5")
    side.route_outer("10.5.0.1", "x5")
    side.ip(state(True, 5, "if_id 5", far), policy(True, 5, "if_id 5", ends=far))
    side.send(count=2)


def too_big(side: Side) -> None:
    """with DF more than the states leave is not sent, without it fragments are; 1280 bytes of IPv6 always"""
    side.interface("x5", 5)
    side.route("x5")
    side.ip(state(True, 5, "if_id 5"), *(policy(True, 5, "if_id 5", family) for family in (4, 6)))
    for size in (1418, 1419, 1472):
        side.send(size=size)
    for size in (1418, 1419, 1420, 1472):
        side.send(size=size, df=True)
    for size in (1398, 1399, 1452):
        side.send(6, size=size)


def outside_ipv6(side: Side) -> None:
    """both families in IPv6: out, in, too big"""
    side.interface("x5", 5)
    side.route("x5")
    side.ip(*(state(outwards, 5, "if_id 5", OUTER6) for outwards in (True, False)))
    for family in (4, 6):
        side.ip(*(policy(outwards, 5, "if_id 5", family, OUTER6) for outwards in (True, False)))
    for family, headers in ((4, 28), (6, 48)):
        side.send(family)
        side.receive(*from_peer(5, family, ends=OUTER6))
        for size in (1426, 1427):
            side.send(family, size=size - headers, df=True)


def smaller_than_ipv6(side: Side) -> None:
    """a link with an MTU of 1300, where no IPv6 packet goes through whole that must"""
    side.mtu(1300)
    side.interface("x5", 5)
    side.route("x5")
    side.ip(state(True, 5, "if_id 5"), *(policy(True, 5, "if_id 5", family) for family in (4, 6)))
    for size in (1198, 1233):
        side.send(6, size=size)
    for size in (1218, 1219, 1233):
        side.send(size=size, df=True)


def transport_mode(side: Side) -> None:
    """without a tunnel there is no other route than that to the interface"""
    ends = INNER[4][:2]
    side.interface("x5", 5)
    side.route("x5")
    side.ip(
        state(True, 5, "if_id 5 mode transport", ends),
        policy(True, 5, "if_id 5", ends=ends).replace("mode tunnel", "mode transport"),
    )
    side.send()


def forwarding(side: Side) -> None:
    """a neighbour's packets, both ways; it is told of the MTU where they are too big"""
    side.interface("x5", 5)
    side.route("x5")
    side.ip(state(True, 5, "if_id 5"), state(False, 6, "if_id 5"))
    for family, neighbour in NEIGHBOUR.items():
        side.ip(
            policy(True, 5, "if_id 5", family, here=neighbour),
            policy(False, 6, "if_id 5", family, here=neighbour).replace("dir in", "dir fwd"),
        )
        side.forward(family)
        side.receive(*from_peer(6, family, to=neighbour))
    side.ip("policy flush")
    side.forward()
    side.receive(*from_peer(6, to=NEIGHBOUR[4]))
    side.ip(*(policy(True, 5, "if_id 5", family, here=NEIGHBOUR[family]) for family in (4, 6)))
    for size in (1419, 1472):
        side.forward(size=size)
        side.forward(size=size, df=True)
    for size in (1398, 1399, 1452):
        side.forward(6, size)


def arriving(side: Side) -> None:
    """no policy of the if_id, one that wants another state, an interface that is down, none at all"""
    side.interface("x5", 5)
    side.ip(*(state(False, n, f"if_id {n}") for n in (5, 6, 7)))
    side.ip(policy(False, 5))
    side.receive(*from_peer(5))
    side.ip("policy flush", policy(False, 6, "if_id 5"))
    side.receive(*from_peer(5))
    side.ip("policy flush", policy(False, 5, "if_id 5"))
    side.receive(*from_peer(5))
    side.receive(*from_peer(6))
    side.ip("policy flush", policy(False, 6))
    side.receive(*from_peer(6))
    side.ip("policy flush", policy(False, 5, "if_id 5"), policy(False, 5))
    side.set_up("x5", False)
    side.receive(*from_peer(5))
    side.set_up("x5", True)
    side.receive(*from_peer(5))


def metadata(side: Side) -> None:
    """one interface with collect_md for all: routes name the if_id, arriving packets bring theirs"""
    side.interface("xe", external=True)
    for if_id in (5, 6):
        side.ip(state(True, if_id, f"if_id {if_id}"), state(False, if_id, f"if_id {if_id}"))
        side.ip(policy(True, if_id, f"if_id {if_id}"), policy(False, if_id, f"if_id {if_id}"))
    for if_id in (5, 6, 7):
        side.route("xe", if_id)
        side.send()
    for spi in (5, 6):
        side.receive(*from_peer(spi))
    side.interface("x5", 5)
    for spi in (5, 6):
        side.receive(*from_peer(spi))


def without_metadata(side: Side) -> None:
    """an interface with collect_md to which a route sends without an if_id"""
    side.interface("xe", external=True)
    side.ip(state(True, 5, "if_id 5"), policy(True, 5, "if_id 5"))
    side.route("xe")
    side.send()


def directions(side: Side) -> None:
    """states that are declared for the other direction, and with the right one"""
    side.interface("x5", 5)
    side.route("x5")
    side.ip(state(True, 5, "if_id 5 dir in replay-window 32"), policy(True, 5, "if_id 5"))
    side.send(count=2)
    side.ip("state flush", state(True, 5, "if_id 5 dir out"))
    side.send()
    side.ip(state(False, 6, "if_id 5 dir out"), policy(False, 6, "if_id 5"))
    side.receive(*from_peer(6))
    side.ip("state flush", state(False, 6, "if_id 5 dir in replay-window 32"))
    side.receive(*from_peer(6))


def damaged(side: Side) -> None:
    """a wrong ICV on an interface"""
    side.interface("x5", 5)
    side.ip(state(False, 5, "if_id 5"), policy(False, 5, "if_id 5"))
    (packet,) = from_peer(5)
    side.receive(packet[:-1] + bytes([packet[-1] ^ 1]))
    side.receive(packet)


SHOWS = {
    both_ways: ["SPI 0x5", "SPI 0x6", "received of x5 2", "received of x6 1", "sent of x6 2", "in 1"],
    without_states: [
        "carrier errors of x5 1",
        "carrier errors of x5 2",
        "XfrmOutNoStates",
        "XfrmOutPolBlock",
    ],
    policies_of_the_route: ["XfrmOutPolBlock", "refused"],
    loop: ["collisions of x5 2"],
    too_big: ["to 10.0.0.1, 1500 bytes", "to 10.0.0.1, 1504 bytes"],
    outside_ipv6: ["wire: ESP", "to fd00::1, 1500 bytes", "received of x5 1"],
    smaller_than_ipv6: ["wire:"],
    transport_mode: ["collisions of x5 1"],
    forwarding: ["clear to 10.6.0.9", "MTU 1446 to 10.6.0.9", "MTU 1446 to fd06::9", "XfrmInNoPols"],
    arriving: ["XfrmInNoPols 1", "XfrmInTmplMismatch 1", "received of x5 1", "in 0"],
    metadata: ["sent of xe 1", "carrier errors of xe 1", "received of xe 1", "received of x5 1"],
    without_metadata: [],
    directions: ["XfrmOutStateDirError 2", "XfrmInStateDirError 1", "delivered: b'in 0'"],
    damaged: ["XfrmInStateProtoError 1", "delivered: b'in 0'"],
}


@pytest.fixture
def linux(guest612: LinuxGuest) -> Iterator[LinuxSide]:
    side = LinuxSide(guest612)
    yield side
    side.close()


@pytest.mark.parametrize("scenario", SHOWS, ids=lambda scenario: scenario.__name__)
def test_uxfrm_fares_as_linux_6_12(linux: LinuxSide, scenario: Scenario) -> None:
    scenario(linux)
    theirs = linux.transcript
    missing = [text for text in SHOWS[scenario] if not any(text in line for line in theirs)]
    side = UxfrmSide()
    scenario(side)
    different = list(difflib.unified_diff(theirs, side.transcript, "Linux", "uxfrm", n=6, lineterm=""))
    assert not different, "\n".join(different)
    assert not missing, "\n".join([*missing, *theirs])
