"""A whole host's traffic through NFQUEUEs: rules, queues and raw sockets in one, as policies want them.

    transparent = Transparent(plan_of(namespace.policies))       # CAP_NET_ADMIN, CAP_NET_RAW
    for queue in transparent.queues:                             # each an attachment to wait for
        while (batch := queue.receive(now)) is not None:
            (namespace.input if queue.way is Way.IN else namespace.output)(batch)
            queue.send(batch, chosen(batch, *GO_ON))             # its verdict, in one call
    transparent.follow(plan_of(namespace.policies))              # when policies changed
    transparent.send(batch, chosen(batch, *GO_ON))               # of Namespace.released() and the like

Rule 1: closed before open: rules stand before any queue listens, and stay when the queues are closed.
Rule 2: a plan asks about more than the policies may want, never about less.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection

from uxfrm.attach.attachment import Way
from uxfrm.attach.nfqueue import Queue, open_queue
from uxfrm.attach.pathmtu import path_mtu
from uxfrm.attach.raw import Raw, open_raw
from uxfrm.attach.rules import ALL, CHECK, DECRYPT, PROTECT, PROTECT_TCP, Change, Match, Plan, Rules
from uxfrm.datapath.batch import Batch, Int64s
from uxfrm.model.outcome import Verdict
from uxfrm.model.policy import Action, DefaultAction, Direction, PolicyConfig
from uxfrm.tables.policies import PolicyTable

Matches = tuple[Match, ...]

GO_ON = (Verdict.DELIVERED, Verdict.FORWARDED, Verdict.CLEAR, Verdict.SENT, Verdict.RETURNED)
"""What of a batch is to be sent: in place where it can, else by the raw sockets."""

_INWARDS = (Direction.IN, Direction.FWD)


def plan_of(
    policies: PolicyTable,
    queue: int = 4500,
    udp_ports: tuple[int, ...] = (),
    closed: tuple[Matches, Matches] = ((), ()),
) -> Plan:
    """The plan for a table's policies and defaults; see Plan for the others.

    `closed`: what stays closed until a policy is about just that (as `rules.left` gives it). A policy of an
    xfrm interface counts too: what is routed to the interface is asked about.
    """
    configs = [policy.config for policy in policies.dump()]
    blocked = {way for way in Direction if policies.default[way] == DefaultAction.BLOCK}
    out = ALL if Direction.OUT in blocked else _matches(configs, (Direction.OUT,))
    into = ALL if blocked.intersection(_INWARDS) else _matches(configs, _INWARDS)
    shut = (kept(closed[0], out), kept(closed[1], into))
    return Plan(queue, out, into, udp_ports, closed_out=shut[0], closed_into=shut[1])


def kept(closed: Matches, named: Collection[Match]) -> Matches:
    """What stays closed where `named` is asked about."""
    return () if ALL[0] in named else tuple(match for match in closed if match not in named)


def _matches(configs: list[PolicyConfig], ways: tuple[Direction, ...]) -> tuple[Match, ...]:
    """What policies of these directions may stop or change."""
    return tuple(match for config in configs if config.direction in ways for match in matches_of(config))


def matches_of(config: PolicyConfig) -> Matches:
    """What a policy may stop or change; one that only allows asks for nothing."""
    return (Match.of(config.selector),) if config.templates or config.action == Action.BLOCK else ()


class Transparent:
    """Rules, queues and raw sockets of this network namespace. Raises AttachmentError.

    `mtu_of` as for `open_queue`.
    """

    def __init__(self, plan: Plan, mtu_of: Callable[[bytes], int | None] = path_mtu) -> None:
        self.queues: list[Queue] = []
        self.raw: dict[int, Raw] = {}
        self.rules = Rules(plan)
        self._queue = plan.queue
        self.rules.install()
        try:
            self.raw[4] = open_raw(socket.AF_INET, ())
            self.raw[6] = open_raw(socket.AF_INET6, ())
            for number, way in ((DECRYPT, Way.IN), (CHECK, Way.IN), (PROTECT, Way.OUT)):
                self.queues.append(open_queue(plan.queue + number, way, self.raw))
            last = plan.queue + PROTECT_TCP
            self.queues.append(open_queue(last, Way.OUT, self.raw, gso=True, mtu_of=mtu_of))
        except BaseException:
            self.close()
            raise

    def follow(self, plan: Plan) -> None:
        """Have the rules of another plan with the same queues. Raises AttachmentError, ValueError."""
        if plan.queue != self._queue:
            raise ValueError("the queues are those that were opened")
        self.rules.install(plan)

    def change(self, out: Change, into: Change, plan: Callable[[], Plan]) -> None:
        """Ask about what came, and not about what is gone: see Rules.change. Raises AttachmentError."""
        self.rules.change(out, into, plan)

    def send(self, batch: Batch, those: Int64s) -> int:
        """Send packets of a batch that no queue gave: made here, or held until now."""
        return self.queues[0].send(batch, those)

    def close(self, open_: bool = False) -> None:
        """Close queues and sockets. What the rules match is dropped from now on, unless `open_`."""
        for queue in self.queues:
            queue.close()
        for raw in self.raw.values():
            raw.close()
        if open_:
            self.rules.close()
