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
from ipaddress import ip_address, ip_network

from uxfrm.attach import routes, rules
from uxfrm.attach.attachment import AttachmentError
from uxfrm.attach.routes import Routes
from uxfrm.attach.tun import Tun
from uxfrm.daemon import logs, screen
from uxfrm.daemon.following import Following
from uxfrm.daemon.privileges import Capability
from uxfrm.daemon.screen import Entry, Screen, entries, shut
from uxfrm.daemon.surroundings import Surroundings
from uxfrm.model.address import Address, masked, parse, show
from uxfrm.model.policy import Action, DefaultAction, Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.tables.policies import Policy, PolicyTable

_ANYWHERE = {"0.0.0.0/0": "1.0.0.1", "::/0": "2000::1"}


class Detour:
    """Routes and rules for one device and one namespace's policies. Raises AttachmentError."""

    rights_to_follow = frozenset({Capability.NET_ADMIN})

    def __init__(self, policies: PolicyTable, tun: Tun, surroundings: Surroundings) -> None:
        self._policies = policies
        self._surroundings = surroundings
        self._following: Following[str | Entry] = Following(policies, _wants)
        self._routes = Routes(tun.ifindex)
        self._screen = Screen(tun.name)
        self._closed = frozenset(surroundings.ask(self._routes.left))
        self._screen.close(self._closed)
        self._sources: dict[str, str | None] = {}
        self._sure = False  # whether the routes are those of the sources
        self._seen: object = None
        self.follow()

    def follow(self, again: bool = False) -> None:
        """Do what the policies say now; `again` where the sources may be others. Raises AttachmentError."""
        version = (self._policies.generation, tuple(self._policies.default))
        if version == self._seen and not again:
            return
        came, gone = self._following.changes()
        closed = self._closed
        try:
            self._lead(_prefixes_of(came), _prefixes_of(gone), again)
        finally:  # what comes in does not wait for what goes out to succeed
            opened = [entry for prefix in closed - self._closed for entry in shut(prefix)]
            self._turn_away(_entries_of(came), _entries_of(gone) + opened)
        self._seen = version

    def _lead(self, came: list[str], gone: list[str], again: bool) -> None:
        """Have routes for what policies want, with the sources of now."""
        anywhere = set(_ANYWHERE) - self._following.all()
        if self._policies.default[Direction.OUT] == DefaultAction.BLOCK:
            came += anywhere - self._sources.keys()
            gone = [prefix for prefix in gone if prefix not in anywhere]
        else:
            gone = [*{*gone, *(anywhere & self._sources.keys())}]
        asked = [*came, *(self._sources.keys() - gone)] if again else came
        sources = {prefix: self._source(prefix) for prefix in asked}
        others = {prefix: source for prefix, source in sources.items() if self._differs(prefix, source)}
        self._closed -= others.keys()
        self._sources.update(others)
        for prefix in gone:
            del self._sources[prefix]
        if self._sure and (others or gone):
            self._sure = False
            self._surroundings.ask(lambda: self._routes.change(others, gone))
        elif not self._sure:
            known = {prefix: source for prefix, source in self._sources.items() if source is not None}
            everything = [*self._sources]
            self._surroundings.ask(
                lambda: self._routes.replace(everything, sources=known, closed=self._closed)
            )
        self._sure = True

    def _differs(self, prefix: str, source: str | None) -> bool:
        return prefix not in self._sources or self._sources[prefix] != source

    def _turn_away(self, came: list[Entry], gone: list[Entry]) -> None:
        default = self._policies.default
        blocked = [d for d in (Direction.IN, Direction.FWD) if default[d] == DefaultAction.BLOCK]
        self._surroundings.ask(lambda: self._screen.change(came, gone, blocked))

    def _source(self, prefix: str) -> str | None:
        """The source that the host's packets to a prefix would get without uxfrm."""
        found = self._surroundings.source(_inside(prefix))
        return None if found is None or ip_address(found).is_loopback else show(found)


def _wants(policy: Policy) -> Iterator[str | Entry]:
    """Prefixes to be led into the device, and what is to be turned away."""
    yield from _prefixes(policy.config)
    yield from entries(policy)


def _prefixes_of(wants: list[str | Entry]) -> list[str]:
    return [want for want in wants if isinstance(want, str)]


def _entries_of(wants: list[str | Entry]) -> list[Entry]:
    return [want for want in wants if isinstance(want, Entry)]


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
