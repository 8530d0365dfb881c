"""Bundles of two to six transforms, made by chance from a seed: whatever Linux nests in whatever.

Each is a chain of transport, tunnel and BEET modes, innermost first, in which every layer's inner family is
that of what is inside, and its addresses those of what is around.
"""

from __future__ import annotations

import random
from dataclasses import replace

from linux.suites import AH_SUITES, CHACHA, CLEAR, GCM, nest
from linux.twin import BEHIND, DEFLATE, MIDDLE, TRANSPORT4, TRANSPORT6, TUNNELS, Case, Shape, Suite, with_auth
from linux.twin import cipher as _cipher
from uxfrm.model.template import Mode

_CBC = with_auth(_cipher("cbc(aes)", 16), "hmac(sha256)", 32, 128)
_ESP = (GCM[2], _CBC, CHACHA, CLEAR)
_TRANSPORT = {4: TRANSPORT4, 6: TRANSPORT6}


def _shapes(chance: random.Random, depth: int) -> list[Shape]:
    """A chain of modes; the last tunnel's ends are on the link, the others' between."""
    tunnels = sorted(chance.sample(range(depth), chance.randint(0, min(depth, 4))))
    family = chance.choice((4, 6))
    made: list[Shape] = []
    for i in range(depth):
        net = 0 if not tunnels or i > tunnels[-1] else MIDDLE
        if i in tunnels:
            tunnel = chance.choice([shape for shape in TUNNELS if shape.inner == family])
            made.append(replace(tunnel, net=0 if i == tunnels[-1] else MIDDLE))
            family = tunnel.outer
        else:
            inside = tunnels and i < tunnels[0]
            made.append(replace(_TRANSPORT[family], net=BEHIND if inside else net))
    return made


def chains(many: int, seed: int = 1, depths: tuple[int, ...] = (2, 3, 4, 5)) -> list[Case]:
    """Bundles of ESP: of these depths in turn, each algorithm somewhere."""
    chance = random.Random(seed)
    found: dict[str, Case] = {}
    while len(found) < many:
        depth = depths[len(found) % len(depths)]
        case = nest(tuple(chance.sample(_ESP, min(depth, 4))), *_shapes(chance, depth))
        found.setdefault(case.name, case)
    return list(found.values())


def _sound(case: Case) -> bool:
    """AH survives: Linux 6.1 puts a fragment header before what is in IPv6 around IPv4, twice protected."""
    shapes = [layer.shape for layer in case.layers]
    return not any(shape.mode.tunnels and shape.outer == 6 != shape.inner for shape in shapes)


def with_ah(many: int, seed: int = 2) -> list[Case]:
    """Bundles with AH outermost, in transport mode or as a tunnel."""
    chance = random.Random(seed)
    found: dict[str, Case] = {}
    while len(found) < many:
        depth = 2 + len(found) % 4
        inside = [chance.choice(_ESP) for _ in range(depth - 1)]
        suites: tuple[Suite, ...] = (*inside, chance.choice(AH_SUITES))
        case = nest(suites, *_shapes(chance, depth))
        if _sound(case):
            found.setdefault(case.name, case)
    return list(found.values())


def in_beet() -> list[Case]:
    """ESP in BEET mode with ESP or AH in transport mode around it. The inner addresses are the selector's."""
    cases = []
    for outer in (4, 6):
        beet = Shape(Mode.BEET, outer, outer)
        cases += [nest((GCM[2], around), beet, _TRANSPORT[outer]) for around in (_CBC, AH_SUITES[3])]
    return cases


def compressed() -> list[Case]:
    """IPComp with AH around it, and with ESP and AH."""
    found = []
    for shape in _TRANSPORT.values():
        found += [nest((DEFLATE, AH_SUITES[i]), shape, shape) for i in (1, 3)]
        found.append(nest((DEFLATE, GCM[2], AH_SUITES[3]), shape, shape, shape))
    for tunnel in TUNNELS:
        if tunnel.outer == tunnel.inner:
            found.append(nest((DEFLATE, AH_SUITES[3]), tunnel, _TRANSPORT[tunnel.outer]))
            found.append(nest((DEFLATE, AH_SUITES[3]), replace(_TRANSPORT[tunnel.inner], net=BEHIND), tunnel))
    return found


def sorted_by_linux(case: Case) -> bool:
    """For IPv6 the templates of two policies are put in another order: transport mode innermost.

    Follows: xfrm_tmpl_sort.
    """
    tunnels = [layer.shape.mode.tunnels for layer in case.layers]
    return case.shape.inner == 6 and tunnels != sorted(tunnels)


def merged() -> list[Case]:
    """The innermost layer by a sub policy, what is around it by a main one.

    Of tunnels that Linux puts in another order, the outermost would be one whose ends are not on the link.
    """
    found = [replace(case, sub=True) for case in chains(16, seed=3)]
    return [case for case in found if not sorted_by_linux(case) or _tunnels(case) < 2]


def _tunnels(case: Case) -> int:
    return sum(layer.shape.mode.tunnels for layer in case.layers)


def names(cases: list[Case]) -> list[str]:
    """Short names: modes and algorithms of the layers."""
    return [f"{len(case.layers)}-{case.name.replace('-af-unspec', '')}" for case in cases]
