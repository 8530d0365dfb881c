"""`mode iptfs` and `iptfs-opts`, in the words of the `ip` of IP-TFS's authors: no released one has any.

The dump is what that `ip` printed on a host with IP-TFS (a message by Antony Antony to the netdev mailing
list, 29 August 2024), with keys of our own.
"""

from __future__ import annotations

import pytest

from uxfrm.cli.tables_json import Form
from uxfrm.iproute2.commands import parse_batch
from uxfrm.iproute2.output import show_state, unnamed
from uxfrm.iproute2.paste import parse_dump
from uxfrm.model.dump import StateDump
from uxfrm.model.iptfs import Iptfs
from uxfrm.model.lifetime import LifetimeCurrent
from uxfrm.model.state import ReplayLegacy
from uxfrm.model.template import Mode

DUMP = f"""
src 192.1.2.23 dst 192.1.3.33
    proto esp spi 0xcd561999 reqid 16393 mode iptfs
    replay-window 0 flag af-unspec esn
    auth-trunc hmac(sha256) 0x{"cb" * 32} 128
    enc cbc(aes) 0x{"b3" * 32}
    lastused 2024-08-29 12:33:12
    anti-replay esn context:
     seq-hi 0x0, seq 0x0, oseq-hi 0x0, oseq 0xb
     replay_window 0, bitmap-length 0
    dir out
    iptfs-opts dont-frag init-delay 0 max-queue-size 10485760 pkt-size 0
src 192.1.3.33 dst 192.1.2.23
    proto esp spi 0xd9ecf873 reqid 16393 mode iptfs
    replay-window 0 flag af-unspec esn
    auth-trunc hmac(sha256) 0x{"f8" * 32} 128
    enc cbc(aes) 0x{"fe" * 32}
    lastused 2024-08-29 12:33:12
    anti-replay esn context:
     seq-hi 0x0, seq 0xb, oseq-hi 0x0, oseq 0x0
     replay_window 128, bitmap-length 4
     00000000 00000000 00000000 000007ff
    dir in
    iptfs-opts drop-time 3 reorder-window 3
"""

ADD = (
    "xfrm state add src 1.1.1.1 dst 2.2.2.2 proto esp spi 5 mode iptfs aead rfc4106(gcm(aes)) 0x"
    + "11" * 20
    + " 128 "
)


def test_a_dump_of_the_authors_ip_is_read_and_told_again():
    out, into = (statement.command.dump for statement in parse_dump(DUMP.splitlines()))
    assert out.config.mode == into.config.mode == Mode.IPTFS
    assert out.config.rare.iptfs == Iptfs(dont_frag=True, init_delay=0, max_qsize=10485760, pkt_size=0)
    assert into.config.rare.iptfs == Iptfs(drop_time=3, reorder_window=3)
    for dump in (out, into):
        line = next(x for x in DUMP.splitlines() if "iptfs-opts" in x and ("drop" in x) == (dump is into))
        assert line.strip() in [x.strip() for x in show_state(dump, False).splitlines()]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("dir in", "iptfs-opts drop-time 1000000 reorder-window 3"),
        ("dir in iptfs-opts reorder-window 0", "iptfs-opts drop-time 1000000 reorder-window 0"),
        ("dir out", "iptfs-opts init-delay 0 max-queue-size 10485760 pkt-size 0"),
        (
            "dir out iptfs-opts dont-frag pkt-size 1000 max-queue-size 5 init-delay 7 reqid 9",
            "iptfs-opts dont-frag init-delay 7 max-queue-size 5 pkt-size 1000",
        ),
    ],
)
def test_options_are_taken_in_any_order_and_told_with_their_defaults(words, told):
    (statement,) = parse_batch([ADD + words])
    dump = StateDump(statement.command.config, LifetimeCurrent(), ReplayLegacy())
    assert f"\t{told}" in show_state(dump).splitlines()
    assert dump.config.reqid == (9 if "reqid" in words else 0)
    (again,) = parse_dump(show_state(dump).splitlines())
    assert show_state(again.command.dump) == show_state(dump)


def test_json_tells_the_options_of_the_direction():
    out, into = (statement.command.dump for statement in parse_dump(DUMP.splitlines()))
    form = Form(unnamed)
    assert form.state(into)["iptfs"] == {"drop_time": 3, "reorder_window": 3}
    assert form.state(out)["iptfs"]["max_qsize"] == 10 << 20
    assert form.state(out)["mode"] == "iptfs"


@pytest.mark.parametrize(
    "words",
    [
        "iptfs-opts",
        "iptfs-opts pkt-size",
        "iptfs-opts pkt-size x",
        "iptfs-opts reorder-window 65536",
        "dont-frag",
        "iptfs-opts frag",
    ],
)
def test_what_is_no_option_is_refused(words):
    (statement,) = parse_batch([ADD + "dir in " + words])
    assert statement.error
