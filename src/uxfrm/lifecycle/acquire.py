"""Acquires: what key managers are asked for, because a packet wants a state or a program says so.

Follows: km_query, xfrm_send_acquire, xfrm_init_tempstate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from uxfrm.lifecycle.database import StateDatabase
from uxfrm.lifecycle.events import Acquire, Event
from uxfrm.model.address import BITS, Address, is_any
from uxfrm.model.dump import LarvalConfig, PolicyDump
from uxfrm.model.flow import Flow
from uxfrm.model.selector import Selector
from uxfrm.model.state import SaDir
from uxfrm.model.template import Template

_SEQUENCE_MAX = 2**32 - 1
_PORT = 0xFFFF


class Acquires:
    """Questions to key managers. `tell` returns whether anybody heard one."""

    def __init__(self, sad: StateDatabase, tell: Callable[[Event], bool]) -> None:
        self._sad = sad
        self._tell = tell
        self._sequence = 0

    def query(self, wanted: LarvalConfig, template: Template, policy: PolicyDump) -> int:
        """Ask for a state; the sequence number of the question, or 0 where nobody listens."""
        sequence = self._sequence % _SEQUENCE_MAX + 1
        if not self._tell(Acquire(replace(wanted, seq=sequence), template, policy)):
            return 0
        self._sequence = sequence
        return sequence

    def larval(
        self,
        flow: Flow,
        daddr: Address,
        saddr: Address,
        template: Template,
        policy: PolicyDump,
        cpu: int | None,
        now: float,
    ) -> bool:
        """Ask for a state that a flow wants between these endpoints; keep a larval one until it comes.

        False where nobody listens: nothing is kept then.
        """
        wanted = replace(_wanted(flow, daddr, saddr, template, policy), pcpu=cpu)
        sequence = self.query(wanted, template, policy)
        if sequence:
            self._sad.insert_larval(replace(wanted, seq=sequence, direction=SaDir.OUT), now)
        return bool(sequence)


def _wanted(
    flow: Flow, daddr: Address, saddr: Address, template: Template, policy: PolicyDump
) -> LarvalConfig:
    """A state for just this flow. Follows: xfrm_init_tempstate, __xfrm_init_tempsel."""
    bits = BITS[flow.family]
    selector = Selector(
        flow.family, flow.daddr, flow.saddr, bits, bits, flow.dport, _PORT, flow.sport, _PORT, flow.proto,
        flow.oif,
    )  # fmt: skip
    return LarvalConfig(
        daddr=daddr if is_any(template.daddr) else template.daddr,
        saddr=saddr if is_any(template.saddr) else template.saddr,
        proto=template.proto,
        spi=template.spi,
        family=template.family,
        mode=template.mode,
        reqid=template.reqid,
        mark=policy.config.mark,
        if_id=policy.config.if_id,
        selector=selector,
    )
