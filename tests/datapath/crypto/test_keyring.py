"""Slots: which engine takes them, what happens without one, and that keys do not outlive them."""

from __future__ import annotations

import ctypes
import errno
import gc
from typing import Any

import numpy as np
import pytest

from datapath.crypto.sealing import ENGINES, Packet, opened, sealed, slot_for
from uxfrm.datapath.crypto import ipsec_mb, keyring, known_answers, libcrypto, libnettle
from uxfrm.datapath.crypto import kinds as k
from uxfrm.datapath.crypto.keyring import Keyring, default_engines
from uxfrm.model import algorithm as algo
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.error import XfrmError

GCM = ("rfc4106(gcm(aes))", bytes(range(20)), 128)
CBC, SHA256 = ("cbc(aes)", bytes(range(16))), ("hmac(sha256)", bytes(range(32)), 128)

EVERY = [
    *({"aead": Algorithm(s.name, bytes(bits // 8), s.icv_bits)} for s in algo.AEADS for bits in s.key_bits),
    *(
        {"crypt": algo.crypt("cipher_null", b""), "auth": algo.auth(s.name, bytes(bits // 8))}
        for s in algo.AUTHS
        for bits in s.key_bits or (0, 128, 4096)
    ),
    *({"crypt": algo.crypt(s.name, bytes(range(bits // 8)))} for s in algo.CRYPTS for bits in s.key_bits),
]


def name_of(chosen: dict[str, Algorithm]) -> str:
    one = chosen.get("auth") or chosen.get("aead") or chosen["crypt"]
    return f"{one.name}-{one.key_bits}-{one.icv_bits}"


@pytest.mark.parametrize("chosen", EVERY, ids=name_of)
def test_every_algorithm_of_the_tables_has_an_engine(
    all_engines: Keyring, chosen: dict[str, Algorithm]
) -> None:
    slot = all_engines.add(**chosen)
    row = all_engines.rows[slot]
    block = int(row["block"])
    packet = Packet(slot, bytes(8), bytes(int(row["iv_bytes"])), bytes(range(64)))
    [found] = sealed(all_engines, packet)
    assert found.result == 1
    assert (found.text == packet.text) is (row["kind"] in (k.NULL_CIPHER, k.IMB_GMAC, k.EVP_GMAC))
    assert opened(all_engines, found)[0].text == packet.text
    assert block in (1, 8, 16)
    all_engines.remove(slot)


@pytest.mark.parametrize(
    ("chosen", "engines", "expected"),
    [
        ({"aead": GCM}, ENGINES, "ipsec_mb"),
        ({"aead": GCM}, ENGINES[1:], "libcrypto"),
        ({"crypt": CBC, "auth": SHA256}, ENGINES, "ipsec_mb"),
        ({"crypt": CBC, "auth": ("hmac(md5)", b"k", 96)}, ENGINES, "ipsec_mb+libcrypto"),
        ({"crypt": ("cbc(serpent)", bytes(16)), "auth": SHA256}, ENGINES, "libnettle+ipsec_mb"),
        ({"crypt": ("cbc(serpent)", bytes(16)), "auth": SHA256}, ENGINES[1:], "libnettle+libcrypto"),
        ({"crypt": CBC, "auth": ("hmac(sha256)", b"k", 24)}, ENGINES, "ipsec_mb+libcrypto"),
        ({"crypt": ("cipher_null", b""), "auth": ("digest_null", b"", 0)}, ENGINES, "none"),
    ],
)
def test_the_engines_of_a_slot(chosen: dict[str, Any], engines: tuple[str, ...], expected: str) -> None:
    ring = Keyring(engines)
    assert ring.engine_of(slot_for(ring, **chosen)) == expected


@pytest.mark.parametrize(
    ("chosen", "engines", "words"),
    [
        ({"crypt": ("cbc(serpent)", bytes(16))}, ("ipsec_mb", "libcrypto"), "CRYPT"),
        ({"crypt": CBC, "auth": ("hmac(md5)", b"", 96)}, ("ipsec_mb",), "AUTH"),
        ({"crypt": ("cbc(des)", bytes(8)), "auth": SHA256}, ("ipsec_mb",), "CRYPT"),
        ({"aead": GCM}, ("libnettle",), "AEAD"),
        ({"aead": GCM}, (), "AEAD"),
    ],
)
def test_without_an_engine_it_is_enosys(chosen: dict[str, Any], engines: tuple[str, ...], words: str) -> None:
    ring = Keyring(engines)
    free = sorted(ring._free)
    with pytest.raises(XfrmError, match=f"Requested {words} algorithm not found") as caught:
        slot_for(ring, **chosen)
    assert caught.value.number == errno.ENOSYS
    assert sorted(ring._free) == free
    assert not ring.rows["kind"].any()
    assert not ring.rows["auth"].any()


@pytest.mark.parametrize(
    "chosen",
    [
        {"aead": ("rfc4106(gcm(aes))", bytes(16), 128)},
        {"crypt": ("cbc(aes)", bytes(15))},
        {"crypt": CBC, "auth": ("xcbc(aes)", bytes(24), 96)},
    ],
)
def test_a_key_length_that_the_caller_should_have_refused(chosen: dict[str, Any]) -> None:
    """It must not reach a library, and must not cost a slot."""
    ring = Keyring(ENGINES, prove=False)
    with pytest.raises(AssertionError):
        slot_for(ring, **chosen)
    assert len(ring._free) == len(ring.rows)
    assert not ring.rows["auth"].any()


def test_the_environment_chooses_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UXFRM_ENGINES", raising=False)
    assert default_engines() == ENGINES
    monkeypatch.setenv("UXFRM_ENGINES", "libnettle, libcrypto")
    assert default_engines() == ("libnettle", "libcrypto")
    ring = Keyring()
    assert ring.engine_of(slot_for(ring, aead=GCM)) == "libcrypto"
    monkeypatch.setenv("UXFRM_ENGINES", "rot13")
    with pytest.raises(ValueError, match="no crypto engine 'rot13'"):
        Keyring()


@pytest.mark.parametrize("module", [ipsec_mb, libcrypto, libnettle])
def test_an_absent_library_is_a_problem_not_an_error(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIBRARY", "libnowhere.so.0")
    ring = Keyring(ENGINES)
    assert [p for p in ring.problems if "not installed" in p and p.startswith(module.NAME)]
    if module is not libcrypto:
        assert ring.engine_of(slot_for(ring, crypt=("cbc(camellia)", bytes(16)))) == "libcrypto"


def test_another_version_of_ipsec_mb_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipsec_mb, "_VERSION", b"9.9.")
    ring = Keyring(ENGINES)
    assert ring.problems == ["ipsec_mb: libipsec-mb 1.3.0 is not a known version"]
    assert ring.engine_of(slot_for(ring, aead=GCM)) == "libcrypto"


def test_an_engine_that_answers_wrongly_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next engine takes over, for this algorithm only, and `problems` says why."""
    holds = known_answers.holds

    def wrong(ring: Keyring, answer: known_answers.Answer) -> bool:
        ours = any(part is not None and "gcm" in part[0] for part in answer[1:2] if isinstance(part, tuple))
        return not (ours and next(iter(ring._engines)) == "ipsec_mb") and holds(ring, answer)

    monkeypatch.setattr(known_answers, "holds", wrong)
    monkeypatch.setattr(keyring, "_DISPROVED", {})
    ring = Keyring(ENGINES)
    for _ in range(2):
        assert ring.engine_of(slot_for(ring, aead=GCM)) == "libcrypto"
    assert ring.engine_of(slot_for(ring, crypt=CBC)) == "ipsec_mb"
    assert len(ring.problems) == 1
    assert ring.problems[0].startswith("ipsec_mb: rfc4106(gcm(aes)): not used, it does not reproduce esn-")


def test_wrong_addresses_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decryption in the place of encryption: what a shifted manager table looks like."""
    shifted = dict(ipsec_mb._OFFSETS)
    shifted[k.GCM_ENCRYPT], shifted[k.GCM_DECRYPT] = shifted[k.GCM_DECRYPT], shifted[k.GCM_ENCRYPT]
    monkeypatch.setattr(ipsec_mb, "_OFFSETS", shifted)
    monkeypatch.setattr(keyring, "_DISPROVED", {})
    monkeypatch.setattr(keyring, "_PROVING", {})
    ring = Keyring(ENGINES)
    assert ring.engine_of(slot_for(ring, aead=GCM)) == "libcrypto"
    assert ring.problems


# -- keys do not outlive their slot


@pytest.mark.parametrize(
    "chosen",
    [
        {"aead": GCM},
        {"aead": ("rfc4543(gcm(aes))", bytes(range(1, 21)), 128)},
        {"aead": ("rfc7539esp(chacha20,poly1305)", bytes(range(1, 37)), 128)},
        {"crypt": CBC, "auth": SHA256},
        {"crypt": ("rfc3686(ctr(aes))", bytes(range(1, 37))), "auth": ("xcbc(aes)", bytes(range(16)), 96)},
    ],
    ids=str,
)
def test_remove_wipes(chosen: dict[str, Any]) -> None:
    ring = Keyring(ENGINES, prove=False)
    slot = slot_for(ring, **chosen)
    row = ring.rows[slot].copy()
    places = [(int(row["encrypt"]), 32), (int(row["decrypt"]), 32 if row["kind"] < k.EVP_AEAD else 0)]
    places.append((int(row["mac"]), 40 if row["auth"] == k.EVP_XCBC else 128))
    places = [(place, size) for place, size in places if place and size]
    assert all(any(ctypes.string_at(place, size)) for place, size in places)
    ring.remove(slot)
    assert not any(any(ctypes.string_at(place, size)) for place, size in places)
    assert ring.rows[slot].tobytes() == bytes(k.KEY_DTYPE.itemsize)


def test_a_slot_is_removed_once() -> None:
    """Twice would hand it to two states."""
    ring = Keyring(ENGINES)
    slot = slot_for(ring, aead=GCM)
    ring.remove(slot)
    with pytest.raises(ValueError, match="removed before"):
        ring.remove(slot)
    assert len(set(ring._free)) == len(ring._free)


def test_slots_are_used_again_and_rows_grow() -> None:
    ring = Keyring(ENGINES, prove=False)
    first = [slot_for(ring, aead=GCM) for _ in range(16)]
    held = ring.rows
    assert sorted(first) == list(range(16))
    packet = Packet(first[3], bytes(8), bytes(8), b"before growth...")
    [before] = sealed(ring, packet)
    more = slot_for(ring, aead=GCM)
    assert more == 16
    assert ring.rows.shape[0] == 32
    assert not held["kind"].any(), "old rows must be of no use"
    assert sealed(ring, packet) == [before]
    ring.remove(first[3])
    assert slot_for(ring, aead=GCM) == first[3]


def test_pieces_are_aligned_and_small() -> None:
    """A million AES-GCM states must fit: a row and about a kilobyte each."""
    ring = Keyring(ENGINES, prove=False)
    slots = [slot_for(ring, aead=GCM) for _ in range(300)]
    places = ring.rows["encrypt"][slots].tolist()
    assert not any(place % 64 for place in places)
    assert min(np.diff(sorted(places))) >= 1008
    # The arena's chunks lie where the allocator puts them: nine gaps in ten are inside a chunk.
    assert k.KEY_DTYPE.itemsize + np.quantile(np.diff(sorted(places)), 0.9) <= 1200


def test_close_frees_everything_and_refuses_afterwards() -> None:
    ring = Keyring(ENGINES)
    for chosen in EVERY[::7]:
        ring.add(**chosen)
    slot = slot_for(ring, aead=GCM)
    place = int(ring.rows[slot]["encrypt"])
    ring.close()
    assert not any(ctypes.string_at(place, 1008))
    assert not ring.rows["kind"].any()
    packet = Packet(slot, bytes(8), bytes(8), b"clear text")
    ring.rows[slot]["icv_bytes"] = 16
    assert sealed(ring, packet)[0].text == bytes(10)
    with pytest.raises(XfrmError):
        slot_for(ring, aead=GCM)
    ring.close()


def test_a_dropped_keyring_leaks_nothing() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4

    def once() -> None:
        ring = Keyring(ENGINES)
        for chosen in EVERY[::5]:
            ring.add(**chosen)

    once()
    gc.collect()
    before = resident()
    for _ in range(20):
        once()
    gc.collect()
    assert resident() - before < 2000, "KiB"
