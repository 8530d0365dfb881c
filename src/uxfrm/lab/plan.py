"""What a lab consists of, as data: nodes, links, addresses, routes. Two plans are ready made.

Addresses are of the ranges for documentation (RFC 5737, RFC 3849) and for private networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_interface

ROUTER = "router"


@dataclass(frozen=True, slots=True)
class Interface:
    """One end of a link: its node, its name there, its addresses with prefix lengths."""

    node: str
    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """A veth pair."""

    ends: tuple[Interface, Interface]
    mtu: int = 1500


@dataclass(frozen=True, slots=True)
class Route:
    """A node's route to a prefix, or to everything ("default"), through a neighbour."""

    node: str
    to: str
    via: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A network. `ends` are the nodes between which IPsec is to be, `hosts` those that have something to say.

    `masquerade` names the router's interfaces whose outgoing IPv4 packets get the router's own address.
    """

    links: tuple[Link, ...]
    routes: tuple[Route, ...]
    ends: tuple[str, str]
    hosts: tuple[str, str]
    masquerade: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes, each once."""
        return tuple(dict.fromkeys(end.node for link in self.links for end in link.ends))

    def forwards(self, node: str) -> bool:
        """True for routers and gateways: nodes with more than one interface."""
        return sum(end.node == node for link in self.links for end in link.ends) > 1

    def interfaces(self, node: str) -> dict[str, Interface]:
        """A node's interfaces by name."""
        ends = (end for link in self.links for end in link.ends)
        return {end.name: end for end in ends if end.node == node}

    def address(self, node: str, family: int = 4) -> str:
        """The address by which others know a node: that of its interface nearest to the router."""
        found = (ip_interface(text).ip for text in self.interfaces(node)["eth0"].addresses)
        return next(str(address) for address in found if address.version == family)

    def network(self, node: str, family: int = 4) -> str:
        """The prefix of a host's own network."""
        found = (ip_interface(text).network for text in self.interfaces(node)["eth0"].addresses)
        return next(str(prefix) for prefix in found if prefix.version == family)


def _wan(node: str, side: str, ipv4: str, mtu: int) -> Link:
    """The link of a node to the router."""
    outer = Interface(node, "eth0", (f"{ipv4}.2/24", f"2001:db8:{side}::2/64"))
    return Link((outer, Interface(ROUTER, f"to-{side}", (f"{ipv4}.1/24", f"2001:db8:{side}::1/64"))), mtu)


def _lan(side: str, number: int) -> Link:
    """A host's link to its gateway."""
    host = Interface(side, "eth0", (f"10.{number}.0.2/24", f"fd00:{number}::2/64"))
    return Link((host, Interface(f"g{side}", "lan", (f"10.{number}.0.1/24", f"fd00:{number}::1/64"))))


def _outwards(node: str, ipv4: str, ipv6: str) -> tuple[Route, ...]:
    return Route(node, "default", f"{ipv4}.1"), Route(node, "::/0", f"{ipv6}::1")


_IPV4 = {"a": "192.0.2", "b": "198.51.100"}


def two_hosts(mtu: int = 1500, nat: bool = False) -> Plan:
    """a - router - b. `mtu` is that of the router's link to b; with `nat` b sees the router in a's place."""
    links = _wan("a", "a", _IPV4["a"], 1500), _wan("b", "b", _IPV4["b"], mtu)
    routes = tuple(r for side in "ab" for r in _outwards(side, _IPV4[side], f"2001:db8:{side}"))
    return Plan(links, routes, ("a", "b"), ("a", "b"), ("to-b",) if nat else ())


def two_gateways(mtu: int = 1500, nat: bool = False) -> Plan:
    """a - ga - router - gb - b. `mtu` is that of the router's link to gb; with `nat` ga is behind NAT.

    The router knows the way to the hosts' networks: what is not protected arrives all the same, and is seen.
    """
    links = (
        _lan("a", 1),
        _wan("ga", "a", _IPV4["a"], 1500),
        _wan("gb", "b", _IPV4["b"], mtu),
        _lan("b", 2),
    )
    routes: tuple[Route, ...] = ()
    for number, side in enumerate("ab", 1):
        routes += _outwards(side, f"10.{number}.0", f"fd00:{number}")
        routes += _outwards(f"g{side}", _IPV4[side], f"2001:db8:{side}")
        routes += (
            Route(ROUTER, f"10.{number}.0.0/24", f"{_IPV4[side]}.2"),
            Route(ROUTER, f"fd00:{number}::/64", f"2001:db8:{side}::2"),
        )
    return Plan(links, routes, ("ga", "gb"), ("a", "b"), ("to-b",) if nat else ())
