"""A host's file: what is understood, what is refused and with which words, and that no key is ever quoted."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from uxfrm.daemon.hostfile import HostFile, HostFileError, read
from uxfrm.namespace import Namespace

KEY = "0x00112233445566778899aabbccddeeff00112233"
STATE = f"src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 mode tunnel aead rfc4106(gcm(aes)) {KEY} 128"
POLICY = "src 10.1.0.0/24 dst 10.2.0.0/24 dir out tmpl src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel"
WHOLE = f"""
attach = ["tun=uxfrm0,mtu=1300", "raw", "udp=4500"]
policies = [
    "{POLICY}",
    '''
    src 10.2.0.0/24 dst 10.1.0.0/24 dir in
        tmpl src 192.0.2.2 dst 192.0.2.1 proto esp mode tunnel
    ''',
]
states = ["{STATE}"]
[sysctls]
"net.core.xfrm_acq_expires" = 7
"""


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "host.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def applied(said: HostFile) -> Namespace:
    made = Namespace(randbytes=random.Random(1).randbytes, now_s=1000)
    said.apply(made)
    return made


def test_all_of_it_is_done(tmp_path: Path) -> None:
    said = read(written(tmp_path, WHOLE))
    assert (said.attach.tun, said.attach.mtu, said.attach.raw, said.attach.ports) == (
        "uxfrm0",
        1300,
        True,
        (4500,),
    )
    made = applied(said)
    assert len(list(made.dump_policies())) == 2
    assert [state.config.spi for state in made.dump_states()] == [0x1001]
    assert made.sysctl("net.core.xfrm_acq_expires") == 7


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(HostFileError, match="chmod 600"):
        read(written(tmp_path, WHOLE, mode))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    os.chown(path, 65534, 65534)
    with pytest.raises(HostFileError):
        read(path)


ATTACH = 'attach = ["tun=t"]\n'
WRONG = {
    "not TOML": (f'states = ["{STATE}" "{STATE}"]', "not TOML: at line 1"),
    "not text": (b"\xff", "not UTF-8"),
    "an unknown key": (ATTACH + "polices = []", "polices: unknown; there are attach, policies"),
    "no list": (ATTACH + f'states = "{STATE}"', "states: a list of strings"),
    "no strings": (ATTACH + "policies = [1]", "policies: a list of strings"),
    "no device": ('attach = ["raw"]', "either nfqueue or a TUN device is needed"),
    "both ways": ('attach = ["tun=a", "nfqueue"]', "either nfqueue or a TUN device is needed"),
    "two devices": ('attach = ["tun=a", "tun=b"]', "one TUN device only"),
    "an unknown attachment": ('attach = ["tun=a", "dpdk"]', "attach: dpdk: one of nfqueue"),
    "a port out of range": ('attach = ["tun=a", "udp=70000"]', "udp=70000"),
    "a small MTU": ('attach = ["tun=a,mtu=100"]', "mtu=1280 to 65535"),
    "a policy of unknown words": (
        ATTACH + f'policies = ["{POLICY}", "src 10.0.0.0/8 dir up"]',
        r"policies\[2\]: ",
    ),
    "a state of unknown words": (ATTACH + f'states = ["{STATE} {KEY}"]', r"states\[1\]: "),
    "a key that is none": (ATTACH + f'states = ["{STATE.replace(KEY, KEY + "g")}"]', r"states\[1\]: "),
    "an unknown sysctl": (ATTACH + '[sysctls]\n"net.core.nothing" = 1', "sysctls: net.core.nothing"),
    "a sysctl of text": (ATTACH + '[sysctls]\n"net.core.xfrm_acq_expires" = "1"', "whole numbers"),
    "a policy twice": (ATTACH + f'policies = ["{POLICY}", "{POLICY}"]', r"policies\[2\]: .*File exists"),
    "a state twice": (ATTACH + f'states = ["{STATE}", "{STATE}"]', r"states\[2\]: .*File exists"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_without_a_key(tmp_path: Path, name: str) -> None:
    text, words = WRONG[name]
    path = tmp_path / "host.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    with pytest.raises(HostFileError, match=words) as caught:
        applied(read(path))
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert KEY[2:14] not in said
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_the_example_of_the_documentation_is_understood(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/packets.md").read_text()
    example = page.split("```toml\n")[1].split("```")[0]
    assert len(list(applied(read(written(tmp_path, example))).dump_policies())) == 3
