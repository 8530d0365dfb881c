"""Devices: xfrm interfaces as routing targets and on input, loopback, disable_xfrm, disable_policy.

Errors and their words are those of Linux's rtnetlink (net/xfrm/xfrm_interface_core.c).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP

from test_namespace import INSIDE, B, datagram, moved, namespace, outcomes, policy, state, template
from uxfrm.datapath.batch import Batch
from uxfrm.explain.report import OUT as OUTWARDS
from uxfrm.explain.report import Part, Reporter, heads_of
from uxfrm.model.device import XfrmInterface
from uxfrm.model.error import XfrmError
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Action, DefaultAction, Direction
from uxfrm.namespace import Namespace

LO, ETH0, ETH1, IPSEC0, IPSEC1 = 1, 2, 3, 10, 11
EXTERNAL = XfrmInterface(collect_md=True)


def router(*if_ids: int) -> Namespace:
    """Both ends at once: for each if_id a state and policies, and an interface."""
    made = namespace()
    for n, if_id in enumerate(if_ids):
        made.add_state(state(spi=0x1000 + n, reqid=1 + n, if_id=if_id))
        for direction in (Direction.OUT, Direction.IN):
            made.add_policy(policy(direction, template(reqid=1 + n), if_id=if_id))
        made.add_interface(IPSEC0 + n, f"ipsec{n}", XfrmInterface(if_id))
    return made


def out(ns: Namespace, ifindex: int, count: int = 1, if_id: int = 0, link: int = 0) -> Batch:
    batch = Batch.pack([datagram()] * count, ifindex=ifindex)
    batch.packets["if_id"], batch.packets["link"] = if_id, link
    ns.output(batch)
    return batch


def into(ns: Namespace, sent: Batch, ifindex: int = ETH0) -> Batch:
    batch = Batch.pack([sent.packet(i) for i in range(len(sent))], ifindex=ifindex)
    ns.input(batch)
    return batch


def words(attempt: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(XfrmError) as caught:
        attempt()
    return caught.value.name, caught.value.text


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        (XfrmInterface(0), ("EINVAL", "if_id must be non zero")),
        (XfrmInterface(5), ("EEXIST", "")),
        (XfrmInterface(5, link=ETH1), ("EEXIST", "")),
        (XfrmInterface(6, collect_md=True), ("EINVAL", "link and if_id must be zero")),
        (XfrmInterface(link=ETH0, collect_md=True), ("EINVAL", "link and if_id must be zero")),
        (EXTERNAL, ("EEXIST", "")),
        (XfrmInterface(6, mtu=67), ("EINVAL", "mtu less than device minimum")),
        (XfrmInterface(6, mtu=65536), ("EINVAL", "mtu greater than device maximum")),
    ],
)
def test_an_interface_that_cannot_be_is_refused_as_rtnetlink_does(
    wanted: XfrmInterface, answer: tuple[str, str]
) -> None:
    ns = namespace()
    ns.add_interface(IPSEC0, "ipsec0", XfrmInterface(5))
    ns.add_interface(IPSEC1, "external", EXTERNAL)
    assert words(lambda: ns.add_interface(20, "new", wanted)) == answer


def test_an_interface_changes_its_if_id_and_nothing_else() -> None:
    ns = router(5, 6)
    change = ns.devices.change
    assert words(lambda: change(IPSEC0, XfrmInterface(0))) == ("EINVAL", "if_id must be non zero")
    assert words(lambda: change(IPSEC0, XfrmInterface(6))) == ("EEXIST", "")
    assert words(lambda: change(IPSEC0, XfrmInterface(7, link=ETH0))) == ("EINVAL", "")
    collecting = XfrmInterface(7, collect_md=True)
    assert words(lambda: change(IPSEC0, collecting)) == ("EINVAL", "collect_md can't be changed")
    assert outcomes(out(ns, IPSEC0)) == [Outcome.SENT]
    change(IPSEC0, XfrmInterface(7))
    assert outcomes(out(ns, IPSEC0)) == [Outcome.OUT_CARRIER]
    ns.add_interface(20, "again", XfrmInterface(5))
    assert outcomes(out(ns, 20)) == [Outcome.SENT]


def test_the_same_flow_takes_the_states_of_the_interface_it_is_routed_to() -> None:
    ns = router(5, 6)
    for _ in range(2):
        assert [out(ns, i).packets["spi"][0] for i in (IPSEC0, IPSEC1)] == [0x1000, 0x1001]
    assert outcomes(out(ns, ETH0)) == [Outcome.CLEAR]


def test_what_the_policies_of_the_route_drop_never_reaches_the_interface() -> None:
    ns = router(5)
    ns.add_policy(policy(Direction.OUT, action=Action.BLOCK))
    assert outcomes(out(ns, IPSEC0)) == [Outcome.OUT_POLICY_BLOCK]
    ns.set_sysctl("net.ipv4.conf.ipsec0.disable_xfrm", 1)
    assert outcomes(out(ns, IPSEC0)) == [Outcome.SENT]


def test_without_a_transform_the_carrier_is_lost_and_no_counter_moves() -> None:
    ns = namespace()
    ns.add_interface(IPSEC0, "ipsec0", XfrmInterface(5))
    assert outcomes(out(ns, IPSEC0)) == [Outcome.OUT_CARRIER]
    assert moved(ns) == {}


def test_packets_do_not_wait_behind_an_interface() -> None:
    ns = namespace(policy(Direction.OUT, template(), if_id=5))
    ns.add_interface(IPSEC0, "ipsec0", XfrmInterface(5))
    ns.set_sysctl("net.core.xfrm_larval_drop", 0)
    assert outcomes(out(ns, IPSEC0)) == [Outcome.OUT_NO_STATE]
    assert moved(ns) == {"XfrmOutNoStates": 1}


def test_an_outer_packet_that_goes_to_the_interface_again_is_a_loop() -> None:
    ns = router(5)
    ns.path.device_of = lambda address: IPSEC0 if address == B else None
    assert outcomes(out(ns, IPSEC0)) == [Outcome.OUT_ROUTING_LOOP]
    assert moved(ns) == {}


def test_selectors_see_the_link_of_an_interface() -> None:
    ns = namespace(state(if_id=5))
    wanted = replace(INSIDE, ifindex=ETH1)
    ns.add_policy(policy(Direction.OUT, template(), selector=wanted, if_id=5))
    ns.add_interface(IPSEC0, "ipsec0", XfrmInterface(5, link=ETH0))
    assert outcomes(out(ns, IPSEC0)) == [Outcome.OUT_CARRIER]
    ns.devices.delete(IPSEC0)
    ns.add_interface(IPSEC0, "ipsec0", XfrmInterface(5, link=ETH1))
    assert outcomes(out(ns, IPSEC0)) == [Outcome.SENT]


def test_metadata_names_the_interface_id_packet_by_packet() -> None:
    ns = router(5, 6)
    ns.add_interface(20, "external", EXTERNAL)
    sent = [out(ns, 20, if_id=if_id, link=ETH0) for if_id in (5, 6, 7, 0)]
    assert [batch.packets["spi"][0] for batch in sent[:2]] == [0x1000, 0x1001]
    assert [outcomes(batch) for batch in sent[2:]] == [[Outcome.OUT_CARRIER], [Outcome.OUT_NO_METADATA]]


def test_what_the_states_leave_no_room_for_is_told_and_not_counted() -> None:
    """GCM-128 in tunnel mode leaves 1446 of 1500 bytes (UML)."""
    ns = router(5)
    ns.set_mtu(1500)
    sizes = (1446, 1447)
    packets = [datagram(size - 28, flags=flags) for size in sizes for flags in ("DF", "")]
    batch = Batch.pack(packets, ifindex=IPSEC0)
    ns.output(batch)
    refused = Outcome.OUT_INTERFACE_TOO_BIG
    whole, cut, told = Outcome.SENT, Outcome.OUT_FRAGMENTED, Outcome.ICMP_TOO_BIG
    assert outcomes(batch)[:4] == [whole, whole, refused, cut]
    assert outcomes(batch)[4:] == [whole, whole, told]
    answer = IP(batch.packet(6))
    assert (answer.dst, answer[ICMP].nexthopmtu) == ("10.1.0.5", 1446)
    assert moved(ns) == {}


def test_opened_packets_appear_on_the_interface_of_their_state() -> None:
    ns = router(5, 6)
    for ifindex in (IPSEC0, IPSEC1):
        got = into(ns, out(ns, ifindex, 3))
        assert outcomes(got) == [Outcome.DELIVERED] * 3
        assert got.packets["ifindex"].tolist() == [ifindex] * 3


def test_an_interface_that_is_down_or_gone_gets_nothing() -> None:
    """Then policies of if_id 0 are asked, of which there are none."""
    ns = router(5)
    sent = out(ns, IPSEC0, 2)
    ns.devices.set_up(IPSEC0, False)
    first = into(ns, sent.select(0, 1))
    assert (outcomes(first), first.packets["ifindex"].tolist()) == ([Outcome.IN_NO_POLICY], [ETH0])
    ns.devices.set_up(IPSEC0, True)
    assert outcomes(into(ns, sent.select(1, 2))) == [Outcome.DELIVERED]


def test_an_interface_with_collect_md_takes_what_has_no_other_and_notes_whence() -> None:
    ns = router(5)
    ns.add_interface(20, "external", EXTERNAL)
    sent = out(ns, IPSEC0)
    ns.devices.delete(IPSEC0)
    got = into(ns, sent)
    assert outcomes(got) == [Outcome.DELIVERED]
    assert [int(got.packets[name][0]) for name in ("ifindex", "if_id", "link")] == [20, 5, ETH0]


def test_disable_policy_of_the_receiving_device_skips_the_check() -> None:
    ns = namespace(state(), policy(Direction.OUT, template()))
    ns.add_device(ETH0, "eth0.7")
    sent = out(ns, ETH1, 2)
    assert outcomes(into(ns, sent.select(0, 1))) == [Outcome.IN_NO_POLICY]
    ns.set_sysctl("net.ipv4.conf.eth0/7.disable_policy", 1)
    assert outcomes(into(ns, sent.select(1, 2))) == [Outcome.DELIVERED_UNCHECKED]


@pytest.mark.parametrize("device", ["eth0", "all"])
def test_disable_xfrm_sends_in_clear_but_a_default_block_holds(device: str) -> None:
    ns = namespace(state(), policy(Direction.OUT, template()))
    ns.add_device(ETH0, "eth0")
    assert outcomes(out(ns, ETH0)) == [Outcome.SENT]
    ns.set_sysctl(f"net.ipv4.conf.{device}.disable_xfrm", "1")
    assert outcomes(out(ns, ETH0)) == [Outcome.CLEAR]
    ns.set_default(out=DefaultAction.BLOCK)
    assert outcomes(out(ns, ETH0)) == [Outcome.OUT_DEFAULT_BLOCK]


def test_loopback_is_exempt_from_the_start() -> None:
    ns = namespace(state(), policy(Direction.OUT, template()))
    ns.add_device(LO, "lo", loopback=True)
    assert outcomes(out(ns, LO)) == [Outcome.CLEAR]
    ns.set_default(out=DefaultAction.BLOCK)
    assert outcomes(out(ns, LO)) == [Outcome.CLEAR]
    names = ("ipv4.conf.lo.disable_xfrm", "ipv4.conf.lo.disable_policy", "ipv6.conf.lo.disable_policy")
    assert [ns.sysctl(f"net.{name}") for name in names] == [1, 1, 0]


def test_new_devices_take_the_default_and_unknown_ones_have_no_sysctls() -> None:
    ns = namespace()
    ns.set_sysctl("net.ipv4.conf.default.disable_policy", 1)
    ns.add_device(ETH0, "eth0")
    assert ns.sysctl("net.ipv4.conf.eth0.disable_policy") == 1
    for name in ("net.ipv4.conf.eth1.disable_policy", "net.ipv6.conf.eth0.disable_xfrm"):
        assert words(lambda name=name: ns.sysctl(name)) == ("ENOENT", "")  # type: ignore[misc]


def test_explain_names_the_interface() -> None:
    ns = router(5)
    batch = Batch.pack([datagram()], ifindex=IPSEC0)
    heads, numbers = heads_of(batch), batch.packets["offset"] * 0
    ns.output(batch)
    (report,) = Reporter(ns.path).reports(Part(batch, heads, numbers, numbers, OUTWARDS))
    assert report.reason == "protected as the policy asks (on ipsec0)"
