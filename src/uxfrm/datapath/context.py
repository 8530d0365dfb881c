"""What both directions of the path share: tables, keys, flows, policy slots, scratch arrays."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from uxfrm.datapath import esp
from uxfrm.datapath.ah import Authenticator
from uxfrm.datapath.batch import Batch, Int64s, count_outcomes, note_owners
from uxfrm.datapath.crypto.keyring import Keyring
from uxfrm.datapath.flowtable import KEY_COLUMNS, FlowTable
from uxfrm.datapath.fragments import Fragments
from uxfrm.datapath.held import Held
from uxfrm.datapath.icmp import Allowance
from uxfrm.datapath.iptfs import IpTfs
from uxfrm.datapath.pathmtu import PathMtus
from uxfrm.datapath.resolve import Acquire, nobody_asked
from uxfrm.datapath.streams import Streams
from uxfrm.model.address import Address
from uxfrm.model.flow import Flow
from uxfrm.model.outcome import Counter, Outcome
from uxfrm.model.sysctl import Sysctls
from uxfrm.model.template import MAX_DEPTH
from uxfrm.tables.devices import DeviceTable
from uxfrm.tables.policies import Policy, PolicyTable
from uxfrm.tables.sockets import Sockets
from uxfrm.tables.states import State, StateTable

_SLOTS_START = 64
_DETAILS_MAX = 65536
_GONE_MAX = 4096
_ANSWERS_MAX = 4096


class Context:
    """One namespace's data path: everything but the code of the two directions.

    `attend` is told the notices of a run: int64[n, 2] of rows and limits.NOTICE_*.
    `randbytes` gives IVs; `is_local` tells whether an address is the host's own, None where nobody knows;
    without it nobody knows of any. `device_of` is the index of the device by which an address is reached,
    None where nobody knows. `acquire` asks key managers for a state. `monitored` is 1 while somebody
    hears of aevents, `mapped` 2 while somebody hears of changed mappings, `now` the time in wall-clock
    seconds. `held` are packets that wait for states, `sockets` those with policies of their own.
    """

    def __init__(
        self,
        states: StateTable,
        policies: PolicyTable,
        keyring: Keyring,
        randbytes: Callable[[int], bytes],
        attend: Callable[[Int64s], None],
    ) -> None:
        self.states = states
        self.policies = policies
        self.keyring = keyring
        self.randbytes = randbytes
        self.attend = attend
        self.flows = FlowTable(int.from_bytes(randbytes(4)))
        self.is_local: Callable[[Address], bool | None] | None = None
        self.source_of: Callable[[Address], Address | None] = lambda _: None
        self.device_of: Callable[[Address], int | None] = lambda _: None
        self.acquire: Acquire = nobody_asked
        self.devices = DeviceTable(self.forget)
        self.mtus = PathMtus(self.forget)
        self._no_pmtu_disc = 0
        self._identification = 0
        self.monitored = 0
        self.mapped = 0
        self.now = 0.0
        self.held = Held()
        self.iptfs = IpTfs()
        # Fragments for this host, and those of packets that it sent: these are only looked at, or were made
        # before they came here (`cut_before`) and are to be protected as the whole packets that they were.
        self.fragments = Fragments()
        self.sent_fragments = Fragments()
        self.cut_before = False
        # True where TCP of this host does not know what IPsec adds. On Linux it does (xfrm_mtu), and of IPv6
        # in transport mode only its packets would be fragmented. Then what is too long is answered as IPv4's
        # is, if every link carries what is left.
        self.answers_tcp = False
        # ICMP errors about fragments, that are to be sent.
        self.answers: deque[bytes] = deque(maxlen=_ANSWERS_MAX)
        self.icmp_allowance = Allowance()
        self.sockets = Sockets()
        self._larval_drop = 1
        self.random_ivs = 0
        # States whose packets are worked on one by one, and those of them that IPComp's bring with them.
        self.without_key = 0
        self.companions = 0
        # AH states, and what makes their ICVs.
        self.authenticated = 0
        self.authenticator = Authenticator()
        self.encap_ports: Int64s = np.zeros(0, np.int64)
        # States whose ESP goes into TCP streams, and the streams.
        self.streamed = 0
        self.streams = Streams()
        self.totals: Int64s = np.zeros(len(Outcome), np.int64)
        self.run = 0
        self.used: Int64s = np.zeros(_SLOTS_START, np.int64)
        self._slots: list[Policy] = []
        self._slot_of: dict[Policy, int] = {}
        self._details: list[str] = [""]
        self._detail_of: dict[str, int] = {"": 0}
        # Of states that went last: the row, the first and last genid that they had there, the state.
        self._gone: deque[tuple[int, int, int, State]] = deque()
        self._tops: Int64s = np.zeros(0, np.int64)
        self.resize(256)

    def resize(self, count: int) -> None:
        """Make the scratch arrays big enough for a batch of `count`."""
        self.every: Int64s = np.arange(count, dtype=np.int64)
        self.active: Int64s = np.zeros(count, np.int64)
        self.again: Int64s = np.zeros(count, np.int64)
        self.missed: Int64s = np.zeros(count, np.int64)
        self.iptfs.links = np.zeros(count, np.int64)
        self.jobs: Int64s = np.zeros((count + 1, esp.COLUMNS), np.int64)
        self.notices: Int64s = np.zeros((count * MAX_DEPTH * 2 + 1, 2), np.int64)
        self.key: Int64s = np.zeros(KEY_COLUMNS, np.int64)
        self.found: Int64s = np.zeros(7, np.int64)

    def grow(self, count: int) -> None:
        """Make room for a batch that is longer now; what is listed in the scratch arrays stays."""
        if count <= self.active.shape[0]:
            return
        active, again, found = self.active, self.again, self.found
        self.resize(max(count, 2 * active.shape[0]))
        self.active[: active.shape[0]], self.again[: again.shape[0]] = active, again
        self.found = found

    def fit(self, batch: Batch) -> None:
        """Make the scratch arrays big enough for a batch, should it have grown."""
        if len(batch) > self.active.shape[0]:
            self.resize(len(batch))

    def identification(self) -> int:
        """The next identification of an IPv6 packet in fragments; where they begin is random."""
        self._identification = (self._identification or int.from_bytes(self.randbytes(4))) + 1 & 0xFFFFFFFF
        return self._identification

    def start(self, batch: Batch) -> None:
        """Prepare for a batch; what flows have left behind is trimmed here."""
        self.fit(batch)
        if len(self._slots) > 2 * len(self.policies) + _SLOTS_START or len(self._details) > _DETAILS_MAX:
            self.forget()
        if self.sockets.owned:
            note_owners(batch.packets, self.sockets.owners)

    def finish(self, batch: Batch) -> None:
        """Count every packet once, by its outcome."""
        count_outcomes(batch.packets, self.totals)

    def forget(self) -> None:
        """Drop everything remembered about flows."""
        self.sync_used()
        self.flows.clear()
        self._slots.clear()
        self._slot_of.clear()
        self._details = [""]
        self._detail_of = {"": 0}
        self.used[:] = 0

    @property
    def larval_drop(self) -> int:
        """0 where packets are held while a state is negotiated (net.core.xfrm_larval_drop)."""
        return self._larval_drop

    @larval_drop.setter
    def larval_drop(self, value: int) -> None:
        self._larval_drop = value
        self.forget()

    def configure(self, sysctls: Sysctls) -> None:
        """Take over the sysctls of what is around XFRM."""
        kept = self.fragments
        kept.high_thresh = {4: sysctls.ipfrag_high_thresh, 16: sysctls.ip6frag_high_thresh}
        kept.time_s = {4: sysctls.ipfrag_time, 16: sysctls.ip6frag_time}
        kept.max_dist = sysctls.ipfrag_max_dist
        self._no_pmtu_disc = sysctls.ip_no_pmtu_disc

    def believed_mtu(self, told: int) -> int | None:
        """What net.ipv4.ip_no_pmtu_disc makes of an IPv4 MTU; None where it does not count (icmp_unreach)."""
        if self._no_pmtu_disc in (2, 3):
            return None
        return 0 if self._no_pmtu_disc else told

    # -- policies by slot

    def slot(self, policy: Policy | None) -> int:
        """The number by which packets name a policy, -1 for none."""
        if policy is None:
            return -1
        found = self._slot_of.get(policy)
        if found is None:
            found = len(self._slots)
            self._slots.append(policy)
            self._slot_of[policy] = found
            if found >= self.used.shape[0]:
                self.used = np.concatenate([self.used, np.zeros_like(self.used)])
        return found

    def policy_at(self, slot: int) -> Policy | None:
        """The policy of a slot."""
        return self._slots[slot] if 0 <= slot < len(self._slots) else None

    def sync_used(self) -> None:
        """Carry the times at which packets used policies over to them."""
        for slot in np.flatnonzero(self.used[: len(self._slots)]):
            policy = self._slots[slot]
            policy.use_time = max(policy.use_time, int(self.used[slot]))

    # -- words

    def detail(self, text: str) -> int:
        """The number by which packets name an explanation."""
        found = self._detail_of.get(text)
        if found is None:
            found = len(self._details)
            self._details.append(text)
            self._detail_of[text] = found
        return found

    def detail_at(self, number: int) -> str:
        """The explanation of a number."""
        return self._details[number] if number < len(self._details) else ""

    # -- states of a packet's path

    def bury(self, state: State) -> None:
        """Remember a state that goes while packets that passed it are still on their way.

        A packet ends at most one state: a batch does not push out its own. Requests and time end states
        without any packet, so that nothing but this bounds what is remembered.
        """
        x = state.record
        self._gone.appendleft((state.row, int(x["serial"]), int(x["genid"]), state))
        if len(self._gone) > _GONE_MAX + self.active.shape[0]:
            self._gone.pop()

    def state_at(self, row: int, genid: int) -> State | None:
        """The state that a packet passed, be it changed or gone since."""
        x = self.states.rows[row]
        if 0 < x["serial"] <= genid <= x["genid"]:
            return self.states.at(row)
        past = ((first, last, state) for at, first, last, state in self._gone if at == row)
        return next((state for first, last, state in past if first <= genid <= last), None)

    def path(self, packet: Any) -> list[State]:
        """The states that a packet passed, outermost first on input, innermost first on output."""
        found = (
            self.state_at(int(packet["path"][k]), int(packet["pathgen"][k]))
            for k in range(int(packet["depth"]))
        )
        return [state for state in found if state is not None]

    def seen_tops(self) -> Int64s:
        """Per row, the newest 64-bit sequence number that `inspect` saw."""
        if self._tops.shape[0] != self.states.rows.shape[0]:
            rows = self.states.rows
            tops = rows["oseq_hi"] << 32 | rows["oseq"]
            tops[: self._tops.shape[0]] = np.maximum(tops[: self._tops.shape[0]], self._tops)
            self._tops = tops
        return self._tops

    # -- counters

    def counters(self) -> list[int]:
        """The values of /proc/net/xfrm_stat, by Counter."""
        values = [0] * len(Counter)
        for outcome in Outcome:
            if outcome.counter is not None:
                values[outcome.counter] += int(self.totals[outcome])
        # Linux counts a state of the wrong direction a second time, as a failure of its policy.
        values[Counter.XfrmOutPolError] += int(self.totals[Outcome.OUT_STATE_DIR])
        return values


def flow_of(key: Int64s) -> Flow:
    """The flow that a flow table key was made of."""
    four = int(key[0]) & 0xFF == 2
    size = 1 if four else 4
    saddr = b"".join(int(word).to_bytes(4) for word in key[2 : 2 + size])
    daddr = b"".join(int(word).to_bytes(4) for word in key[6 : 6 + size])
    ports = int(key[1])
    return Flow(
        daddr=daddr,
        saddr=saddr,
        proto=int(key[0]) >> 8 & 0xFF,
        sport=ports >> 16,
        dport=ports & 0xFFFF,
        oif=int(key[11]) & 0x7FFFFFFF,
        mark=int(key[10]) & 0xFFFFFFFF,
    )
