"""Plans are consistent: what they say of one node fits what they say of the others."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from uxfrm.lab.plan import Plan, two_gateways, two_hosts

PLANS = pytest.mark.parametrize("plan", [two_hosts(), two_gateways(), two_gateways(1400, nat=True)])


@PLANS
def test_the_ends_of_a_link_are_neighbours(plan: Plan) -> None:
    for link in plan.links:
        left, right = ({ip_interface(text).network for text in end.addresses} for end in link.ends)
        assert left == right
        assert not {*link.ends[0].addresses} & {*link.ends[1].addresses}


@PLANS
def test_every_route_is_through_a_neighbour_that_forwards(plan: Plan) -> None:
    owner = {
        ip_interface(text).ip: (end.node, ip_interface(text).network)
        for link in plan.links
        for end in link.ends
        for text in end.addresses
    }
    for route in plan.routes:
        neighbour, network = owner[ip_address(route.via)]
        assert plan.forwards(neighbour)
        own = (ip_interface(t).network for i in plan.interfaces(route.node).values() for t in i.addresses)
        assert network in own


def test_a_host_is_in_its_network() -> None:
    plan = two_gateways()
    for host in plan.hosts:
        for family in (4, 6):
            assert ip_address(plan.address(host, family)) in ip_network(plan.network(host, family))
