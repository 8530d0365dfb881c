"""Scripted scenarios: what happens to an IPsec host in time, each a function of the host it happens to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from linux.hosts import Host

Play = Callable[[Host], None]


class Scenario(NamedTuple):
    """A scenario, and what its transcript on Linux must have in it, or it does not show what it is for."""

    name: str
    play: Play
    shows: tuple[str, ...]


ENDS = "src 10.0.0.2 dst 10.0.0.1 proto esp"
ENDS_IN = "src 10.0.0.1 dst 10.0.0.2 proto esp"
OTHER_ENDS = "src 10.2.0.2 dst 10.0.0.1 proto esp"
GCM = f"aead rfc4106(gcm(aes)) 0x{bytes(range(20)).hex()} 128"
FLOW = "src 10.1.0.2/32 dst 10.1.0.1/32"
FLOW_IN = "src 10.1.0.1/32 dst 10.1.0.2/32"
TEMPLATE = f"tmpl {ENDS} reqid 7 mode tunnel"
TEMPLATE_IN = f"tmpl {ENDS_IN} reqid 7 mode tunnel"
POLICY = f"xfrm policy add {FLOW} dir out {TEMPLATE}"
POLICY_IN = f"xfrm policy add {FLOW_IN} dir in {TEMPLATE_IN}"


def scenario(*shows: str) -> Callable[[Play], Scenario]:
    """Make a function a scenario."""
    return lambda play: Scenario(play.__name__, play, shows)


def state(spi: int, more: str = "", ends: str = ENDS, do: str = "add", mode: str = "tunnel") -> str:
    """The line that adds (or updates) a state."""
    return f"xfrm state {do} {ends} spi {spi:#x} reqid 7 mode {mode} {GCM} {more}"
