"""Output decisions by device: xfrm interfaces as routing targets, loopback, disable_xfrm.

Follows: xfrm_lookup_with_ifid, xfrmi_xmit2.
"""

from __future__ import annotations

from typing import NamedTuple

from uxfrm.datapath.context import Context
from uxfrm.datapath.policycheck import Decision
from uxfrm.datapath.resolve import MUST_ASK, Acquire, Resolution, default_output, resolve
from uxfrm.model.device import XfrmInterface
from uxfrm.model.flow import Flow
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.model.policy import Direction
from uxfrm.model.template import Mode
from uxfrm.tables.states import State


class Asker(NamedTuple):
    """On whose behalf a flow is looked up: the packet's CPU, socket and metadata (if_id, link).

    `acquire` is as resolve.resolve takes it.
    """

    acquire: Acquire | None
    cpu: int = 0
    socket: int = 0
    if_id: int = 0
    link: int = 0


def route(context: Context, flow: Flow, asker: Asker) -> Resolution:
    """Decide over a flow that is routed to device `flow.oif`.

    1. as on every device: the socket's policy, the policies of if_id 0  2. what they leave in clear: the
    interface's
    """
    found = _resolve(context, flow, asker)
    xfrmi = context.devices.xfrmi(flow.oif)
    if xfrmi is None or found is MUST_ASK or found.states:
        return found
    if found.decision.outcome.verdict != Verdict.CLEAR:
        return found
    return _through(
        context, flow, asker, XfrmInterface(asker.if_id, asker.link) if xfrmi.collect_md else xfrmi
    )


def _resolve(context: Context, flow: Flow, asker: Asker) -> Resolution:
    """The lookup that comes with the route."""
    device = context.devices.get(flow.oif)
    loopback = device is not None and device.loopback
    own = context.sockets.lookup(asker.socket, Direction.OUT, flow)
    if own is None and context.devices.disable_xfrm(flow.oif, flow.family):
        return Resolution(default_output(context.policies, loopback))
    return resolve(
        context.policies, context.states, flow, context.source_of, 0, asker.acquire, asker.cpu, own, loopback
    )


def _through(context: Context, flow: Flow, asker: Asker, xfrmi: XfrmInterface) -> Resolution:
    """The lookup of an xfrm interface; selectors see its link. Follows: xfrmi_xmit2."""
    if not xfrmi.if_id:
        return Resolution(Decision(Outcome.OUT_NO_METADATA))
    found = resolve(
        context.policies, context.states, flow._replace(oif=xfrmi.link), context.source_of, xfrmi.if_id,
        asker.acquire, asker.cpu,
    )  # fmt: skip
    if found is MUST_ASK:
        return found
    if found.states:
        if _loops(context, found.states, flow.oif):
            return Resolution(Decision(Outcome.OUT_ROUTING_LOOP, found.decision.policy))
        return found
    if found.decision.outcome.verdict != Verdict.CLEAR:
        return found
    words = f"no policy with if_id {xfrmi.if_id:#x} asks for one"
    return Resolution(Decision(Outcome.OUT_CARRIER, found.decision.policy, words), settled=found.settled)


def _loops(context: Context, states: tuple[State, ...], ifindex: int) -> bool:
    """True where outer packets come to the interface again: without a tunnel they take the same route.

    Follows: xfrm_bundle_create, which looks for another route in all modes but transport.
    """
    ends = [state.config.daddr for state in states if state.config.mode != Mode.TRANSPORT]
    return not ends or context.device_of(ends[-1]) == ifindex
