"""States and policies for the two ends of a lab, in the words of `ip xfrm`, and files for `uxfrm up`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from uxfrm.lab.plan import Plan

SPIS = ((0x1001, 0x1002), (0x1003, 0x1004))
"""Of IPv4 and IPv6, from the first end and from the second."""
_KEY_BYTES = 20
_MODES = {False: "transport", True: "tunnel"}


def gcm(key: bytes) -> str:
    """AES-GCM with a key of 20 bytes, the last four its salt."""
    if len(key) != _KEY_BYTES:
        raise ValueError(f"a key has {_KEY_BYTES} bytes")
    return f"aead rfc4106(gcm(aes)) 0x{key.hex()} 128"


@dataclass(frozen=True)
class Setup:
    """What is between the ends: the algorithm with its key, tunnel or transport mode, ESP in UDP or not.

    `queues`: the hosts' packets are taken by NFQUEUEs, not led into a TUN device.
    """

    algorithm: str
    tunnel: bool = True
    in_udp: bool = False
    queues: bool = False

    def states(self, plan: Plan) -> list[str]:
        """A state each way and for each family, the same for both ends."""
        found = []
        for family, spis in zip((4, 6), SPIS, strict=True):
            left, right = (plan.address(end, family) for end in plan.ends)
            for source, destination, spi in ((left, right, spis[0]), (right, left, spis[1])):
                found.append(self._state(source, destination, spi, "0.0.0.0" if family == 4 else "::"))
        return found

    def _state(self, source: str, destination: str, spi: int, nowhere: str) -> str:
        encap = f"encap espinudp 4500 4500 {nowhere}" if self.in_udp else ""
        ends = f"src {source} dst {destination} proto esp spi {spi}"
        return (
            f"state add {ends} reqid 1 mode {_MODES[self.tunnel]} replay-window 64 {self.algorithm} {encap}"
        )

    def policies(self, plan: Plan, end: int) -> list[str]:
        """The policies of one end, for both families: out, in and, for networks, fwd."""
        found = []
        for family in (4, 6):
            me, peer = (plan.address(plan.ends[n], family) for n in (end, 1 - end))
            own, other = me, peer
            if self.tunnel:
                own, other = (plan.network(plan.hosts[n], family) for n in (end, 1 - end))
            how = f"proto esp reqid 1 mode {_MODES[self.tunnel]}"
            out, back = f"src {me} dst {peer}", f"src {peer} dst {me}"
            found.append(f"policy add src {own} dst {other} dir out tmpl {out} {how}")
            for way in ("in", "fwd") if self.tunnel else ("in",):
                selector = f"src {other} dst {own} dir {way}"
                found.append(f"policy add {selector} tmpl {back} {how}")
        return found

    def attach(self) -> list[str]:
        """What a daemon of it needs attached."""
        taken = ["nfqueue"] if self.queues else ["tun=uxfrm0", "raw"]
        return [*taken, *(["udp=4500"] if self.in_udp else [])]

    def host_file(self, plan: Plan, end: int) -> str:
        """One end's file for `uxfrm up`. It holds the key."""
        words: dict[str, Sequence[str]] = {
            "attach": self.attach(),
            "policies": [line.removeprefix("policy add ") for line in self.policies(plan, end)],
            "states": [line.removeprefix("state add ") for line in self.states(plan)],
        }
        # Lists of strings are the same in TOML and JSON.
        return "".join(f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in words.items())
