"""The host's traffic is led through a TUN device: routes and rules of the kernel that follow the policies.

Out: whatever some policy may want is routed into the device, by destination alone. A source is chosen only
after a route is looked up, and fragments have no ports: rules that asked for them would let packets by. What
no policy wants after all comes back in clear. In: see `screen`.

Rule 1: a change is in force before whoever asked for it has the answer.
Rule 2: nothing opens by itself. What an earlier daemon protected and no policy has named yet stays closed;
        when this one stops, or dies, everything does. `open_all` opens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from uxfrm.attach import routes, rules
from uxfrm.attach.attachment import AttachmentError
from uxfrm.attach.routes import Routes
from uxfrm.attach.tun import Tun
from uxfrm.daemon import logs, screen
from uxfrm.daemon.privileges import Capability
from uxfrm.daemon.surroundings import Surroundings
from uxfrm.model.address import Address, masked, parse, show
from uxfrm.model.policy import Action, DefaultAction, Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.tables.policies import PolicyTable

_ANYWHERE = {"0.0.0.0/0": "1.0.0.1", "::/0": "2000::1"}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the kernel is to do: prefixes with the sources of packets to them, closed prefixes, rules."""

    sources: dict[str, str | None]
    closed: frozenset[str]
    rules: str


class Detour:
    """Routes and rules for one device and one namespace's policies. Raises AttachmentError."""

    rights_to_follow = frozenset({Capability.NET_ADMIN})

    def __init__(self, policies: PolicyTable, tun: Tun, surroundings: Surroundings) -> None:
        self._policies = policies
        self._tun = tun
        self._surroundings = surroundings
        self._routes = Routes(tun.ifindex)
        self._closed = frozenset(surroundings.ask(self._routes.left))
        self._done: _Wanted | None = None
        self._seen: object = None
        self.follow()

    def follow(self, again: bool = False) -> None:
        """Do what the policies say now; `again` where the sources may be others. Raises AttachmentError."""
        version = (self._policies.generation, tuple(self._policies.default))
        if version == self._seen and not again:
            return
        wanted = self._wanted()
        if wanted != self._done:
            self._surroundings.ask(lambda: self._enforce(wanted))
            self._done, self._closed = wanted, wanted.closed
        self._seen = version

    def _enforce(self, wanted: _Wanted) -> None:
        """What goes out and what comes in: one does not wait for the other to succeed."""
        sources = {prefix: source for prefix, source in wanted.sources.items() if source is not None}
        try:
            self._routes.replace(wanted.sources, sources=sources, closed=wanted.closed)
        finally:
            if self._done is None or self._done.rules != wanted.rules:
                screen.install(wanted.rules)

    def _wanted(self) -> _Wanted:
        configs = sorted(
            (policy.config for policy in reversed(list(self._policies.dump()))),
            key=lambda config: (-int(config.type), config.priority),
        )
        default = self._policies.default
        prefixes = {prefix for config in configs for prefix in _prefixes(config)}
        if default[Direction.OUT] == DefaultAction.BLOCK:
            prefixes |= {*_ANYWHERE}
        closed = self._closed - prefixes
        blocked = [d for d in (Direction.IN, Direction.FWD) if default[d] == DefaultAction.BLOCK]
        rules = screen.ruleset(self._tun.name, configs, blocked, sorted(closed))
        return _Wanted({prefix: self._source(prefix) for prefix in sorted(prefixes)}, closed, rules)

    def _source(self, prefix: str) -> str | None:
        """The source that the host's packets to a prefix would get without uxfrm."""
        found = self._surroundings.source(_inside(prefix))
        return None if found is None or ip_address(found).is_loopback else show(found)


def _prefixes(config: PolicyConfig) -> Iterator[str]:
    """To where a policy may want something to happen to packets."""
    if config.direction != Direction.OUT or config.if_id:
        return
    if config.action == Action.BLOCK or config.templates:
        yield _destination(config.selector)


def _inside(prefix: str) -> Address:
    """An address of a prefix; of the default route's one that is nobody's in particular."""
    if prefix in _ANYWHERE:
        return parse(_ANYWHERE[prefix])
    network = ip_network(prefix)
    return network[min(1, network.num_addresses - 1)].packed


def _destination(selector: Selector) -> str:
    return str(ip_network((masked(selector.daddr, selector.prefixlen_d), selector.prefixlen_d)))


def open_all() -> None:
    """Let traffic go as it would without uxfrm, whatever daemon led it here."""
    routes.remove()
    rules.remove()
    try:
        screen.remove()
    except AttachmentError as error:
        logs.warning("rules not removed", why=str(error))
