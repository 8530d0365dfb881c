"""The matrix that is played both ways with Linux: what is combined, and in which groups it goes side by side.

Algorithms with modes, families, ESN and UDP; stacks of two to five transforms (Linux makes no more:
test_nested.py), of one policy and of two; TFC padding.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from linux.lanes import Lanes, parts
from linux.suites import AH_SUITES, AUTHS, BASIC, CHACHA, CIPHERS, CLEAR, GCM, PAYLOADS
from linux.twin import BEETS, BEHIND, DEFLATE, LINK, MIDDLE, SHAPES, TUNNELS, Case, Shape, Suite, with_auth
from uxfrm.datapath.resolve import transform_rank
from uxfrm.model.address import ANY4, ANY6
from uxfrm.model.flow import PROTO_AH, PROTO_COMP, PROTO_ESP
from uxfrm.model.state import AF_UNSPEC_FLAG, ENCAP_ESPINUDP, Encap
from uxfrm.model.template import MAX_DEPTH, Mode

_PORT = 4500
_SIDE_BY_SIDE = 32
_ALL_SHAPES = (*SHAPES, *BEETS)

# Fewer for what is long: nothing, odd, and what a deflate stream shortens.
FEW = (b"", bytes(range(17)), bytes(i & 63 for i in range(900)))
# Linux's UDP takes shorter ones for cut off: test_udp_encapsulation.py.
IN_UDP = PAYLOADS[3:]


def in_udp(case: Case) -> Case:
    """The case with its outermost ESP in UDP."""
    *inside, last = case.layers
    last = replace(last, encap=Encap(ENCAP_ESPINUDP, _PORT, _PORT, ANY4 if last.shape.outer == 4 else ANY6))
    return _of([*inside, last])


def _of(layers: Sequence[Case]) -> Case:
    return replace(layers[0], around=tuple(layers[1:]))


# -- stacks of transforms


class Kind(NamedTuple):
    """A transform of a stack; `outer` is the outer family of what makes a new header, else 0."""

    proto: int
    mode: Mode
    outer: int = 0


TRANSPORTS = [Kind(proto, Mode.TRANSPORT) for proto in (PROTO_ESP, PROTO_AH, PROTO_COMP)]
KINDS = [
    *TRANSPORTS,
    *(Kind(*tunnel) for tunnel in product((PROTO_ESP, PROTO_AH, PROTO_COMP), (Mode.TUNNEL,), (4, 6))),
    *(Kind(*beet) for beet in product((PROTO_ESP, PROTO_AH), (Mode.BEET,), (4, 6))),
]

_SUITES: dict[int, Sequence[Suite]] = {
    PROTO_ESP: (GCM[2], with_auth(CIPHERS[0], *AUTHS[3]), CHACHA, CLEAR, with_auth(CIPHERS[3], *AUTHS[1])),
    PROTO_AH: (AH_SUITES[3], AH_SUITES[1], AH_SUITES[7], AH_SUITES[5]),
    PROTO_COMP: (DEFLATE,),
}


class Stack(NamedTuple):
    """Transforms, innermost first, around packets of a family; a sub policy asks for the first `sub`."""

    inner: int
    kinds: tuple[Kind, ...]
    sub: int = 0

    @property
    def can_be_made(self) -> bool:
        """BEET takes its inner addresses from its selector, so it is the first that changes them.

        Linux leaves AH no room for options, so there it is IPv6 in IPv6.
        """
        changing = [kind for kind in self.kinds if kind.outer]
        rooms = all(
            (self.inner, kind.outer) == (6, 6)
            for kind in changing
            if (kind.proto, kind.mode) == (PROTO_AH, Mode.BEET)
        )
        return rooms and all(kind.mode != Mode.BEET for kind in changing[1:])

    @property
    def can_be_asked_for(self) -> bool:
        """A second policy's states are looked for between the packet's own ends, up to its first tunnel.

        Follows: xfrm_tmpl_resolve_one.
        """
        return bool(self.kinds[self.sub].outer) or not any(kind.outer for kind in self.kinds[: self.sub])

    @property
    def survives(self) -> bool:
        """Linux 6.1 opens it whoever sends it.

        AH right inside another transform in transport mode or BEET is refused (ah_input has no header to
        check then). In IPv6 around an IPv4 packet that is protected already, Linux puts a fragment header,
        which no AH around it survives. Of two policies, IPv6 sorts the transforms, wherever their ends are.
        """
        fragment = False
        for kind, inside, family in zip(self.kinds[1:], self.kinds, self._families[1:], strict=False):
            fragment = (fragment or (family, kind.outer) == (4, 6)) and kind.outer != 4
            if fragment and kind.proto == PROTO_AH:
                return False
            if inside.proto == PROTO_AH and kind.proto != PROTO_AH and kind.mode != Mode.TUNNEL:
                return False
        ranks = [transform_rank(kind.mode, kind.proto) for kind in self.kinds]
        return not self.sub or self.inner == 4 or ranks == sorted(ranks)

    @property
    def _families(self) -> list[int]:
        """Of what each transform is around."""
        families = [self.inner]
        for kind in self.kinds[:-1]:
            families.append(kind.outer or families[-1])
        return families

    def case(self, number: int) -> Case:
        """Its states, each with another suite of its protocol for another number."""
        layers = []
        for i, (kind, shape) in enumerate(zip(self.kinds, self._shapes(), strict=True)):
            suites = _SUITES[kind.proto]
            layers.append(Case(suites[(number + i) % len(suites)], shape, flags=AF_UNSPEC_FLAG))
        return replace(_of(layers), sub=self.sub)

    def _shapes(self) -> Iterator[Shape]:
        """From the nets behind the ends to the link, by those between where there are more tunnels."""
        left = sum(1 for kind in self.kinds if kind.outer)
        net = BEHIND if left else LINK
        for kind, family in zip(self.kinds, self._families, strict=True):
            if kind.outer:
                left -= 1
                net = MIDDLE if left and net == BEHIND else LINK
            yield Shape(kind.mode, kind.outer or family, family, net=net)


def stacks(depth: int) -> list[Stack]:
    """Every one of this depth."""
    made = (Stack(family, kinds) for family in (4, 6) for kinds in product(KINDS, repeat=depth))
    return [stack for stack in made if stack.can_be_made]


def some_stacks(depth: int, count: int) -> list[Stack]:
    """As many different ones of this depth, the same in every run."""
    draw = random.Random(depth)
    found: dict[Stack, None] = {}
    while len(found) < count:
        stack = Stack(draw.choice((4, 6)), tuple(draw.choices(KINDS, k=depth)))
        if stack.can_be_made:
            found[stack] = None
    return list(found)


def _of_two_policies() -> list[Stack]:
    """Each pair by a sub and a main policy; deeper ones cut anywhere. Both together ask for five at most."""
    cut = [stack._replace(sub=1) for stack in stacks(2)[::2]]
    for depth in range(3, MAX_DEPTH):
        cut += [stack._replace(sub=1 + i % (depth - 1)) for i, stack in enumerate(some_stacks(depth, 32))]
    return [stack for stack in cut if stack.can_be_asked_for]


# -- groups


def _side_by_side(
    name: str, cases: Iterable[Case], payloads: Sequence[bytes], lossless: bool = True
) -> list[Lanes]:
    return [
        Lanes.of(f"{name}-{number}", some, payloads, lossless)
        for number, some in enumerate(parts(list(cases), _SIDE_BY_SIDE), 1)
    ]


def _stacked(name: str, found: Sequence[Stack]) -> list[Lanes]:
    """What comes out is known; of the rest, that both sides do the same."""
    numbered = [(stack, stack.case(number)) for number, stack in enumerate(found)]
    whole = [case for stack, case in numbered if stack.survives]
    rest = [case for stack, case in numbered if not stack.survives]
    return _side_by_side(name, whole, FEW) + _side_by_side(f"{name}-refused", rest, FEW, lossless=False)


def _algorithms() -> list[Lanes]:
    with_numbers = [suite for suite in BASIC if suite.aead or suite.auth]
    beet = [Case(suite, shape) for suite in BASIC for shape in BEETS]
    esn = [
        Case(suite, _ALL_SHAPES[(i + offset) % len(_ALL_SHAPES)], esn=True)
        for i, suite in enumerate([*with_numbers, *AH_SUITES])
        for offset in (0, 3, 5, 8)
        if (suite.crypt or suite.aead or _ALL_SHAPES[(i + offset) % len(_ALL_SHAPES)].mode != Mode.BEET)
    ]
    udp = [
        in_udp(Case(suite, _ALL_SHAPES[(i + offset) % len(_ALL_SHAPES)], esn=bool(offset % 2)))
        for i, suite in enumerate(BASIC)
        for offset in ((0, 3, 5, 8) if suite.aead or suite.auth else (0, 4, 8))
    ]
    return [
        *_side_by_side("beet", beet, PAYLOADS),
        *_side_by_side("esn", esn, PAYLOADS),
        *_side_by_side("udp", udp, IN_UDP),
    ]


def _padded() -> list[Case]:
    """TFC padding below, at and above what is there, and at and above what the MTU leaves."""
    sizes = (1, 28, 100, 128, 129, 1000, 1028, 1029, 1300, 1400, 1428, 1438, 1446, 1460, 1500, 9000)
    suites = (GCM[2], with_auth(CIPHERS[0], *AUTHS[3]), CLEAR)
    return [
        Case(suites[i % len(suites)], shape, tfcpad=size)
        for i, (shape, size) in enumerate(product(TUNNELS, sizes))
    ]


def _groups() -> list[Lanes]:
    in_six = [s for s in some_stacks(2, 60) if s.survives and s.kinds[1].proto == PROTO_ESP]
    return [
        *_algorithms(),
        *_stacked("2-deep", stacks(2)),
        *_stacked("3-deep", some_stacks(3, 160)),
        *(group for depth in (4, 5) for group in _stacked(f"{depth}-deep", some_stacks(depth, 64))),
        *_stacked("sub-and-main", _of_two_policies()),
        *_side_by_side("stacks-in-udp", (in_udp(s.case(i)) for i, s in enumerate(in_six)), FEW[1:]),
        *_side_by_side("tfc", _padded(), PAYLOADS),
    ]


GROUPS = _groups()
# Of IPv6's sorted transforms Linux cannot send some at all: those are only sent to it.
FROM_LINUX = [lanes.reversed() for lanes in GROUPS if not lanes.name.startswith("sub-and-main-refused")]
