"""States and policies for the two ends of a lab, in the words of `ip xfrm`."""

from __future__ import annotations

from dataclasses import dataclass

from uxfrm.lab.plan import Plan

KEY = "0x" + "3f" * 20
OTHER_KEY = "0x" + "4f" * 20
AEAD = f"aead rfc4106(gcm(aes)) {KEY} 128"
SPIS = ((0x1001, 0x1002), (0x1003, 0x1004))


@dataclass(frozen=True)
class Setup:
    """What is between the ends: tunnel or transport mode, ESP in UDP or not, which algorithm."""

    tunnel: bool = True
    in_udp: bool = False
    algorithm: str = AEAD

    def states(self, plan: Plan) -> list[str]:
        """A state each way and for each family, the same for both ends."""
        found = []
        for family, spis in zip((4, 6), SPIS, strict=True):
            left, right = (plan.address(end, family) for end in plan.ends)
            for source, destination, spi in ((left, right, spis[0]), (right, left, spis[1])):
                found.append(self._state(source, destination, spi, "0.0.0.0" if family == 4 else "::"))
        return found

    def _state(self, source: str, destination: str, spi: int, nowhere: str) -> str:
        mode = "tunnel" if self.tunnel else "transport"
        encap = f"encap espinudp 4500 4500 {nowhere}" if self.in_udp else ""
        ends = f"src {source} dst {destination} proto esp spi {spi}"
        return f"state add {ends} reqid 1 mode {mode} replay-window 64 {self.algorithm} {encap}"

    def policies(self, plan: Plan, end: int) -> list[str]:
        """The policies of one end, for both families: out, in and, for networks, fwd."""
        found = []
        for family in (4, 6):
            me, peer = (plan.address(plan.ends[n], family) for n in (end, 1 - end))
            own, other = me, peer
            if self.tunnel:
                own, other = (plan.network(plan.hosts[n], family) for n in (end, 1 - end))
            mode = "tunnel" if self.tunnel else "transport"
            out, back = f"src {me} dst {peer}", f"src {peer} dst {me}"
            found.append(f"policy add src {own} dst {other} dir out tmpl {out} proto esp reqid 1 mode {mode}")
            for way in ("in", "fwd") if self.tunnel else ("in",):
                selector = f"src {other} dst {own} dir {way}"
                found.append(f"policy add {selector} tmpl {back} proto esp reqid 1 mode {mode}")
        return found
