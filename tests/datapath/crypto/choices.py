"""Hypothesis strategies: any slot of any algorithm, any packet."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from uxfrm.model import algorithm as algo
from uxfrm.model.algorithm import Algorithm

lengths = st.one_of(st.integers(0, 80), st.integers(0, 9000))
highs = st.one_of(st.just(-1), st.sampled_from([0, 1, 0x80000000, 0xFFFFFFFF]), st.integers(0, 0xFFFFFFFF))
heads = st.binary(min_size=8, max_size=8)


def keys(bits: tuple[int, ...], most: int = 200) -> st.SearchStrategy[bytes]:
    sizes = st.sampled_from([b // 8 for b in bits]) if bits else st.integers(0, most)
    return sizes.flatmap(lambda size: st.binary(min_size=size, max_size=size))


@st.composite
def aeads(draw: Any, name: str = "") -> Algorithm:
    spec = draw(st.sampled_from([s for s in algo.AEADS if name in s.name]))
    return Algorithm(spec.name, draw(keys(spec.key_bits)), spec.icv_bits)


@st.composite
def auths(draw: Any, name: str = "") -> Algorithm:
    spec = draw(st.sampled_from([s for s in algo.AUTHS if name in s.name]))
    bits = draw(st.sampled_from(sorted({0, 8, 24, 32, 64, 96, 128, 256, spec.icv_bits, spec.full_bits})))
    return Algorithm(spec.name, draw(keys(spec.key_bits)), min(bits, spec.full_bits))


@st.composite
def crypts(draw: Any, name: str = "") -> Algorithm:
    found = [(s, bits) for s in algo.CRYPTS if name in s.name for bits in s.key_bits]
    spec, bits = draw(st.sampled_from(found))
    return Algorithm(spec.name, draw(st.binary(min_size=bits // 8, max_size=bits // 8)))


@st.composite
def algorithms(draw: Any) -> dict[str, Algorithm]:
    """What Keyring.add takes."""
    if draw(st.booleans()):
        return {"aead": draw(aeads())}
    found = {"crypt": draw(crypts())}
    if draw(st.booleans()):
        found["auth"] = draw(auths())
    return found


def text_bytes(draw: Any, block: int, empty: bool = True) -> bytes:
    """A text of whole blocks; long ones are one short piece repeated."""
    length = draw(lengths) // block * block
    piece = draw(st.binary(min_size=1, max_size=64))
    if not length and not empty:
        length = block
    return (piece * (length // len(piece) + 1))[:length]
