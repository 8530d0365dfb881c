"""Unmodified `ip xfrm state` under `uxfrm run`, and in Linux 6.1: it prints the same, times aside.

Each script runs in a shell on both sides. Left out is what 6.18, which uxfrm follows, does otherwise:
encapsulation espinudp-nonike is gone there, and MIPv6 protocols need modules that uxfrm has not. 6.1 says
fewer words when it refuses: where the guest's line is only the errno's, ours may be the extended one.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from linux.guest import LinuxGuest

pytestmark = [pytest.mark.linux, pytest.mark.compiled]

UXFRM = [sys.executable, "-m", "uxfrm.cli.main", "run", "--private", "--"]
E4, E6 = "src 10.0.0.1 dst 10.0.0.2", "src fd00::1 dst fd00::2"


def hexadecimal(size: int) -> str:
    return "0x" + bytes(range(1, size + 1)).hex()


ALGORITHMS = [
    *(f"aead 'rfc4106(gcm(aes))' {hexadecimal(size)} {icv}" for size in (20, 36) for icv in (64, 96, 128)),
    f"aead 'rfc4309(ccm(aes))' {hexadecimal(19)} 96", f"aead 'rfc4543(gcm(aes))' {hexadecimal(20)} 128",
    f"aead 'rfc7539esp(chacha20,poly1305)' {hexadecimal(36)} 128",
    f"auth 'hmac(sha1)' {hexadecimal(20)} enc 'cbc(aes)' {hexadecimal(16)}",
    f"auth-trunc 'hmac(sha256)' {hexadecimal(32)} 128 enc 'cbc(aes)' {hexadecimal(32)}",
    f"auth-trunc 'hmac(sha512)' {hexadecimal(64)} 256 enc 'cbc(des3_ede)' {hexadecimal(24)}",
    f"auth md5 {hexadecimal(16)} enc 'cbc(camellia)' {hexadecimal(24)}",
    f"auth sha256 abc enc 'rfc3686(ctr(aes))' {hexadecimal(20)}", "auth digest_null '' enc cipher_null ''",
    f"auth 'xcbc(aes)' {hexadecimal(16)} enc 'cbc(serpent)' {hexadecimal(16)}",
    f"auth 'cmac(aes)' {hexadecimal(16)} enc 'cbc(blowfish)' {hexadecimal(16)}", "enc cipher_null ''",
    f"auth 'hmac(rmd160)' {hexadecimal(20)} enc 'cbc(cast5)' {hexadecimal(16)}",
]  # fmt: skip
REFUSED = [
    f"aead 'rfc4106(gcm(aes))' {hexadecimal(19)} 128", f"aead 'rfc4106(gcm(aes))' {hexadecimal(20)} 120",
    f"aead nosuch {hexadecimal(20)} 128", f"enc 'cbc(aes)' {hexadecimal(15)}", f"auth sha1 {hexadecimal(20)}",
    f"auth-trunc sha1 {hexadecimal(20)} 168 enc cipher_null ''", "", "comp deflate ''",
    f"aead 'rfc4106(gcm(aes))' {hexadecimal(20)} 128 enc cipher_null ''",
    f"enc 'cbc(aes)' {hexadecimal(16)} encap espintcp 1 2 0.0.0.0 encap espinudp 1 2 0.0.0.0",
]  # fmt: skip
GCM = f"aead 'rfc4106(gcm(aes))' {hexadecimal(20)} 128"
DETAILS = [
    "mode tunnel reqid 7 replay-window 32 seq 9", "mode beet reqid 4294967295", "mode transport flag noecn",
    "mode tunnel flag decap-dscp flag nopmtudisc flag wildrecv flag icmp flag af-unspec flag align4",
    "mode tunnel flag esn replay-window 128", "replay-window 64", "mode tunnel replay-window 4096 flag esn",
    "replay-seq 5 replay-oseq 6 replay-window 16", "mark 5 mask 7", "mark 0xffffffff", "if_id 0x10",
    "mode tunnel output-mark 6 mask 0xff", "output-mark 9",
    "mode tunnel flag esn replay-window 8 replay-seq-hi 1",
    "encap espinudp 4500 4501 0.0.0.0", "encap espinudp 1 2 10.9.9.9",
    "mode tunnel extra-flag dont-encap-dscp", "mode tunnel extra-flag oseq-may-wrap tfcpad 100",
    "limit byte-soft 1 limit byte-hard 2 limit packet-soft 3 limit packet-hard 4",
    "limit time-soft 500 limit time-hard 600 limit time-use-soft 700 limit time-use-hard 800",
    "mode tunnel sel src 10.1.0.0/16 dst 10.2.0.0/16 proto tcp sport 7 dport 80 dev lo",
    "sel src 10.0.0.1 dst 10.0.0.2 proto icmp type 8 code 0", "mode tunnel sel src fd00::/64 dst fd01::/64",
    "mode transport sel src fd00::/64 dst fd01::/64", "mode ro", "mode in_trigger", "tfcpad 7",
    "coa 10.0.0.9",
    "flag esn", "mode tunnel flag esn replay-window 0", "offload dev lo dir in", "ctx 'a b'",
]  # fmt: skip


def adds(lines: list[str], ends: str = E4, first: int = 1) -> str:
    found = (
        f"ip xfrm state add {ends} proto esp spi {number} {line}" for number, line in enumerate(lines, first)
    )
    return "\n".join(found)


LISTED = "ip xfrm state; ip -s xfrm state; ip xfrm state count; ip -s xfrm state count"
FILTERS = [
    "proto esp", "proto ah", "src 10.0.0.0/8", "dst 10.0.0.2", "dst 10.0.0.3", "mode tunnel", "reqid 7",
    "spi 1", "flag noecn", "src fd00::/16", "nokeys",
]  # fmt: skip
SCRIPTS = {
    "algorithms": f"{adds(ALGORITHMS)}\n{LISTED}\nip xfrm state flush; ip xfrm state",
    "algorithms that are refused": f"{adds(REFUSED)}\n{LISTED}",
    "details": f"{adds([f'{GCM} {line}' for line in DETAILS])}\n{LISTED}",
    "details in IPv6": f"{adds([f'{GCM} {line}' for line in DETAILS], E6)}\n{LISTED}",
    "protocols": f"""
        ip xfrm state add {E4} proto ah spi 1 auth sha1 {hexadecimal(20)} mode tunnel
        ip xfrm state add {E4} proto ah spi 2 auth-trunc sha256 {hexadecimal(32)} 128 flag align4
        ip xfrm state add {E4} proto comp spi 3 comp deflate
        ip xfrm state add {E4} proto comp spi 0x10000 comp deflate
        ip xfrm state add {E4} proto ah spi 4 enc cipher_null ''; ip xfrm state add {E4} proto 99 spi 5 {GCM}
        {LISTED}; ip xfrm state get {E4} proto ah spi 1; ip xfrm state flush proto ah; ip xfrm state
        ip xfrm state get {E6} proto hao; ip xfrm state delete {E6} proto hao; ip xfrm state deleteall
    """,
    "life": f"""
        ip xfrm state add {E4} proto esp spi 1 {GCM} mode tunnel reqid 7
        ip xfrm state add {E4} proto esp spi 1 {GCM}
        ip xfrm state update {E4} proto esp spi 1 {GCM} mode tunnel limit byte-hard 1000 if_id 5 output-mark 3
        ip xfrm state update {E4} proto esp spi 2 {GCM}; ip -s xfrm state get {E4} proto esp spi 1
        ip xfrm state update {E4} proto esp spi 1 {GCM} encap espinudp 4500 4500 0.0.0.0
        ip xfrm state allocspi {E4} proto esp reqid 9 mode tunnel min 0x100 max 0x100
        ip xfrm state add {E4} proto esp spi 0x100 {GCM} reqid 9 mode tunnel
        ip xfrm state update {E4} proto esp spi 0x100 {GCM} reqid 9 mode tunnel; ip xfrm state
        ip xfrm state add {E4} proto esp spi 3 {GCM} mark 5 mask 15; ip xfrm state get {E4} proto esp spi 3
        ip xfrm state get {E4} proto esp spi 3 mark 5 mask 15
        ip xfrm state delete {E4} proto esp spi 3 mark 5
        {"; ".join(f"echo {words}; ip xfrm state list {words}" for words in FILTERS)}
        ip xfrm state delete {E4} proto esp spi 1; ip xfrm state delete {E4} proto esp spi 1
        ip xfrm state deleteall reqid 9; ip xfrm state; ip xfrm state deleteall; ip xfrm state
    """,
}
UNSAID = "RTNETLINK answers: "


def still(text: str) -> str:
    return re.sub(r"(add|use) \d{4}-\S+ \S+", r"\1 DATE", text)


def agree(ours: list[str], theirs: list[str]) -> list[tuple[str, str]]:
    """Lines of errors that differ although ours may be the longer word for the guest's errno."""
    pairs = zip(ours, theirs, strict=True)
    return [
        (mine, other)
        for mine, other in pairs
        if mine != other and not (mine.startswith("Error: ") and other.startswith(UNSAID))
    ]


@pytest.mark.parametrize("name", SCRIPTS)
def test_ip_prints_what_it_prints_on_linux_6_1(guest: LinuxGuest, name: str) -> None:
    code, out, err = guest.run(["unshare", "--net", "sh", "-c", SCRIPTS[name]])
    done = subprocess.run(
        [*UXFRM, "sh", "-c", SCRIPTS[name]], capture_output=True, text=True, timeout=100, check=False
    )
    assert still(done.stdout) == still(out)
    assert done.returncode == code
    assert agree(done.stderr.splitlines(), err.splitlines()) == []
