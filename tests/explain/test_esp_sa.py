"""tshark opens what uxfrm seals, with nothing but the table that uxfrm wrote for it.

Every algorithm in every mode and combination of families, in one capture: Wireshark's own decryption and
integrity checks are the witness. What it has no name for is said, and its key written nowhere.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from scapy.utils import PcapWriter

from linux.suites import BASIC, PRODUCT, WITH_ESN
from linux.twin import SHAPES, SPI, TRANSPORT4, TRANSPORT6, TUNNELS, Case, outcomes, packets
from uxfrm.cli.main import main
from uxfrm.datapath.batch import Batch
from uxfrm.explain.esp_sa import HEADER, EspSaTable, esp_sa_table
from uxfrm.model.dump import StateDump
from uxfrm.model.outcome import Outcome
from uxfrm.model.state import ENCAP_ESPINUDP, Encap, StateConfig

RAW_IP = 101
ENCAPSULATED = Encap(ENCAP_ESPINUDP, 4500, 4500, bytes(16))
PAYLOADS = [bytes(i * 7 + size & 0xFF for i in range(size)) for size in (1, 16, 1000)]


def cases() -> list[Case]:
    """Every algorithm alone and with every other, as in the matrix that Linux opens."""
    made = [Case(suite, shape) for suite in BASIC for shape in SHAPES]
    made += [Case(suite, SHAPES[i % len(SHAPES)]) for i, suite in enumerate(PRODUCT)]
    made += [Case(suite, shape, esn=True) for suite in WITH_ESN for shape in (TRANSPORT6, TUNNELS[0])]
    made += [
        Case(BASIC[i], shape, encap=ENCAPSULATED)
        for i in (2, -5, -9)
        for shape in (TRANSPORT4, TRANSPORT6, *TUNNELS)
    ]
    return [replace(case, spi=SPI + 16 * i) for i, case in enumerate(made)]


def table(configs: Iterable[StateConfig]) -> EspSaTable:
    return esp_sa_table(StateDump.requested(config, 0) for config in configs)


def wire(case: Case) -> list[bytes]:
    batch = Batch.pack([case.shape.datagram(payload) for payload in PAYLOADS])
    case.namespace().output(batch)
    assert outcomes(batch) == [Outcome.SENT] * len(PAYLOADS)
    return packets(batch)


def tshark(folder: Path, text: str, frames: list[bytes], *fields: str) -> list[list[str]]:
    """Frames as tshark reads them, with `text` as its table of SAs."""
    profile = folder / "wireshark"
    profile.mkdir()
    (profile / "esp_sa").write_text(text)
    capture = folder / "wire.pcap"
    with PcapWriter(str(capture), linktype=RAW_IP) as writer:
        for frame in frames:
            writer.write(frame)
    command = ["tshark", "-n", "-r", str(capture), "-T", "fields", "-E", "occurrence=l"]
    command += [word for name in ("encryption_decode", "authentication_check")
                for word in ("-o", f"esp.enable_{name}:TRUE")]  # fmt: skip
    command += [word for field in fields for word in ("-e", field)]
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert "UAT" not in done.stderr, done.stderr
    assert "ESP Preferences" not in done.stderr, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.tshark
def test_tshark_opens_what_uxfrm_seals(tmp_path: Path) -> None:
    known, frames, text = [], list[bytes](), HEADER
    for case in cases():
        rows, problems = table([case.state()])
        if not problems:
            known.append(case)
            frames += wire(case)
            text += rows.removeprefix(HEADER)
    read = tshark(tmp_path, text, frames, "udp.payload", "esp.icv_good", "esp.icv_bad")
    assert len(read) == len(known) * len(PAYLOADS)
    checked = 0
    for i, case in enumerate(known):
        bad_is_bad = not (case.esn and case.suite.aead)  # 4.0 checks AES-GCM as if there were no ESN
        for payload, (found, good, bad) in zip(PAYLOADS, read[i * len(PAYLOADS) :], strict=False):
            assert found == payload.hex(), case.name
            assert bad != "1" or not bad_is_bad, case.name
            checked += good == "1"
    assert len(known) == 386
    assert checked == 282 * len(PAYLOADS)


def test_what_wireshark_has_no_name_for_is_said_without_its_key() -> None:
    unknown = set()
    for case in cases():
        state = case.state()
        text, problems = table([state])
        algorithm = state.aead or state.crypt
        assert algorithm is not None
        if problems:
            [problem] = problems
            unknown.add(algorithm.name)
            assert algorithm.name in problem
            assert f"spi {state.spi:#010x}" in problem
            assert text == f"{HEADER}# {problem}\n"
            assert not algorithm.key or algorithm.key.hex() not in text
    assert unknown == {
        "rfc4309(ccm(aes))", "rfc4543(gcm(aes))", "rfc7539esp(chacha20,poly1305)", "cbc(camellia)",
        "cbc(serpent)", "cbc(blowfish)", "cbc(cast5)", "cbc(twofish)",
    }  # fmt: skip


def test_a_nat_may_change_the_source() -> None:
    state = Case(BASIC[0], TRANSPORT4).state()
    assert '"IPv4","10.0.0.1","10.0.0.2",' in table([state]).text
    assert '"IPv4","*","10.0.0.2",' in table([replace(state, encap=ENCAPSULATED)]).text


CASE = Path(__file__).parents[1] / "captures" / "data" / "esp-gcm128-icv128"


@pytest.mark.tshark
def test_replay_writes_it_for_its_owner_alone(tmp_path: Path) -> None:
    """The recorded capture of Linux's, opened by tshark with what `uxfrm replay --esp-sa` wrote."""
    file = tmp_path / "esp_sa"
    file.write_text("old")
    file.chmod(0o644)
    words = ["replay", CASE / "wire.pcap", "--setup", CASE / "setup-b.batch", "--mac", "02:00:00:00:00:0b"]
    done = CliRunner().invoke(main, [*map(str, words), "-q", "--esp-sa", str(file)])
    assert done.exit_code == 0, done.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = "6a48bb8db66e843919b18e854bfb51d219c346da"
    assert f'"0x{key}"' in file.read_text()
    assert key not in done.output
