"""Policies: what must happen to matching packets (struct xfrm_userpolicy_info, RFC 4301 4.4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from uxfrm.model.address import BITS
from uxfrm.model.error import invalid
from uxfrm.model.lifetime import UNLIMITED, LifetimeConfig
from uxfrm.model.mark import NO_MARK, Mark
from uxfrm.model.selector import ANYTHING, Selector, check_prefixes
from uxfrm.model.template import Template, check_templates


class Direction(IntEnum):
    """Where a policy is looked up."""

    IN = 0
    OUT = 1
    FWD = 2


class Action(IntEnum):
    """What a policy says of its packets."""

    ALLOW = 0
    BLOCK = 1


class PolicyType(IntEnum):
    """Sub-policies are looked up before main ones."""

    MAIN = 0
    SUB = 1


class DefaultAction(IntEnum):
    """What happens to packets that no policy matches (XFRM_USERPOLICY_*)."""

    UNSPEC = 0
    BLOCK = 1
    ACCEPT = 2


OWN = 3
"""What is added to the direction of a socket's own policy, in its index and in dumps (XFRM_POLICY_MAX)."""

POLICY_LOCALOK, POLICY_ICMP, POLICY_CPU_ACQUIRE = 1, 2, 4

OFFLOAD_PACKET = 4


@dataclass(frozen=True, slots=True)
class SecurityContext:
    """An LSM label, kept and compared (struct xfrm_sec_ctx); `flawed` where its lengths lied."""

    doi: int
    alg: int
    text: str
    flawed: bool = False

    def check(self) -> None:
        """Follows: verify_sec_ctx_len."""
        if self.flawed:
            raise invalid("Invalid security context length")


@dataclass(frozen=True, slots=True)
class Offload:
    """A request to use a device's IPsec engine (struct xfrm_user_offload)."""

    ifindex: int
    flags: int


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """What a policy was made with; checked when made, in the kernel's order and words.

    Raises XfrmError(EINVAL). Follows: verify_newpolicy_info, xfrm_policy_construct.
    """

    direction: Direction | int
    selector: Selector = ANYTHING
    templates: tuple[Template, ...] = ()
    action: Action | int = Action.ALLOW
    priority: int = 0
    index: int = 0
    flags: int = 0
    share: int = 0
    type: PolicyType | int = PolicyType.MAIN
    lifetime: LifetimeConfig = UNLIMITED
    mark: Mark = NO_MARK
    if_id: int = 0
    context: SecurityContext | None = None
    offload: Offload | None = None

    @property
    def family(self) -> int:
        return self.selector.family

    def numbered(self, index: int) -> PolicyConfig:
        """The same policy under the index that the table gave it: nothing else is to be checked again."""
        found = object.__new__(PolicyConfig)
        for name in PolicyConfig.__slots__:
            object.__setattr__(found, name, getattr(self, name))
        object.__setattr__(found, "index", index)
        return found

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 3:
            raise invalid("Invalid policy share")
        if self.action not in (Action.ALLOW, Action.BLOCK):
            raise invalid("Invalid policy action")
        if self.family not in BITS:
            raise invalid("Invalid selector family")
        check_prefixes(self.selector, self.family, "Invalid selector family")
        if any(not template.family for template in self.templates):
            filled = tuple(t if t.family else t.with_family(self.family) for t in self.templates)
            object.__setattr__(self, "templates", filled)
        if self.direction not in (Direction.IN, Direction.OUT, Direction.FWD):
            raise invalid("Invalid policy direction")
        if self.index and self.index & 7 != self.direction:
            raise invalid("Policy index doesn't match direction")
        if self.context is not None:
            self.context.check()
        if self.type not in (PolicyType.MAIN, PolicyType.SUB):
            raise invalid("Invalid policy type")
        check_templates(self.templates, self.family, self.direction == Direction.OUT)
        if self.offload is not None:
            # Follows: xfrm_dev_policy_add, with a device that cannot.
            known = self.offload.flags == OFFLOAD_PACKET
            raise invalid(
                "Policy offload is not supported" if known else "Unrecognized flags in offload request"
            )
        object.__setattr__(self, "mark", Mark(*self.mark))
