"""Moving policies and states to new endpoints (struct xfrm_user_migrate)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from uxfrm.model.address import BITS, Address, is_any
from uxfrm.model.error import invalid
from uxfrm.model.policy import Direction, PolicyType
from uxfrm.model.selector import Selector
from uxfrm.model.state import Encap
from uxfrm.model.template import MAX_DEPTH, Mode, Template


class MigrateEntry(NamedTuple):
    """One pair of endpoints and the pair that takes its place; reqid 0 fits every state between the old."""

    old_daddr: Address
    old_saddr: Address
    new_daddr: Address
    new_saddr: Address
    proto: int
    mode: int
    reqid: int
    old_family: int
    new_family: int

    @property
    def old(self) -> tuple[object, ...]:
        """What no two entries may share."""
        return (self.old_daddr, self.old_saddr, self.proto, self.mode, self.reqid, self.old_family)

    def fits(self, template: Template) -> bool:
        """True when a template is to move. Follows: migrate_tmpl_match."""
        if (template.mode, template.proto) != (self.mode, self.proto):
            return False
        if self.reqid and template.reqid != self.reqid:
            return False
        if Mode(template.mode).tunnels:
            return (template.daddr, template.saddr) == (self.old_daddr, self.old_saddr)
        return template.mode == Mode.TRANSPORT


class KmAddress(NamedTuple):
    """The key managers' own addresses, passed on to listeners (struct xfrm_user_kmaddress)."""

    local: Address
    remote: Address
    reserved: int
    family: int


@dataclass(frozen=True, slots=True)
class Migration:
    """What a MIGRATE request wants: of the policy that `selector` as a flow finds, and of its states."""

    selector: Selector
    direction: int
    entries: tuple[MigrateEntry, ...]
    type: PolicyType | int = PolicyType.MAIN
    if_id: int = 0
    encap: Encap | None = None
    kmaddress: KmAddress | None = None

    def check(self) -> None:
        """EINVAL, in the kernel's words. Follows: xfrm_migrate_check."""
        if not 0 < len(self.entries) <= MAX_DEPTH:
            raise invalid("Invalid number of SAs to migrate, must be 0 < num <= XFRM_MAX_DEPTH (6)")
        for number, entry in enumerate(self.entries):
            if entry.new_family in BITS and (is_any(entry.new_daddr) or is_any(entry.new_saddr)):
                raise invalid("Addresses in the MIGRATE attribute's list cannot be null")
            if any(entry.old == other.old for other in self.entries[number + 1 :]):
                raise invalid("Entries in the MIGRATE attribute's list must be unique")
        if self.direction > Direction.FWD:
            raise invalid("Invalid policy direction")
