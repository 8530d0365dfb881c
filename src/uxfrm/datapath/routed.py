"""Output decisions by device: xfrm interfaces as routing targets, loopback, disable_xfrm.

Follows: xfrm_lookup_with_ifid, xfrmi_xmit2.
"""

from __future__ import annotations

from uxfrm.datapath.context import Context
from uxfrm.datapath.policycheck import Decision
from uxfrm.datapath.resolve import Resolution, default_output, resolve
from uxfrm.model.device import XfrmInterface
from uxfrm.model.flow import Flow
from uxfrm.model.outcome import Outcome, Verdict


def route(context: Context, flow: Flow, if_id: int, link: int) -> Resolution:
    """Decide over a flow that is routed to device `flow.oif`; `if_id` and `link` are the packet's metadata.

    1. as on every device: the policies of if_id 0  2. what they leave in clear: the interface's
    """
    found = _resolve(context, flow)
    device = context.devices.get(flow.oif)
    if (
        device is None
        or device.xfrmi is None
        or found.states
        or found.decision.outcome.verdict != Verdict.CLEAR
    ):
        return found
    xfrmi = device.xfrmi
    return _through(context, flow, XfrmInterface(if_id, link) if xfrmi.collect_md else xfrmi)


def _resolve(context: Context, flow: Flow) -> Resolution:
    """The lookup that comes with the route."""
    device = context.devices.get(flow.oif)
    loopback = device is not None and device.loopback
    if context.devices.disable_xfrm(flow.oif, flow.family):
        return Resolution(default_output(context.policies, loopback))
    return resolve(
        context.policies, context.states, flow, context.source_of,
        acquire=context.acquire, loopback=loopback,
    )  # fmt: skip


def _through(context: Context, flow: Flow, xfrmi: XfrmInterface) -> Resolution:
    """The lookup of an xfrm interface; selectors see its link. Follows: xfrmi_xmit2."""
    if not xfrmi.if_id:
        return Resolution(Decision(Outcome.OUT_CARRIER, None, "the packet has no metadata with an if_id"))
    found = resolve(
        context.policies, context.states, flow._replace(oif=xfrmi.link), context.source_of,
        xfrmi.if_id, context.acquire,
    )  # fmt: skip
    if found.states:
        looping = context.device_of(found.states[-1].config.daddr) == flow.oif
        return Resolution(Decision(Outcome.OUT_ROUTING_LOOP, found.decision.policy)) if looping else found
    if found.decision.outcome.verdict != Verdict.CLEAR:
        return found
    words = f"no policy with if_id {xfrmi.if_id:#x} asks for one"
    return Resolution(Decision(Outcome.OUT_CARRIER, found.decision.policy, words), settled=found.settled)
