"""Templates: the transforms that a policy asks for (struct xfrm_user_tmpl)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from uxfrm.model.address import AF_INET, AF_INET6, ANY4, Address, any_address, is_any
from uxfrm.model.error import invalid
from uxfrm.model.flow import PROTO_AH, PROTO_COMP, PROTO_DSTOPTS, PROTO_ESP, PROTO_ROUTING

MAX_DEPTH = 6
ALL_ALGORITHMS = 0xFFFFFFFF

IPSEC_PROTOCOLS = frozenset({PROTO_ESP, PROTO_AH, PROTO_COMP})
TEMPLATE_PROTOCOLS = IPSEC_PROTOCOLS | {PROTO_ROUTING, PROTO_DSTOPTS}


class Mode(IntEnum):
    """Encapsulation modes, by the numbers of the UAPI."""

    TRANSPORT = 0
    TUNNEL = 1
    ROUTEOPTIMIZATION = 2
    IN_TRIGGER = 3
    BEET = 4
    IPTFS = 5

    @property
    def tunnels(self) -> bool:
        """True where the inner packet has addresses of its own (xfrm_mode flag TUNNEL)."""
        return self in (Mode.TUNNEL, Mode.BEET, Mode.IPTFS)


MODE_MAX = 6


@dataclass(frozen=True, slots=True)
class Template:
    """One transform: endpoints, protocol, mode and request id; 0 or the any address means "whatever fits".

    `optional` is level use. `share` is kept and never enforced. The algorithm masks are bit sets of PF_KEY
    numbers; only `aalgos` is ever checked, on input.
    """

    daddr: Address = ANY4
    saddr: Address = ANY4
    spi: int = 0
    proto: int = PROTO_ESP
    family: int = 0
    reqid: int = 0
    mode: int = Mode.TRANSPORT
    share: int = 0
    optional: bool = False
    aalgos: int = ALL_ALGORITHMS
    ealgos: int = ALL_ALGORITHMS
    calgos: int = ALL_ALGORITHMS

    def with_family(self, family: int) -> Template:
        """The template with a family it did not name; any addresses become that family's."""
        wide = any_address(family)
        return replace(
            self,
            family=family,
            daddr=wide if is_any(self.daddr) else self.daddr,
            saddr=wide if is_any(self.saddr) else self.saddr,
        )

    @property
    def any_algorithm(self) -> bool:
        """The kernel's shortcut: no mask excludes anything."""
        return self.aalgos & self.ealgos & self.calgos == ALL_ALGORITHMS


def check_templates(templates: tuple[Template, ...], family: int, outbound: bool) -> None:
    """Raise EINVAL for templates that the kernel refuses, in its order. Follows: validate_tmpl.

    Templates' families have been filled in by the caller (0 became the policy's).
    """
    if len(templates) > MAX_DEPTH:
        raise invalid(f"Template count must be <= XFRM_MAX_DEPTH ({MAX_DEPTH})")
    previous = family
    for template in templates:
        if template.mode in (Mode.TUNNEL, Mode.BEET):
            if template.optional and outbound:
                raise invalid("Mode in optional template not allowed in outbound policy")
        elif template.mode != Mode.IPTFS and template.family != previous:
            raise invalid("Mode in template doesn't support a family change")
        if not 0 <= template.mode < MODE_MAX:
            raise invalid("Mode in template must be < XFRM_MODE_MAX (6)")
        previous = template.family
        if template.family not in (AF_INET, AF_INET6):
            raise invalid("Invalid family in template")
        if template.proto not in TEMPLATE_PROTOCOLS:
            raise invalid("Invalid XFRM protocol in template")
