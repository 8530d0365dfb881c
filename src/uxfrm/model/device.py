"""Network devices as XFRM sees them, xfrm interfaces among them.

Follows: net/xfrm/xfrm_interface_core.c.
"""

from __future__ import annotations

from dataclasses import dataclass

from uxfrm.model.error import invalid

_MTU_MIN, _MTU_MAX = 68, 65535


@dataclass(frozen=True, slots=True)
class XfrmInterface:
    """What `ip link add NAME type xfrm dev LINK if_id ID external` says; `link` is an interface index.

    With `collect_md` (external) each packet brings its if_id and link.
    """

    if_id: int = 0
    link: int = 0
    collect_md: bool = False
    mtu: int = 1500

    def check(self) -> None:
        """XfrmError EINVAL with the kernel's words. Follows: dev_validate_mtu, xfrmi_newlink."""
        if self.mtu < _MTU_MIN:
            raise invalid("mtu less than device minimum")
        if self.mtu > _MTU_MAX:
            raise invalid("mtu greater than device maximum")
        if self.collect_md and (self.link or self.if_id):
            raise invalid("link and if_id must be zero")
        if not self.collect_md and not self.if_id:
            raise invalid("if_id must be non zero")


@dataclass(frozen=True, slots=True)
class Device:
    """One device; `xfrmi` where it is an xfrm interface."""

    ifindex: int
    name: str
    loopback: bool = False
    up: bool = True
    xfrmi: XfrmInterface | None = None
