"""What holds for every algorithm: mixtures, damage, bounds, slots without keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapath.crypto.choices import algorithms, heads, highs, text_bytes
from datapath.crypto.sealing import Packet, lay, opened, sealed, slot_for
from uxfrm.datapath.crypto import kinds as k
from uxfrm.datapath.crypto import single
from uxfrm.datapath.crypto.batch import open_, seal
from uxfrm.datapath.crypto.keyring import Keyring
from uxfrm.model.algorithm import Algorithm

GCM = ("rfc4106(gcm(aes))", bytes(range(20)), 128)
CBC, SHA256 = ("cbc(aes)", bytes(range(16))), ("hmac(sha256)", bytes(32), 128)
FAMILIES: dict[str, dict[str, Any]] = {
    "gcm": {"aead": GCM},
    "gmac": {"aead": ("rfc4543(gcm(aes))", bytes(range(20)), 128)},
    "ccm": {"aead": ("rfc4309(ccm(aes))", bytes(range(19)), 96)},
    "chacha": {"aead": ("rfc7539esp(chacha20,poly1305)", bytes(range(36)), 128)},
    "cbc-sha256": {"crypt": CBC, "auth": SHA256},
    "ctr-sha1": {"crypt": ("rfc3686(ctr(aes))", bytes(range(20))), "auth": ("hmac(sha1)", b"", 96)},
    "camellia-xcbc": {"crypt": ("cbc(camellia)", bytes(16)), "auth": ("xcbc(aes)", bytes(16), 96)},
    "serpent-md5": {"crypt": ("cbc(serpent)", bytes(16)), "auth": ("hmac(md5)", bytes(16), 96)},
    "null-sha512": {"crypt": ("cipher_null", b""), "auth": ("hmac(sha512)", bytes(64), 256)},
    "cbc": {"crypt": CBC},
}
SIGNED = {name: family for name, family in FAMILIES.items() if "aead" in family or "auth" in family}
families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
engines = pytest.mark.parametrize("which", ["all_engines", "without_ipsec_mb"])


@pytest.fixture
def ring(which: str, request: pytest.FixtureRequest) -> Keyring:
    return request.getfixturevalue(which)  # type: ignore[no-any-return]


def a_packet(ring: Keyring, slot: int, length: int = 64, high: int = -1) -> Packet:
    iv = bytes(range(int(ring.rows[slot]["iv_bytes"])))
    return Packet(slot, b"\1\2\3\4\5\6\7\x08", iv, bytes(n % 251 for n in range(length)), high=high)


@st.composite
def packets(draw: Any, ring: Keyring) -> Packet:
    slot = ring.add(**draw(algorithms()))
    row = ring.rows[slot]
    iv = draw(st.binary(min_size=int(row["iv_bytes"]), max_size=int(row["iv_bytes"])))
    text = text_bytes(draw, int(row["block"]), empty=row["kind"] != k.EVP_CCM)
    return Packet(slot, draw(heads), iv, text, high=draw(highs))


@given(st.data())
@settings(max_examples=60)
def test_a_mixed_batch_equals_its_packets_one_by_one(all_engines: Keyring, data: Any) -> None:
    ring = all_engines
    batch = data.draw(st.lists(packets(ring), min_size=1, max_size=12)) * data.draw(st.integers(1, 3))
    together = sealed(ring, *batch)
    assert together == [sealed(ring, packet)[0] for packet in batch]
    assert [packet.result for packet in together] == [1] * len(batch)
    back = opened(ring, *together)
    assert [(p.result, p.text) for p in back] == [(1, p.text) for p in batch]
    for slot in {packet.slot for packet in batch}:
        ring.remove(slot)


@pytest.mark.parametrize("count", [1, 127, 128, 129, 256, 300])
def test_batches_of_any_size(all_engines: Keyring, count: int) -> None:
    """Bursts are at most 128 jobs: more are several bursts, in each of several groups."""
    ring = all_engines
    slots = [slot_for(ring, **family) for family in FAMILIES.values()]
    batch = [
        a_packet(ring, slots[i % len(slots)], 16 * (1 + i % 9), i if i % 3 else -1) for i in range(count)
    ]
    found = sealed(ring, *batch)
    assert all(packet.result == 1 for packet in found)
    for packet in found[::5]:
        packet.icv = packet.icv[:-1] + bytes(byte ^ 1 for byte in packet.icv[-1:])
    back = opened(ring, *found)
    for i, (packet, before) in enumerate(zip(back, batch, strict=True)):
        assert packet.result == (0 if i % 5 == 0 and packet.icv else 1)
        assert packet.result == 0 or packet.text == before.text
    for slot in slots:
        ring.remove(slot)


@given(st.data(), algorithms(), heads, highs)
def test_engines_agree(
    all_engines: Keyring, without_ipsec_mb: Keyring, data: Any, chosen: dict[str, Algorithm], head: bytes,
    high: int,
) -> None:  # fmt: skip
    first, second = all_engines.add(**chosen), without_ipsec_mb.add(**chosen)
    row = all_engines.rows[first]
    iv = data.draw(st.binary(min_size=int(row["iv_bytes"]), max_size=int(row["iv_bytes"])))
    text = text_bytes(data.draw, int(row["block"]), empty=row["kind"] != k.EVP_CCM)
    [one] = sealed(all_engines, Packet(first, head, iv, text, high=high))
    [other] = sealed(without_ipsec_mb, Packet(second, head, iv, text, high=high))
    assert (one.result, one.text, one.icv) == (1, other.text, other.icv)
    one.slot = second
    [back] = opened(without_ipsec_mb, one)
    assert (back.result, back.text) == (1, text)
    all_engines.remove(first)
    without_ipsec_mb.remove(second)


@engines
@pytest.mark.parametrize("family", SIGNED.values(), ids=SIGNED.keys())
@pytest.mark.parametrize("high", [-1, 7], ids=["", "esn"])
def test_any_damaged_bit_is_noticed(ring: Keyring, family: dict[str, Any], high: int) -> None:
    slot = slot_for(ring, **family)
    [good] = sealed(ring, a_packet(ring, slot, 32, high))
    whole = good.bytes()
    bad = []
    for bit in range(0, len(whole) * 8, 3):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        iv_end = 8 + len(good.iv)
        text_end = iv_end + len(good.text)
        parts = flipped[:8], flipped[8:iv_end], flipped[iv_end:text_end], flipped[text_end:]
        bad.append(Packet(slot, *map(bytes, parts), high=high))
    found = opened(ring, *bad)
    assert [packet.result for packet in found] == [0] * len(bad)
    if "aead" not in family:
        assert [p.text for p in found] == [p.text for p in bad], "decrypted though the MAC was wrong"
    good.high = -1 if high != -1 else 7
    assert opened(ring, good)[0].result == 0, "another high half of the sequence number"
    ring.remove(slot)


@engines
@families
@pytest.mark.parametrize("function", [seal, open_])
def test_jobs_outside_the_buffer_are_refused(ring: Keyring, family: dict[str, Any], function: Any) -> None:
    slot = slot_for(ring, **family)
    data, jobs = lay(ring, [a_packet(ring, slot)])
    good = jobs[0].copy()
    size = data.shape[0]
    huge = (-1, -(2**63), 2**63 - 1, 2**62, size, size + 1)
    wrong = [
        (column, value) for column in (single.HEADER, single.IV, single.TEXT, single.LENGTH) for value in huge
    ]
    wrong += [(single.KEY, value) for value in (-1, 2**40, -(2**63), ring.rows.shape[0])]
    wrong += [(single.TEXT, int(good[single.IV]) - 1), (single.IV, int(good[single.HEADER]) + 7)]
    if ring.rows[slot]["block"] > 1:
        wrong += [(single.LENGTH, 63), (single.LENGTH, 1)]
    icv = int(ring.rows[slot]["icv_bytes"])
    block = int(ring.rows[slot]["block"])
    wrong.append((single.LENGTH, (size - int(good[single.TEXT]) - icv) // block * block + block))
    jobs = np.tile(good, (len(wrong), 1))
    for job, (column, value) in zip(jobs, wrong, strict=True):
        job[column] = value
    original = data.copy()
    function(ring.functions, ring.rows, ring.scratch, data, jobs, len(jobs))
    assert jobs[:, single.RESULT].tolist() == [-1] * len(wrong)
    if function is open_:
        assert (data == original).all()
    else:
        text, length = int(good[single.TEXT]), int(good[single.LENGTH])
        assert not data[text : text + length].any(), "what could not be sealed must not stay as clear text"
    ring.remove(slot)


@families
def test_a_text_up_to_the_buffers_last_byte(all_engines: Keyring, family: dict[str, Any]) -> None:
    ring = all_engines
    slot = slot_for(ring, **family)
    data, jobs = lay(ring, [a_packet(ring, slot)])
    end = int(jobs[0, single.TEXT] + jobs[0, single.LENGTH]) + int(ring.rows[slot]["icv_bytes"])
    data = data[:end].copy()
    for function in (seal, open_):
        jobs[0, single.RESULT] = 9
        function(ring.functions, ring.rows, ring.scratch, data, jobs, 1)
        assert jobs[0, single.RESULT] == 1
    ring.remove(slot)


def test_a_slot_without_a_key_never_passes_clear_text(all_engines: Keyring) -> None:
    ring = all_engines
    slot = slot_for(ring, aead=GCM)
    packet = a_packet(ring, slot)
    ring.remove(slot)
    found = sealed(ring, packet)[0]
    assert (found.result, found.text) == (-1, bytes(len(packet.text)))
    assert opened(ring, packet)[0].result == -1


def test_short_icvs_with_esn_leave_neighbours_alone(all_engines: Keyring) -> None:
    """The high half is hashed but not sent: there may be no room for it between two packets."""
    ring = all_engines
    slots = [slot_for(ring, crypt=CBC, auth=("hmac(sha256)", b"key", bits)) for bits in (0, 8, 24, 32)]
    lone = [sealed(ring, a_packet(ring, slot, 32, 5))[0] for slot in slots]
    data = bytearray()
    jobs = np.zeros((len(slots), 8), np.int64)
    for i, slot in enumerate(slots):
        packet, at = a_packet(ring, slot, 32, 5), len(data)
        jobs[i] = (slot, at, at + 8, at + 24, 32, 5, 0, 0)
        data += packet.bytes() + bytes(int(ring.rows[slot]["icv_bytes"]))
    packed = np.frombuffer(data, np.uint8)
    seal(ring.functions, ring.rows, ring.scratch, packed, jobs, len(slots))
    assert packed.tobytes() == b"".join(packet.bytes() for packet in lone)
    open_(ring.functions, ring.rows, ring.scratch, packed, jobs, len(slots))
    assert jobs[:, single.RESULT].tolist() == [1] * len(slots)
    for slot in slots:
        ring.remove(slot)


@pytest.mark.parametrize("which", ["all_engines", "without_ipsec_mb"])
def test_the_iv_may_be_anywhere_between_header_and_text(ring: Keyring) -> None:
    """Only GMAC reads from IV to ICV in one piece."""
    slot = slot_for(ring, aead=GCM)
    data = np.arange(200, dtype=np.uint8)
    jobs = np.array([[slot, 10, 50, 90, 40, -1, 0, 0]], np.int64)
    seal(ring.functions, ring.rows, ring.scratch, data, jobs, 1)
    open_(ring.functions, ring.rows, ring.scratch, data, jobs, 1)
    assert jobs[0, single.RESULT] == 1
    assert data[:130].tolist() == list(range(130))
    ring.remove(slot)


def test_an_empty_ccm_text_is_refused(all_engines: Keyring) -> None:
    """OpenSSL does not check its tag; ESP's text is never empty."""
    slot = slot_for(all_engines, aead=("rfc4309(ccm(aes))", bytes(19), 64))
    packet = a_packet(all_engines, slot, 0)
    assert [f(all_engines, packet)[0].result for f in (sealed, opened)] == [-1, -1]
    all_engines.remove(slot)
