"""Commands carried out on states and policies, wherever they are: what `ip xfrm` does, and what it prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any, Protocol

from uxfrm.iproute2 import names, requests
from uxfrm.iproute2.output import NameOf, show_policy, show_state, unnamed
from uxfrm.iproute2.requests import Command
from uxfrm.model.counts import SadInfo, SpdInfo, Thresholds
from uxfrm.model.dump import LarvalConfig, PolicyDump, PolicyId, StateDump, StateId
from uxfrm.model.error import XfrmError
from uxfrm.model.policy import PolicyConfig, PolicyType
from uxfrm.model.state import StateConfig


class Tables(Protocol):
    """What has states and policies: a Namespace, or a netlink.Client of one. Methods raise XfrmError."""

    def add_state(self, config: StateConfig) -> object: ...
    def update_state(self, config: StateConfig) -> object: ...
    def delete_state(self, identity: StateId) -> object: ...
    def get_state(self, identity: StateId) -> StateDump: ...
    def alloc_spi(self, wanted: LarvalConfig, low: int, high: int) -> StateDump: ...
    def dump_states(self) -> Iterator[StateDump]: ...
    def flush_states(self, proto: int = 0) -> object: ...
    def sad_info(self) -> SadInfo: ...
    def add_policy(self, config: PolicyConfig) -> object: ...
    def update_policy(self, config: PolicyConfig) -> object: ...
    def delete_policy(self, identity: PolicyId) -> object: ...
    def get_policy(self, identity: PolicyId) -> PolicyDump: ...
    def dump_policies(self) -> Iterator[PolicyDump]: ...
    def flush_policies(self, type: PolicyType | int = PolicyType.MAIN) -> object: ...
    def set_default(self, in_: int = 0, fwd: int = 0, out: int = 0) -> object: ...
    def get_default(self) -> tuple[int, int, int]: ...
    def set_thresholds(self, ipv4: Thresholds | None = None, ipv6: Thresholds | None = None) -> object: ...
    def get_thresholds(self) -> tuple[Thresholds, Thresholds]: ...
    def spd_info(self) -> SpdInfo: ...


@dataclass(frozen=True, slots=True)
class _Run:
    """The tables, and how they are shown."""

    ns: Tables
    statistics: int
    zone: tzinfo | None
    name_of: NameOf

    def states(self, dumps: list[StateDump], nokeys: bool = False) -> str:
        return "".join(show_state(d, bool(self.statistics), nokeys, self.zone, self.name_of) for d in dumps)


def execute(
    command: Command,
    tables: Tables,
    statistics: int = 0,
    zone: tzinfo | None = None,
    name_of: NameOf = unnamed,
) -> str:
    """Do `command`; return what `ip` prints (`statistics`: how many -s). Raises the tables' XfrmError.

    KeyError for a command that only a Namespace can do (RestoreState, RestorePolicy).
    """
    return _ACTIONS[type(command)](command, _Run(tables, statistics, zone, name_of))


def _silent(do: Callable[[Any, Tables], object]) -> Callable[[Any, _Run], str]:
    def act(command: Any, run: _Run) -> str:
        do(command, run.ns)
        return ""

    return act


def _state_get(c: requests.StateGet, run: _Run) -> str:
    return run.states([run.ns.get_state(c.id)])


def _state_allocspi(c: requests.StateAllocSpi, run: _Run) -> str:
    return run.states([run.ns.alloc_spi(c.wanted, c.low, c.high)])


def _state_list(c: requests.StateList, run: _Run) -> str:
    return run.states([dump for dump in run.ns.dump_states() if c.filter.picks(dump)], c.nokeys)


def _state_deleteall(c: requests.StateDeleteAll, ns: Tables) -> None:
    """Delete what can be named: not a larval state without an SPI, which `ip` can't delete either."""
    failed: XfrmError | None = None
    for x in [dump.config for dump in ns.dump_states() if c.filter.picks(dump)]:
        try:
            ns.delete_state(StateId(x.daddr, x.spi, x.proto, x.family, x.mark.v, x.saddr))
        except XfrmError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def _state_count(c: requests.StateCount, run: _Run) -> str:
    info = run.ns.sad_info()
    detail = f" (buckets count {info.sadhcnt} Max {info.sadhmcnt})" if run.statistics else ""
    return f"\t SAD count {info.sadcnt}{detail}\n"


def _policy_get(c: requests.PolicyGet, run: _Run) -> str:
    return show_policy(run.ns.get_policy(c.id), bool(run.statistics), run.zone, run.name_of)


def _policy_list(c: requests.PolicyList, run: _Run) -> str:
    picked = [dump for dump in run.ns.dump_policies() if c.filter.picks(dump)]
    return "".join(show_policy(dump, bool(run.statistics), run.zone, run.name_of) for dump in picked)


def _policy_deleteall(c: requests.PolicyDeleteAll, ns: Tables) -> None:
    """Delete the main policies; `ip` does not say ptype in these requests, so sub policies are not found."""
    failed: XfrmError | None = None
    for p in [dump.config for dump in ns.dump_policies() if c.filter.picks(dump)]:
        try:
            ns.delete_policy(PolicyId(p.direction, index=p.index, mark=p.mark, if_id=p.if_id))
        except XfrmError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def _policy_count(c: requests.PolicyCount, run: _Run) -> str:
    info = run.ns.spd_info()
    text = f"\t SPD IN  {info.incnt} OUT {info.outcnt} FWD {info.fwdcnt}"
    if run.statistics:
        text += f" (Sock: IN {info.inscnt} OUT {info.outscnt} FWD {info.fwdscnt})"
    text += "\n"
    if run.statistics > 1:
        text += f"\t SPD buckets: count {info.spdhcnt} Max {info.spdhmcnt}\n"
        for family, (local, remote) in zip(("IPv4", "IPv6"), run.ns.get_thresholds(), strict=True):
            text += f"\t SPD {family} thresholds: local {local} remote {remote}\n"
    return text


def _policy_getdefault(c: requests.PolicyGetDefault, run: _Run) -> str:
    return show_default(*run.ns.get_default())


def show_default(in_: int, fwd: int, out: int) -> str:
    """The default policies as `ip xfrm policy getdefault` prints them."""
    names_of = (names.name(names.DEFAULT_SHOWN, action) for action in (in_, fwd, out))
    return "Default policies:\n in:  {}\n fwd: {}\n out: {}\n".format(*names_of)


_ACTIONS: Mapping[type, Callable[[Any, _Run], str]] = {
    requests.StateAdd: _silent(lambda c, ns: ns.add_state(c.config)),
    requests.StateUpdate: _silent(lambda c, ns: ns.update_state(c.config)),
    requests.StateDelete: _silent(lambda c, ns: ns.delete_state(c.id)),
    requests.StateGet: _state_get,
    requests.StateAllocSpi: _state_allocspi,
    requests.StateFlush: _silent(lambda c, ns: ns.flush_states(c.proto)),
    requests.StateDeleteAll: _silent(_state_deleteall),
    requests.StateList: _state_list,
    requests.StateCount: _state_count,
    requests.PolicyAdd: _silent(lambda c, ns: ns.add_policy(c.config)),
    requests.PolicyUpdate: _silent(lambda c, ns: ns.update_policy(c.config)),
    requests.PolicyDelete: _silent(lambda c, ns: ns.delete_policy(c.id)),
    requests.PolicyGet: _policy_get,
    requests.PolicyDeleteAll: _silent(_policy_deleteall),
    requests.PolicyList: _policy_list,
    requests.PolicyFlush: _silent(lambda c, ns: ns.flush_policies(c.type)),
    requests.PolicyCount: _policy_count,
    requests.PolicySetThresholds: _silent(lambda c, ns: ns.set_thresholds(c.ipv4, c.ipv6)),
    requests.PolicySetDefault: _silent(lambda c, ns: ns.set_default(c.in_, c.fwd, c.out)),
    requests.PolicyGetDefault: _policy_getdefault,
}
