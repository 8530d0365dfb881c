"""One network namespace's XFRM: tables, sysctls, counters, events. The one object that the floors above hold.

It is given packets, requests and the time, and does no I/O: `randbytes` is its only source of randomness
(SPIs, IVs, hash seeds), `advance` its only clock. Same seed, same calls, same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from uxfrm import compiled
from uxfrm.datapath import census, iptfs_input, iptfs_output, satable, udp
from uxfrm.datapath.batch import Batch, Int64s
from uxfrm.datapath.context import Context
from uxfrm.datapath.crypto.keyring import Keyring
from uxfrm.datapath.inspect import inspect
from uxfrm.datapath.limits import NOTICE_AEVENT, NOTICE_HARD, NOTICE_MAPPING, NOTICE_SOFT
from uxfrm.datapath.reassemble import expire
from uxfrm.datapath.receive import let_in, receive
from uxfrm.datapath.send import Bundles, give_up, release, send, send_waiting
from uxfrm.datapath.streams import RECEIVE_BYTES, SEND_BYTES, Ends, Stream
from uxfrm.lifecycle.acquire import Acquires
from uxfrm.lifecycle.aevents import Aevents
from uxfrm.lifecycle.database import StateDatabase
from uxfrm.lifecycle.events import (
    Acquire,
    DefaultChanged,
    Event,
    Listener,
    MappingChanged,
    Migrated,
    PoliciesFlushed,
    PolicyAdded,
    PolicyDeleted,
    Reported,
    StateAdded,
    StateDeleted,
    StateMonitored,
    StatesFlushed,
    Wanted,
)
from uxfrm.lifecycle.keepalives import Keepalives
from uxfrm.lifecycle.mappings import mapping_changed
from uxfrm.lifecycle.migrate import migrate
from uxfrm.lifecycle.policies import PolicyDatabase
from uxfrm.lifecycle.sockets import Socket
from uxfrm.model.address import Address
from uxfrm.model.aevent import Aevent, AeventUpdate
from uxfrm.model.counts import SadInfo, SpdInfo, Thresholds
from uxfrm.model.device import Device, XfrmInterface
from uxfrm.model.dump import (
    ALL_STATES,
    LarvalConfig,
    PolicyDump,
    PolicyId,
    StateDump,
    StateFilter,
    StateId,
)
from uxfrm.model.error import invalid
from uxfrm.model.flow import Flow
from uxfrm.model.lifetime import LifetimeCurrent
from uxfrm.model.migrate import Migration
from uxfrm.model.policy import OFFLOAD_PACKET, PolicyConfig, PolicyType
from uxfrm.model.selector import Selector
from uxfrm.model.state import ENCAP_ESPINTCP, ENCAP_ESPINUDP, SaDir, StateConfig
from uxfrm.model.statistics import EventFigures, Statistics, TimerFigures
from uxfrm.model.sysctl import Sysctls
from uxfrm.model.template import Template
from uxfrm.model.unchecked import changed
from uxfrm.tables import census as tables_census
from uxfrm.tables.devices import DeviceTable
from uxfrm.tables.policies import Policy, PolicyTable
from uxfrm.tables.rows import TRANSFORM_AH, TRANSFORM_COMP, TRANSFORM_IPIP
from uxfrm.tables.states import State, StateTable


class Namespace:
    """XFRM of one network namespace (struct netns_xfrm).

    `engines` names crypto engines in order of preference (default: all that load). `now` is wall-clock
    seconds, with a fraction, `now_s` without; they move by `advance` only.
    """

    def __init__(
        self, *, randbytes: Callable[[int], bytes], engines: Sequence[str] | None = None, now_s: float = 0
    ) -> None:
        compiled.ready()
        self.states = StateTable(int.from_bytes(randbytes(4)))
        self.policies = PolicyTable()
        self.keyring = Keyring(engines)
        self.path = Context(self.states, self.policies, self.keyring, randbytes, self._attend)
        self.path.now = now_s
        self._bundles = Bundles()
        self._randbytes = randbytes
        self._listeners: list[tuple[Listener, Wanted]] = []
        self._told = 0
        self._sad = StateDatabase(
            self.states, randbytes, self._install, self._uninstall, self._tell, self._note_encapsulation
        )
        self._spd = PolicyDatabase(self.policies, self.path.sync_used, self._tell, self._policy_gone)
        self._released: list[Batch] = []
        self._arrived: list[Batch] = []
        self._asked = False
        self._acquires = Acquires(self._sad, self._tell)
        self._aevents = Aevents(self._sad, self._tell, lambda: self._wanted(StateMonitored))
        self._keepalives = Keepalives()
        self.path.acquire = self._acquire

    # -- packets

    def input(self, batch: Batch) -> None:
        """Take received packets in; see datapath.receive. The batch may be longer afterwards.

        Those that IP-TFS keeps come back by `arrived`, when time has passed.
        """
        self._watch()
        receive(self.path, batch)

    def output(self, batch: Batch) -> None:
        """Take packets out; see datapath.send. The batch may be longer afterwards.

        Those held come back by `released`, when time has passed.
        """
        self._watch()
        send(self.path, self._bundles, batch)

    def released(self) -> list[Batch]:
        """Take what is to leave since the last call: of packets that `output` held, keepalives, ICMP errors.

        Those whose outcome's verdict is SENT, CLEAR or RETURNED are to be sent.
        """
        released, self._released = self._released, []
        if self.path.answers:
            released.append(Batch.pack(list(self.path.answers), self.now_s))
            self.path.answers.clear()
            self.output(released[-1])
        return released

    def arrived(self) -> list[Batch]:
        """Take what came in since the last call of packets that `input` had kept, decided like its own.

        IP-TFS keeps what came too early, and what is not whole, for the drop time of its state.
        """
        arrived, self._arrived = self._arrived, []
        return arrived

    def inspect(self, batch: Batch) -> None:
        """Open packets that this host sent, touching neither counters nor windows; see datapath.inspect."""
        inspect(self.path, batch)

    # -- ESP in TCP

    def open_stream(
        self, ends: Ends, receive_bytes: int = RECEIVE_BYTES, send_bytes: int = SEND_BYTES
    ) -> Stream:
        """Make an established TCP connection known that carries ESP and IKE (setsockopt TCP_ULP espintcp).

        States with its addresses and ports send through it. The bytes bound what waits in each direction.
        XfrmError EEXIST, EINVAL.
        """
        stream = Stream(ends, receive_bytes, send_bytes)
        self.path.streams.add(stream)
        return stream

    def close_stream(self, stream: Stream) -> None:
        """The connection has ended. XfrmError ENOENT."""
        self.path.streams.remove(stream)

    # -- time

    @property
    def now(self) -> float:
        """Wall-clock seconds, with a fraction."""
        return self.path.now

    @property
    def now_s(self) -> int:
        """The wall-clock second."""
        return int(self.now)

    def advance(self, now_s: float) -> None:
        """Let time pass up to `now_s` (wall-clock seconds); going backwards changes nothing but the clock."""
        while (deadline := self.next_deadline()) is not None and deadline <= now_s:
            self.path.now = max(self.now, deadline)
            self._sad.advance(deadline, self.now)
            self._spd.advance(deadline)
            self._aevents.advance(deadline)
            self._released += [
                udp.keepalive(state.config, self.now_s)
                for state in self._keepalives.advance(deadline)
                if isinstance(state.config, StateConfig)
            ]
            self._released += release(self.path, self._bundles)
            self._release_iptfs()
            expire(self.path, self.now)
            self.path.mtus.expire(self.now)
        self.path.now = now_s

    def _release_iptfs(self) -> None:
        """Let go what IP-TFS kept for a time."""
        for slot in self.path.iptfs.due(self.now):
            if self.path.iptfs.states[slot].config.direction == SaDir.OUT:
                self._released += send_waiting(self.path, self._bundles, slot)
            else:
                self._arrived += let_in(self.path, slot)

    def next_deadline(self) -> float | None:
        """When something will change by itself (wall-clock seconds), or None."""
        self._watch()
        return _sooner(
            self._sad.timers.next_deadline(),
            self._spd.timers.next_deadline(),
            self._aevents.timers.next_deadline(),
            self.path.held.timers.next_deadline(),
            self._keepalives.next_deadline(),
            self.path.fragments.timers.next_deadline(),
            self.path.iptfs.next_deadline(),
            self.path.mtus.timers.next_deadline(),
        )

    def horizon(self) -> float | None:
        """Up to which second (not included) packets may share a batch without time changing their fate."""
        return _sooner(
            self._sad.timers.horizon(self.now_s),
            self._spd.timers.next_deadline(),
            self._aevents.timers.next_deadline(),
            self.path.held.timers.next_deadline(),
            self._keepalives.next_deadline(),
            self.path.iptfs.horizon(self.now),
        )

    def _watch(self) -> None:
        self.path.monitored = int(self._aevents.watch(self.now))
        self.path.mapped = 2 if self._wanted(MappingChanged) else 0
        asked = self._wanted(Acquire)
        if asked and not self._asked:
            # Flows that found no state while nobody could be asked for one.
            self.path.forget()
        self._asked = asked

    # -- states

    def add_state(self, config: StateConfig) -> State:
        """`ip xfrm state add`: XfrmError EEXIST, EINVAL, ENOSYS."""
        config = self._sad.constructed(_without_device(config))
        state = self._sad.add(config, self.now)
        if self._wanted(StateAdded):
            self._tell(StateAdded(state.dump(), False))
        return state

    def restore_state(self, dump: StateDump) -> State:
        """Bring back a state from a dump, with its counters, window and times."""
        return self._sad.restore(dump, self.now)

    def update_state(self, config: StateConfig) -> State:
        """`ip xfrm state update`: XfrmError ESRCH, EINVAL, ENOSYS.

        As in Linux the event tells the request, not what came of it where the state was there.
        """
        config = self._sad.constructed(_without_device(config))
        state = self._sad.update(config, self.now)
        if self._wanted(StateAdded):
            self._tell(StateAdded(StateDump.requested(config, self.now_s), True))
        return state

    def delete_state(self, identity: StateId) -> State:
        """`ip xfrm state delete`: XfrmError ESRCH."""
        state = self._sad.delete(identity)
        if self._wanted(StateDeleted):
            self._tell(StateDeleted(state.dump()))
        return state

    def get_state(self, identity: StateId) -> StateDump:
        """`ip xfrm state get`: XfrmError ESRCH."""
        return self._sad.get(identity).dump()

    def flush_states(self, proto: int = 0) -> int:
        """`ip xfrm state flush`: protocol 0 for all, 255 for AH, ESP and COMP; how many went."""
        gone = self._sad.flush(proto)
        if gone:
            self._tell(StatesFlushed(proto))
        return gone

    def expire_state(self, identity: StateId, hard: bool) -> None:
        """XFRM_MSG_EXPIRE: XfrmError ENOENT, EINVAL. Follows: xfrm_add_sa_expire."""
        self._sad.force(identity, hard)

    def alloc_spi(self, wanted: LarvalConfig, low: int, high: int) -> StateDump:
        """`ip xfrm state allocspi`: XfrmError EINVAL, ENOENT."""
        return self._sad.alloc_spi(wanted, low, high, self.now).dump()

    def get_aevent(self, identity: StateId, flags: int = 0) -> Aevent:
        """GETAE: a state's running figures, `flags` saying what of (AE_RTHR, AE_ETHR). XfrmError ESRCH."""
        return self._aevents.get(identity, flags)

    def update_aevent(self, identity: StateId, wanted: AeventUpdate) -> None:
        """NEWAE: set a state's running figures. XfrmError ESRCH, EINVAL. Follows: xfrm_new_ae."""
        self._aevents.update(identity, wanted)

    def migrate(self, wanted: Migration) -> None:
        """XFRM_MSG_MIGRATE: move a policy and its states; see lifecycle.migrate for the XfrmErrors."""
        wanted.check()
        migrate(self._sad, self.policies, wanted, self.now, self._inherit)
        self._tell(Migrated(wanted))

    def acquire(self, wanted: LarvalConfig, policy: PolicyConfig, masks: tuple[int, int, int]) -> None:
        """XFRM_MSG_ACQUIRE: ask key managers for a state per template of `policy`; nothing is kept.

        `wanted` gives source address, selector and CPU; `masks` the algorithms. Follows: xfrm_add_acquire.
        """
        templates = list(policy.templates)
        aalgos, ealgos, calgos = masks
        for number, template in enumerate(templates):
            template = templates[number] = replace(template, aalgos=aalgos, ealgos=ealgos, calgos=calgos)
            asked = replace(wanted, daddr=template.daddr, spi=template.spi, proto=template.proto)
            told = PolicyDump(changed(policy, templates=tuple(templates)), LifetimeCurrent())
            self._acquires.query(asked, template, told)

    def dump_states(self, wanted: StateFilter = ALL_STATES) -> Iterator[StateDump]:
        """`ip xfrm state list`: newest first."""
        return (state.dump() for state in self.states.walk(wanted))

    # -- policies

    def add_policy(self, config: PolicyConfig) -> Policy:
        """`ip xfrm policy add`: XfrmError EEXIST."""
        policy = self._spd.add(config, self.now)
        if self._wanted(PolicyAdded):
            self._tell(PolicyAdded(policy.dump, False))
        return policy

    def restore_policy(self, dump: PolicyDump) -> Policy:
        """Bring back a policy from a dump, with its index and times."""
        return self._spd.restore(dump, self.now)

    def update_policy(self, config: PolicyConfig) -> Policy:
        """`ip xfrm policy update`: add or replace."""
        policy = self._spd.update(config, self.now)
        if self._wanted(PolicyAdded):
            self._tell(PolicyAdded(policy.dump, True))
        return policy

    def delete_policy(self, identity: PolicyId) -> Policy:
        """`ip xfrm policy delete`: XfrmError ENOENT."""
        policy = self._spd.delete(identity)
        if self._wanted(PolicyDeleted):
            self._tell(PolicyDeleted(policy.dump, bool(identity.index)))
        return policy

    def expire_policy(self, identity: PolicyId, hard: bool) -> None:
        """XFRM_MSG_POLEXPIRE: XfrmError ENOENT; a hard one deletes. Follows: xfrm_add_pol_expire."""
        self._spd.force(identity, hard)

    def get_policy(self, identity: PolicyId) -> PolicyDump:
        """`ip xfrm policy get`: XfrmError ENOENT."""
        self.path.sync_used()
        return self.policies.get(identity).dump

    def flush_policies(self, type: PolicyType | int = PolicyType.MAIN) -> int:
        """`ip xfrm policy flush`: how many went."""
        gone = self._spd.flush(type)
        if gone:
            self._tell(PoliciesFlushed(type))
        return gone

    def dump_policies(self) -> Iterator[PolicyDump]:
        """`ip xfrm policy list`: newest first."""
        self.path.sync_used()
        return (policy.dump for policy in self.policies.dump())

    def open_socket(self, family: int) -> Socket:
        """A socket, for policies of its own; packets carry its number (Batch.pack). To be closed."""
        return Socket(family, self.path.sockets, self.policies, lambda: self.now_s, self.path.sync_used)

    def set_default(self, in_: int = 0, fwd: int = 0, out: int = 0) -> None:
        """`ip xfrm policy setdefault`: DefaultAction of each direction, 0 to leave it."""
        self.policies.set_default(in_, fwd, out)
        self._tell(DefaultChanged(*self.get_default()))

    def get_default(self) -> tuple[int, int, int]:
        """`ip xfrm policy getdefault`: the actions of in, fwd, out."""
        in_, out, fwd = self.policies.default
        return int(in_), int(fwd), int(out)

    def set_thresholds(self, ipv4: Thresholds | None = None, ipv6: Thresholds | None = None) -> None:
        """`ip xfrm policy set hthresh4 ... hthresh6 ...`: kept, without effect on lookups."""
        self.policies.set_thresholds(ipv4, ipv6)

    def get_thresholds(self) -> tuple[Thresholds, Thresholds]:
        """The prefix lengths of `ip xfrm policy set`, for IPv4 and IPv6."""
        return self.policies.thresholds4, self.policies.thresholds6

    def spd_info(self) -> SpdInfo:
        """`ip xfrm policy count`."""
        return self.policies.info()

    def sad_info(self) -> SadInfo:
        """`ip xfrm state count`."""
        return self.states.info()

    def report(self, proto: int, selector: Selector, coaddr: Address | None = None) -> None:
        """Tell key managers of a packet whose mobility header wants a state (proto: route2 or hao).

        Nothing here processes mobility headers; this is for whoever does. Follows: km_report.
        """
        self._tell(Reported(proto, selector, coaddr))

    # -- devices

    @property
    def devices(self) -> DeviceTable:
        """The devices that were added, and how to change, delete, and set them up and down."""
        return self.path.devices

    def add_device(self, ifindex: int, name: str, loopback: bool = False) -> None:
        """Make a device known, for its sysctls or as the loopback device. XfrmError EEXIST."""
        self.devices.add(Device(ifindex, name, loopback))

    def add_interface(self, ifindex: int, name: str, xfrmi: XfrmInterface) -> None:
        """`ip link add NAME type xfrm ...`, and up: XfrmError EINVAL, EEXIST."""
        self.devices.add(Device(ifindex, name, xfrmi=xfrmi))

    def set_mtu(self, mtu: int) -> None:
        """How large packets may be on every path, 0 where nobody knows: then nothing is too big.

        `path.mtus.of_device` may tell of single ones; routers that say they carry less are believed.
        """
        self.path.mtus.default = mtu

    # -- sysctls

    @property
    def sysctls(self) -> Sysctls:
        """All sysctls as they are."""
        return self._sad.sysctls

    def sysctl(self, name: str) -> int:
        """`sysctl -n NAME`, such as net.core.xfrm_acq_expires. XfrmError ENOENT."""
        return self.devices.sysctl(name) if ".conf." in name else self.sysctls.get(name)

    def set_sysctl(self, name: str, value: int | str) -> None:
        """`sysctl -w NAME=VALUE`; a text is read as the kernel reads it. XfrmError ENOENT, EINVAL.

        States that are there keep what they were made with.
        """
        if ".conf." in name:
            self.devices.set_sysctl(name, value)
            return
        before = self.sysctls
        after = before.set(name, value) if isinstance(value, int) else before.write(name, value)
        self._sad.sysctls = after
        if after.xfrm_larval_drop != before.xfrm_larval_drop:
            self.path.larval_drop = after.xfrm_larval_drop
        self.path.configure(after)

    # -- counters and events

    def counters(self) -> list[int]:
        """The values of /proc/net/xfrm_stat, by Counter."""
        return self.path.counters()

    def statistics(self) -> Statistics:
        """What can be counted in all (see model.statistics); it looks at every state, policy and flow."""
        return Statistics(
            states=tables_census.states(self.states),
            policies=tables_census.policies(self.policies),
            flows=census.flows(self.path, self._bundles),
            held=census.held(self.path),
            fragments=census.fragments(self.path),
            timers=self._timers(),
            keys=census.keys(self.path),
            events=EventFigures(len(self._listeners), self._told),
            memory=census.memory(self.path, self._bundles),
        )

    def _timers(self) -> TimerFigures:
        due = self.next_deadline()
        return TimerFigures(
            states=self._sad.timers.planned,
            policies=self._spd.timers.planned,
            aevents=self._aevents.timers.planned,
            keepalives=len(self._keepalives),
            held=self.path.held.timers.planned,
            next=None if due is None else due - self.now,
        )

    def listen(self, listener: Listener, wanted: Wanted = lambda _: True) -> None:
        """Have `listener` told of every event; without listeners events are not kept.

        What requests cause in masses is not even made while `wanted` says of its kind that it is not.
        """
        self._listeners.append((listener, wanted))

    def _wanted(self, kind: type[Event]) -> bool:
        return any(wanted(kind) for _, wanted in self._listeners)

    def _tell(self, event: Event) -> bool:
        """Tell every listener; True when any heard it."""
        heard = [listener(event) is not False for listener, _ in self._listeners]
        self._told += any(heard)
        return any(heard)

    # -- between the tables and the data path

    def _install(self, state: State) -> None:
        satable.install(state, self.keyring, self._randbytes)
        self.path.iptfs.open(state)
        self._count_kinds(state, 1)
        self._aevents.arm(state, self.now)

    def _inherit(self, old: State, new: State) -> None:
        self.path.iptfs.inherit(old, new)
        self._aevents.inherit(old, new, self.now)

    def _end_iptfs(self, state: State) -> None:
        """Drop what waits in IP-TFS for a state that goes."""
        kept, chunks = self.path.iptfs.close(state)
        ended = iptfs_input.gone(self.path, state, kept)
        self._arrived += [] if ended is None else [ended]
        ended = iptfs_output.gone(self.path, chunks)
        self._released += [] if ended is None else [ended]

    def _uninstall(self, state: State) -> None:
        self._end_iptfs(state)
        self._count_kinds(state, -1)
        self.path.bury(state)
        self._aevents.forget(state)
        self._keepalives.forget(state)
        satable.uninstall(state, self.keyring)

    def _count_kinds(self, state: State, one: int) -> None:
        """Let the path know which kinds of state there are, by adding `one` (or -1)."""
        x = state.record
        self.path.random_ivs += one * int(x["iv_random"])
        self.path.without_key += one * int(x["transform"] in (TRANSFORM_COMP, TRANSFORM_IPIP))
        self.path.companions += one * int(x["transform"] == TRANSFORM_IPIP)
        self.path.authenticated += one * int(x["transform"] == TRANSFORM_AH)
        self.path.streamed += one * int(x["encap"] == ENCAP_ESPINTCP)

    def _note_encapsulation(self, state: State) -> None:
        """Remember the UDP port on which this state's ESP will arrive, and whether it wants keepalives."""
        config = state.config
        self._keepalives.watch(state, self.now_s)
        if isinstance(config, StateConfig) and config.encap and config.encap.type == ENCAP_ESPINUDP:
            ports = {*self.path.encap_ports.tolist(), config.encap.dport}
            self.path.encap_ports = np.array(sorted(ports), np.int64)

    def _policy_gone(self, policy: Policy, successor: Policy | None) -> None:
        if successor is None:
            self._released += give_up(self.path, policy)
        else:
            self.path.held.move(policy, successor, self.now)

    def _acquire(
        self, flow: Flow, daddr: Address, saddr: Address, template: Template, policy: Policy, cpu: int | None
    ) -> bool:
        self.path.sync_used()
        return self._acquires.larval(flow, daddr, saddr, template, policy.dump, cpu, self.now)

    def _attend(self, notices: Int64s) -> None:
        """Do what a run of packets left to do: states at a limit, or used for the first time."""
        for row, kind in notices.tolist():
            if not self.states.rows[row]["serial"]:
                continue
            state = self.states.at(row)
            if kind == NOTICE_HARD:
                self._sad.expire(state)
            elif kind == NOTICE_SOFT:
                self._sad.soften(state)
            elif kind == NOTICE_AEVENT:
                self._aevents.sequence(state, self.now)
            elif kind == NOTICE_MAPPING:
                self._tell(mapping_changed(state))
            else:
                self._sad.timers.arm(state)


def _sooner(*ends: float | None) -> float | None:
    return min((end for end in ends if end is not None), default=None)


def _without_device(config: StateConfig) -> StateConfig:
    """No device has an IPsec engine here: crypto offload falls back to software, packet offload is EINVAL.

    Follows: xfrm_dev_state_add.
    """
    offload = config.rare.offload
    if offload is None:
        return config
    if offload.flags & OFFLOAD_PACKET:
        raise invalid()
    return changed(config, rare=changed(config.rare, offload=None))
