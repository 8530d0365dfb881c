"""IP-TFS through two gateways: what a host sends arrives in its order, what was kept when time has passed."""

from __future__ import annotations

from aggfrag import NOW, end, header, ipv4, ipv6, sealed
from daemon.test_gateway import Side, put, took


def test_what_shares_packets_arrives_one_by_one() -> None:
    left, right = Side(end("out")), Side(end("in"))
    sent = [*(ipv4(n, 60) for n in range(30)), ipv4(30, 1500), ipv6(31, 900)]
    put(left.host, *sent)
    left.turn(NOW)
    outer = took(left.network)
    assert len(outer) == 4
    put(right.network, *outer)
    right.turn(NOW)
    assert took(right.host) == sent


def test_what_waits_for_the_initial_delay_leaves_with_time() -> None:
    left = Side(end("out", "iptfs-opts init-delay 1000"))
    put(left.host, ipv4(1, 60))
    left.turn(NOW)
    assert took(left.network) == []
    left.turn(NOW + 1)
    assert len(took(left.network)) == 1


def test_what_waits_for_those_before_it_is_let_in_with_time() -> None:
    right = Side(end("in"))
    put(right.network, *(sealed(n, header() + ipv4(n, 60)) for n in (1, 3)))
    right.turn(NOW)
    assert took(right.host) == [ipv4(1, 60)]
    right.gateway.pass_time(NOW + 2)
    assert took(right.host) == [ipv4(3, 60)]
