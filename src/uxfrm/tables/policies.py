"""The policy database of one namespace: policies by index, by identity, by age, and by what they match.

What it knows: how Linux numbers, orders, replaces and finds policies (net/xfrm/xfrm_policy.c), and the
figures of its table that requests read and write (defaults, thresholds, counts).
What it must not know: clocks (the time is an argument), states, bundles, packets held back, netlink.
The kernel keeps an exact table, and in each inexact bin four kinds of lists (see `_chain`). The first match
of each kind counts, of those the lowest priority number and, among equals, the oldest. Overlapping policies
of one kind are always in one list, so a classifier per kind computes the same.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace

from uxfrm.model.address import BITS
from uxfrm.model.counts import HASH_MAX, SpdInfo, Thresholds
from uxfrm.model.dump import PolicyDump, PolicyId
from uxfrm.model.error import XfrmError, invalid
from uxfrm.model.flow import Flow
from uxfrm.model.lifetime import LifetimeCurrent
from uxfrm.model.mark import Mark
from uxfrm.model.policy import OWN, DefaultAction, Direction, PolicyConfig, PolicyType, SecurityContext
from uxfrm.model.selector import Selector
from uxfrm.model.template import Template
from uxfrm.model.unchecked import changed
from uxfrm.tables.classifier import NO_RANK, Classifier, Rule, pack

_FIRST_HASH_MASK = 7
_U32 = 0xFFFFFFFF
_POSITION_BITS = 64

_Identity = tuple[int, int, int, Selector, Mark, SecurityContext | None]
_Bin = tuple[int, int, int, int]


class Policy(Rule):
    """A live policy (struct xfrm_policy).

    `config.index` is the live index; `position` is its age, smaller is older; `place` orders it among equal
    priorities of its own list (its age, or that of the policy it replaced); `add_time` and `use_time` are
    wall-clock seconds (0: never used), the latter set by whoever looks it up; `genid` grows with every change
    that bundles must notice; `dead` is set once it left the table.
    """

    __slots__ = ("add_time", "config", "dead", "genid", "place", "position", "use_time")

    def __init__(self, config: PolicyConfig, position: int, place: int, add_time: int) -> None:
        super().__init__(config.priority << _POSITION_BITS | place, config.selector, config.mark)
        self.config = config
        self.position = position
        self.place = place
        self.add_time = add_time
        self.use_time = 0
        self.genid = 0
        self.dead = False

    @property
    def index(self) -> int:
        return self.config.index

    @property
    def age_rank(self) -> int:
        """Its rank among policies of other lists, where not the place but the age decides."""
        return self.config.priority << _POSITION_BITS | self.position

    @property
    def current(self) -> LifetimeCurrent:
        """Bytes and packets stay 0: the kernel counts none for policies."""
        return LifetimeCurrent(add_time=self.add_time, use_time=self.use_time)

    @property
    def dump(self) -> PolicyDump:
        """What a dump tells of it now."""
        return PolicyDump(self.config, self.current)

    def __repr__(self) -> str:
        return f"<Policy {self.index} position {self.position}{' dead' if self.dead else ''}>"


def _stored(config: PolicyConfig) -> PolicyConfig:
    """`config` as the kernel keeps it: of the mark's value only the bits that count."""
    mark = config.mark.normalised()
    return config if mark == config.mark else replace(config, mark=mark)


def _identity(config: PolicyConfig) -> _Identity:
    """What no two policies share. Follows: xfrm_policy_insert_list."""
    return (config.direction, config.type, config.if_id, config.selector, config.mark, config.context)


def _chain(selector: Selector) -> int:
    """Which kind of list the kernel keeps a policy in: exact, or by what is wide enough to be "any".

    The number is also the order of search here: wide policies match soon and so spare much of the rest.
    Follows: policy_hash_bysel, xfrm_policy_inexact_alloc_chain. Always with the default thresholds.
    """
    bits = BITS[selector.family]
    if selector.prefixlen_d == selector.prefixlen_s == bits:
        return 0
    wide = 16 if bits == 32 else 48
    any_d = selector.prefixlen_d < wide or not any(selector.daddr)
    any_s = selector.prefixlen_s < wide or not any(selector.saddr)
    return 4 - 2 * any_d - any_s


def _bin(config: PolicyConfig) -> _Bin:
    """The classifiers a policy is in one of. Follows: struct xfrm_pol_inexact_key."""
    return (config.type, config.direction, config.if_id, BITS[config.family] // 8)


def _check_id(identity: PolicyId) -> None:
    """Follows: the head of xfrm_get_policy."""
    if identity.type not in (PolicyType.MAIN, PolicyType.SUB):
        raise invalid("Invalid policy type")
    if identity.direction not in (Direction.IN, Direction.OUT, Direction.FWD):
        raise invalid("Invalid policy direction")


class PolicyTable:
    """The policies of one namespace, of both types and all directions.

    `generation` changes whenever the answer to a lookup may (a flow table above compares it).
    `default` is what happens where nothing matches, by Direction.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.default = [DefaultAction.ACCEPT] * len(Direction)
        self.thresholds4 = Thresholds(32, 32)
        self.thresholds6 = Thresholds(128, 128)
        self._by_position: dict[int, Policy] = {}
        self._by_index: dict[int, Policy] = {}
        self._by_identity: dict[_Identity, Policy] = {}
        self._bins: dict[_Bin, dict[int, Classifier[Policy]]] = {}
        self._counts = [0] * len(Direction)
        self._own_counts = [0] * len(Direction)
        self._position = 0
        self._index_generator = 0
        self._dst_masks = [_FIRST_HASH_MASK] * len(Direction)
        self._index_mask = _FIRST_HASH_MASK

    def __len__(self) -> int:
        return len(self._by_position)

    # Changing it.

    def add(self, config: PolicyConfig, now_s: int) -> Policy:
        """Insert a policy; EEXIST when an identical one is there. Follows: xfrm_policy_insert with excl."""
        config = _stored(config)
        if _identity(config) in self._by_identity:
            raise XfrmError(errno.EEXIST)
        policy = self._link(config, self._free_index(config.direction, config.index), now_s)
        self._grow_hashes(config.direction)
        return policy

    def update(self, config: PolicyConfig, now_s: int) -> tuple[Policy, Policy | None]:
        """Insert a policy in the place of the identical one, if any; return both.

        The new one keeps the old one's index, whatever was asked for, and counts as the newest; but at the
        same priority it also keeps the old one's place among those of its own list (see `_chain`).
        Follows: xfrm_policy_insert and xfrm_policy_insert_list without excl.
        """
        config = _stored(config)
        old = self._by_identity.get(_identity(config))
        if old is None:
            return self.add(config, now_s), None
        self._unlink(old)
        place = old.place if old.config.priority == config.priority else None
        return self._link(config, old.index, now_s, place), old

    def delete(self, identity: PolicyId) -> Policy:
        """Take out the policy that `identity` names; ENOENT for none. Follows: xfrm_get_policy."""
        policy = self.get(identity)
        self.remove(policy)
        return policy

    def remove(self, policy: Policy) -> None:
        """Take out a live policy, as when it expires; leave a dead one. Follows: xfrm_policy_delete."""
        if not policy.dead:
            self._unlink(policy)

    def flush(self, type: PolicyType | int = PolicyType.MAIN) -> list[Policy]:
        """Take out all policies of one type but sockets', newest first. Follows: xfrm_policy_flush."""
        gone = [p for p in self.dump() if p.config.type == type and p.config.direction < OWN]
        for policy in gone:
            self._unlink(policy)
        return gone

    def migrate(self, policy: Policy, templates: tuple[Template, ...]) -> None:
        """Give a live policy other templates; index and age stay. Follows: xfrm_policy_migrate."""
        policy.config = changed(policy.config, templates=templates)
        policy.genid += 1
        self.generation += 1

    # Policies of sockets: listed and counted, but never looked up or named by requests.

    def add_own(self, config: PolicyConfig, now_s: int) -> Policy:
        """List a socket's own policy, under a new index. Follows: xfrm_sk_policy_insert."""
        direction = config.direction + OWN
        return self._list_own(
            changed(config, direction=direction, index=self._free_index(direction, 0)), now_s
        )

    def clone_own(self, policy: Policy) -> Policy:
        """List what a socket inherits: index and times stay, the priority does not. Follows: clone_policy."""
        clone = self._list_own(changed(policy.config, priority=0), policy.add_time)
        clone.use_time = policy.use_time
        return clone

    def remove_own(self, policy: Policy) -> None:
        """Take a socket's own policy off the list. Follows: xfrm_sk_policy_unlink."""
        del self._by_position[policy.position]
        self._own_counts[policy.config.direction - OWN] -= 1
        policy.dead = True
        policy.genid += 1

    def _list_own(self, config: PolicyConfig, now_s: int) -> Policy:
        self._position += 1
        policy = Policy(config, self._position, self._position, now_s)
        self._by_position[policy.position] = policy
        self._own_counts[config.direction - OWN] += 1
        return policy

    # Asking it.

    def get(self, identity: PolicyId) -> Policy:
        """The policy that `identity` names, by index where that is not 0; ENOENT for none.

        By index, selector and context are not compared. The mark is compared as it was sent, so a value with
        bits outside its mask finds nothing, though an add with it was accepted.
        Follows: xfrm_policy_byid, xfrm_policy_bysel_ctx.
        """
        _check_id(identity)
        policy = self._named_by_index(identity) if identity.index else self._named_by_selector(identity)
        if policy is None:
            raise XfrmError(errno.ENOENT)
        return policy

    def lookup(
        self, type: PolicyType | int, direction: Direction | int, flow: Flow, if_id: int = 0
    ) -> Policy | None:
        """Of the policies that match `flow`, the one with the lowest priority and, among equals, the oldest.

        The exception: one kept in place by an update goes before its list's (see `update`).

        Follows: xfrm_policy_lookup_bytype, xfrm_policy_eval_candidates.
        """
        chains = self._bins.get((type, direction, if_id, len(flow.daddr)))
        if chains is None:
            return None
        daddr, packed = int.from_bytes(flow.daddr), pack(flow)
        found, limit = None, NO_RANK
        for classifier in chains.values():
            policy = classifier.lookup(daddr, packed, limit)
            # No place is above its position: what has a rank from `limit` on is no older than what was found.
            if policy is not None and policy.age_rank < limit:
                found, limit = policy, policy.age_rank
        return found

    def dump(self) -> Iterator[Policy]:
        """All policies, newest first. Follows: xfrm_policy_walk.

        The table may change meanwhile: what has died since is left out, what is new is not seen.
        """
        policies = list(reversed(self._by_position.values()))
        return (policy for policy in policies if not policy.dead)

    def count(self, direction: Direction | int) -> int:
        """How many policies of both types `direction` has."""
        return self._counts[direction]

    def any(self, direction: Direction | int) -> bool:
        """True when `direction` has policies of any type at all, which the fast ways around XFRM ask."""
        return self._counts[direction] > 0

    def classifiers(self) -> Iterator[Classifier[Policy]]:
        """Every classifier: of each type, direction, interface and family, one for each kind of list."""
        return (classifier for chains in self._bins.values() for classifier in chains.values())

    def info(self) -> SpdInfo:
        """The figures of GETSPDINFO. Follows: xfrm_spd_getinfo."""
        incnt, outcnt, fwdcnt = (self._counts[d] for d in (Direction.IN, Direction.OUT, Direction.FWD))
        inscnt, outscnt, fwdscnt = (self._own_counts[d] for d in (Direction.IN, Direction.OUT, Direction.FWD))
        return SpdInfo(incnt, outcnt, fwdcnt, inscnt, outscnt, fwdscnt, self._index_mask, HASH_MAX)

    # Its settings.

    def set_default(self, in_: int = 0, fwd: int = 0, out: int = 0) -> None:
        """Set what happens where nothing matches; ignore all but BLOCK and ACCEPT.

        Follows: xfrm_set_default.
        """
        for direction, action in ((Direction.IN, in_), (Direction.FWD, fwd), (Direction.OUT, out)):
            if action in (DefaultAction.BLOCK, DefaultAction.ACCEPT):
                self.default[direction] = DefaultAction(action)
        self.generation += 1

    def set_thresholds(self, ipv4: Thresholds | None = None, ipv6: Thresholds | None = None) -> None:
        """Keep the exact table's thresholds; no lookup changes by them. EINVAL. Follows: xfrm_set_spdinfo."""
        if ipv4 is not None and max(ipv4) > 32:
            raise invalid("Invalid hash threshold (must be <= 32 for IPv4)")
        if ipv6 is not None and max(ipv6) > 128:
            raise invalid("Invalid hash threshold (must be <= 128 for IPv6)")
        self.thresholds4 = self.thresholds4 if ipv4 is None else Thresholds(*ipv4)
        self.thresholds6 = self.thresholds6 if ipv6 is None else Thresholds(*ipv6)

    # Inside.

    def _named_by_index(self, identity: PolicyId) -> Policy | None:
        policy = self._by_index.get(identity.index)
        if policy is None or identity.index & 7 != identity.direction:
            return None
        config = policy.config
        same = (config.type, config.if_id, config.mark) == (identity.type, identity.if_id, identity.mark)
        return policy if same else None

    def _named_by_selector(self, identity: PolicyId) -> Policy | None:
        if identity.selector is None:
            return None
        return self._by_identity.get(
            (
                identity.direction,
                identity.type,
                identity.if_id,
                identity.selector,
                identity.mark,
                identity.context,
            )
        )

    def _free_index(self, direction: int, wanted: int) -> int:
        """`wanted` if it is not 0 and free, else the next free generated one. Follows: xfrm_gen_index."""
        index = wanted
        while index == 0 or index in self._by_index:
            index = self._index_generator | direction or 8
            self._index_generator = (self._index_generator + 8) & _U32
        return index

    def _link(self, config: PolicyConfig, index: int, now_s: int, place: int | None = None) -> Policy:
        """Follows: __xfrm_policy_link."""
        self._position += 1
        if config.index != index:
            config = config.numbered(index)
        policy = Policy(config, self._position, self._position if place is None else place, now_s)
        self._by_position[policy.position] = policy
        self._by_index[index] = policy
        self._by_identity[_identity(config)] = policy
        self._file(policy)
        self._counts[config.direction] += 1
        self.generation += 1
        return policy

    def _file(self, policy: Policy) -> None:
        key, chain = _bin(policy.config), _chain(policy.config.selector)
        chains = self._bins.get(key, {})
        if chain not in chains:
            chains[chain] = Classifier(BITS[policy.config.family])
            self._bins[key] = dict(sorted(chains.items()))
        chains[chain].add(policy)

    def _unfile(self, policy: Policy) -> None:
        key, chain = _bin(policy.config), _chain(policy.config.selector)
        chains = self._bins[key]
        chains[chain].remove(policy)
        if not chains[chain]:
            del chains[chain]
        if not chains:
            del self._bins[key]

    def _unlink(self, policy: Policy) -> None:
        """Follows: __xfrm_policy_unlink, xfrm_policy_kill."""
        config = policy.config
        del self._by_position[policy.position]
        del self._by_index[config.index]
        del self._by_identity[_identity(config)]
        self._unfile(policy)
        self._counts[config.direction] -= 1
        self.generation += 1
        policy.dead = True
        policy.genid += 1

    def _grow_hashes(self, direction: int) -> None:
        """Keep count of how many buckets the kernel would have now; they never shrink.

        The kernel does so a little later, on a workqueue. Follows: xfrm_policy_insert, xfrm_hash_resize.
        """
        if not self._is_crowded(self._counts[direction], self._dst_masks[direction]):
            return
        for each in Direction:
            if self._is_crowded(self._counts[each], self._dst_masks[each]):
                self._dst_masks[each] = self._dst_masks[each] * 2 + 1
        if self._is_crowded(sum(self._counts), self._index_mask):
            self._index_mask = self._index_mask * 2 + 1

    @staticmethod
    def _is_crowded(count: int, mask: int) -> bool:
        """Follows: xfrm_bydst_should_resize, xfrm_byidx_should_resize."""
        return mask + 1 < HASH_MAX and count > mask
