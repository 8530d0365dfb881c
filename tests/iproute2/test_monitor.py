"""States and policies that no kernel here has, sent to `ip xfrm monitor` as by one, and printed by both.

The messages are root's own, to the XFRM groups of a network namespace that this test makes.
"""

import json
import random
import re
import struct
import subprocess
import sys
from datetime import UTC

import pytest

from uxfrm.iproute2.monitor import show_event
from uxfrm.iproute2.output import show_policy, show_state
from uxfrm.lifecycle.events import (
    Acquire,
    DefaultChanged,
    MappingChanged,
    PoliciesFlushed,
    PolicyAdded,
    PolicyDeleted,
    PolicyExpired,
    Reported,
    StateAdded,
    StateDeleted,
    StateExpired,
    StateMonitored,
    StatesFlushed,
)
from uxfrm.model.aevent import Aevent
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.dump import LarvalConfig, PolicyDump, StateDump, StateId, StateStats
from uxfrm.model.error import XfrmError
from uxfrm.model.lifetime import INF, LifetimeConfig, LifetimeCurrent
from uxfrm.model.mark import NO_MARK, Mark
from uxfrm.model.policy import Offload, PolicyConfig, SecurityContext
from uxfrm.model.selector import Selector
from uxfrm.model.state import Encap, LifeState, Rare, ReplayEsn, ReplayLegacy, StateConfig
from uxfrm.model.template import Template
from uxfrm.netlink import replies
from uxfrm.netlink.events import GROUP_OF, notification
from uxfrm.netlink.wire import Message

RUN = """
import json, socket, struct, subprocess, sys, tempfile, time
out = tempfile.TemporaryFile()
monitor = subprocess.Popen(["ip", *sys.argv[1:], "xfrm", "monitor", "all"], stdout=out)
sender = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6)
while sum(line.split()[1] == "6" for line in open("/proc/self/net/netlink").readlines()[1:]) < 2:
    time.sleep(0.01)
time.sleep(0.2)
for kind, group, body in json.load(sys.stdin):
    body = bytes.fromhex(body)
    head = struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0)
    sender.sendto(head + body, (0, 1 << (group - 1)))
    time.sleep(0.002)
time.sleep(0.3)
monitor.terminate()
monitor.wait()
out.seek(0)
print(out.read().decode(), end="")
"""

# -- what is sent


class Maker:
    """Random states and policies of the model, from a seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def any(self, *choices):
        return self.random.choice(choices)

    def number(self, bits):
        return self.any(0, 1, self.random.getrandbits(bits), (1 << bits) - 1)

    def address(self, af):
        return bytes(self.any(0, 0, 0, 1, self.random.randrange(256)) for _ in range(4 if af == 2 else 16))

    def selector(self, af):
        sport, dport = self.any(0, 0xFFFF), self.any(0, 0xFFFF)
        return Selector(
            af,
            self.address(af),
            self.address(af),
            self.random.randrange(33),
            self.random.randrange(33),
            self.number(16) if dport else 0,
            dport,
            self.number(16) if sport else 0,
            sport,
            self.any(0, 1, 6, 17, 47, 50, 58, 132, 135, 136, 200),
            self.any(0, 1, 77),
            self.any(0, 5),
        )

    def mark(self):
        mask = self.number(32)
        return Mark(self.number(32) & mask, mask)

    def limits(self):
        return LifetimeConfig(*(self.any(INF, self.number(64)) for _ in range(4)), *(self.number(32),) * 4)

    def current(self):
        return LifetimeCurrent(self.number(40), self.number(40), 1_700_000_000, self.any(0, 1_700_000_007))

    def algorithms(self, proto):
        key = self.random.randbytes
        if proto == 51:
            return {"auth": Algorithm("hmac(sha256)", key(32), 128)}
        if proto == 108:
            return {"comp": Algorithm("deflate")}
        return self.any(
            {"aead": Algorithm("rfc4106(gcm(aes))", key(20), 128)},
            {"crypt": Algorithm("cbc(aes)", key(16)), "auth": Algorithm("hmac(sha1)", key(5), 96)},
            {"crypt": Algorithm("ecb(cipher_null)", b"")},
        )

    def state(self):
        af, proto = self.any(2, 10), self.any(50, 50, 51, 108)
        mode = self.any(0, 1, 1, 4 if proto == 50 else 1)
        esn = proto != 108 and self.random.random() < 0.4
        words = self.any(1, 2, 8, 9, 20)
        replay = ReplayLegacy(*(self.number(32) for _ in range(3)))
        if esn:
            bitmap = tuple(self.number(32) for _ in range(words))
            replay = ReplayEsn(words, words * 32 - 3, *(self.number(32) for _ in range(4)), bitmap)
        unspecified = mode and self.random.random() < 0.3
        selector = self.selector(self.any(2, 10) if mode else af)
        config = StateConfig(
            self.address(af),
            self.address(af),
            proto,
            self.number(16),
            af,
            mode,
            self.number(32),
            self.number(32),
            Selector(0, proto=self.any(0, 6)) if unspecified else selector,
            replay_window=0 if esn else 32,
            replay_esn=replay if esn else None,
            flags=(self.number(8) & 0x5F) | (32 if unspecified else 0) | (self.any(0, 128) if esn else 0),
            extra_flags=self.any(0, 1, 2, 3, 7),
            encap=Encap(2, self.number(16), self.number(16), self.address(af)) if proto == 50 else None,
            tfcpad=self.number(12) if proto == 50 and mode == 1 else 0,
            mark=self.mark(),
            set_mark=self.any(NO_MARK, self.mark()),
            if_id=self.number(31),
            lifetime=self.limits(),
            rare=Rare(
                offload=self.any(None, Offload(self.any(1, 77), self.any(0, 2))),
                context=self.any(None, SecurityContext(1, 1, "a:b:c")),
            ),
            **self.algorithms(proto),
        )
        stats = StateStats(*(self.number(32) for _ in range(3)))
        return StateDump(config, self.current(), replay, stats, self.any(0, 1_700_000_001))

    def larval(self):
        af = self.any(2, 10)
        config = LarvalConfig(
            self.address(af),
            self.address(af),
            self.any(50, 51, 108, 4, 41, 60),
            self.number(16),
            af,
            self.any(0, 1, 5),
            self.number(32),
            self.number(32),
            self.mark(),
            self.number(31),
            selector=self.selector(af),
            hard_add=30,
        )
        return StateDump(config, self.current(), ReplayLegacy(), life=LifeState.ACQ)

    def template(self, af, out):
        return Template(
            self.address(af),
            self.address(af),
            self.any(0, self.number(16)),
            self.any(50, 51, 108, 43, 60),
            af,
            self.number(32),
            self.any(0, 1, 2, 3, 4),
            self.any(0, 1),
            not out and self.random.random() < 0.3,
            *(self.number(32) for _ in range(3)),
        )

    def policy(self):
        af, direction = self.any(2, 10), self.any(0, 1, 2)
        return PolicyDump(
            PolicyConfig(
                direction,
                self.selector(af),
                tuple(self.template(af, direction == 1) for _ in range(self.random.randrange(4))),
                self.any(0, 1),
                self.number(32),
                self.number(20) * 8 + direction,
                self.number(8),
                self.any(0, 1, 2, 3),
                self.any(0, 1),
                self.limits(),
                self.mark(),
                self.number(31),
                self.any(None, SecurityContext(1, 1, "x")),
            ),
            self.current(),
        )


# -- as a kernel says it (struct xfrm_usersa_info, xfrm_userpolicy_info and their attributes)


def padded(address):
    return address.ljust(16, b"\0")


def attribute(number, body):
    return struct.pack("=HH", 4 + len(body), number) + body + bytes(-len(body) % 4)


def words(number, *values):
    return attribute(number, struct.pack(f"={len(values)}I", *values))


def selector(s):
    ports = struct.pack(">4H", s.dport, s.dport_mask, s.sport, s.sport_mask)
    rest = struct.pack("=HBBB3xiI", s.family, s.prefixlen_d, s.prefixlen_s, s.proto, s.ifindex, s.user)
    return padded(s.daddr) + padded(s.saddr) + ports + rest


def algorithm(number, a, *extra):
    head = a.name.encode().ljust(64, b"\0") + struct.pack(f"={1 + len(extra)}I", a.key_bits, *extra)
    return attribute(number, head + a.key)


def context(c):
    text = c.text.encode() + b"\0"
    return attribute(8, struct.pack("=HHBBH", 8 + len(text), 8, c.alg, c.doi, len(text)) + text)


def state_message(d):
    x, full = d.config, isinstance(d.config, StateConfig)
    limits = x.lifetime if full else LifetimeConfig(hard_add=x.hard_add)
    body = selector(x.selector) + padded(x.daddr) + struct.pack(">IB3x", x.spi, x.proto) + padded(x.saddr)
    body += struct.pack("=8Q4Q3I", *limits, *d.current, *d.stats)
    window, flags = (x.replay_window, x.flags) if full else (0, 0)
    body += struct.pack("=IIHBBB7x", x.seq, x.reqid, x.family, x.mode, window, flags)
    if d.lastused:
        body += attribute(15, struct.pack("=Q", d.lastused))
    if full:
        body += state_attributes(x)
    if x.mark != NO_MARK:
        body += words(21, *x.mark)
    r = d.replay
    if isinstance(r, ReplayEsn):
        body += words(23, r.words, r.oseq, r.seq, r.oseq_hi, r.seq_hi, r.replay_window, *r.bitmap)
    else:
        body += words(10, r.oseq, r.seq, r.bitmap)
    return 0x10, 3, body + (words(31, x.if_id) if x.if_id else b"")


def state_attributes(x):
    body = words(24, x.extra_flags) if x.extra_flags else b""
    body += algorithm(18, x.aead, x.aead.icv_bits) if x.aead else b""
    body += algorithm(1, x.auth) + algorithm(20, x.auth, x.auth.icv_bits) if x.auth else b""
    body += algorithm(2, x.crypt) if x.crypt else b""
    body += algorithm(3, x.comp) if x.comp else b""
    if x.encap:
        ports = struct.pack("=H", x.encap.type) + struct.pack(">HH2x", x.encap.sport, x.encap.dport)
        body += attribute(4, ports + padded(x.encap.oa))
    body += words(22, x.tfcpad) if x.tfcpad else b""
    body += words(29, x.set_mark.v) + words(30, x.set_mark.m) if x.set_mark != NO_MARK else b""
    if x.rare.offload:
        body += attribute(28, struct.pack("=iB3x", x.rare.offload.ifindex, x.rare.offload.flags))
    return body + (context(x.rare.context) if x.rare.context else b"")


def policy_message(d):
    p = d.config
    body = selector(p.selector) + struct.pack("=8Q4Q", *p.lifetime, *d.current)
    body += struct.pack("=IIBBBB4x", p.priority, p.index, p.direction, p.action, p.flags, p.share)
    templates = b"".join(
        padded(t.daddr)
        + struct.pack(">IB3x", t.spi, t.proto)
        + struct.pack("=H2x", t.family)
        + padded(t.saddr)
        + struct.pack("=IBBBxIII", t.reqid, t.mode, t.share, t.optional, t.aalgos, t.ealgos, t.calgos)
        for t in p.templates
    )
    body += attribute(5, templates) if templates else b""
    body += context(p.context) if p.context else b""
    body += attribute(16, bytes([p.type]) + bytes(5))
    body += words(21, *p.mark) if p.mark != NO_MARK else b""
    return 0x13, 4, body + (words(31, p.if_id) if p.if_id else b"")


def made(seed, count):
    maker, found = Maker(seed), []
    while len(found) < count:
        try:
            found.append(maker.any(maker.state, maker.state, maker.larval, maker.policy)())
        except XfrmError:
            continue
    return found


@pytest.mark.linux
@pytest.mark.parametrize("option", ["-s", ""])
def test_whatever_a_kernel_may_say_is_printed_as_by_ip(option):
    dumps = made(7, 400)
    messages = [state_message(d) if isinstance(d, StateDump) else policy_message(d) for d in dumps]
    run = subprocess.run(
        ["unshare", "--map-root-user", "--net", sys.executable, "-c", RUN, *option.split()],
        input=json.dumps([(kind, group, body.hex()) for kind, group, body in messages]),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={"TZ": "UTC", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    printed = re.split(r"(?m)^(?=src )", run.stdout)[1:]
    assert len(printed) == len(dumps)
    for dump, text in zip(dumps, printed, strict=True):
        show = show_state if isinstance(dump, StateDump) else show_policy
        ours = show(dump, bool(option), zone=UTC, name_of=lambda i: "lo" if i == 1 else f"if{i}")
        assert ours.rstrip("\n") == text.rstrip("\n")


def acquired(maker):
    """An acquire as ACQUIRE carries it, and as an event."""
    policy = maker.policy()
    proto, spi, seq = maker.any(50, 51, 108, 43), maker.number(32), maker.number(32)
    selector = policy.config.selector
    wanted = LarvalConfig(bytes(len(selector.daddr)), selector.saddr, proto, spi, selector.family, seq=seq,
                          selector=selector)  # fmt: skip
    masks = {name: maker.number(32) for name in ("aalgos", "ealgos", "calgos")}
    template = Template(proto=proto, **masks)
    return Acquire(wanted, template, policy)


def expired(maker):
    dump = maker.any(maker.state, maker.larval, maker.policy)()
    kind = PolicyExpired if isinstance(dump, PolicyDump) else StateExpired
    return kind(dump, maker.any(True, False))


def monitored(maker):
    return StateMonitored(Aevent(maker.state(), maker.number(7), 2, 10))


def mapped(maker):
    af = maker.any(2, 10)
    old, new = ((maker.address(af), maker.number(16)) for _ in range(2))
    return MappingChanged(StateId(maker.address(af), maker.number(32), 50, af), maker.number(32), old, new)


def reported(maker):
    selector = maker.policy().config.selector
    coaddr = maker.address(selector.family) if selector.family else None
    return Reported(maker.any(43, 60), selector, maker.any(None, coaddr))


FIXED = [
    StatesFlushed(0), StatesFlushed(255), StatesFlushed(50), PoliciesFlushed(0), PoliciesFlushed(1),
    DefaultChanged(1, 2, 0),
]  # fmt: skip


def events(seed, count):
    maker, found = Maker(seed), list(FIXED)
    while len(found) < count:
        try:
            state, policy = maker.any(maker.state, maker.larval)(), maker.policy()
            usual = [StateAdded(state, True), StateDeleted(state), PolicyAdded(policy, True)]
            odd = [PolicyDeleted(policy, maker.any(True, False)), expired(maker), monitored(maker)]
            found.append(maker.any(*usual, *odd, acquired(maker), mapped(maker), reported(maker)))
        except XfrmError:
            continue
    return found


def lo(index):
    return "lo" if index == 1 else f"if{index}"


@pytest.mark.linux
@pytest.mark.parametrize("option", ["-s", ""])
def test_events_are_printed_as_by_ip(option):
    """Encoded by the server's half, printed by `ip`; decoded by the client's half, printed by uxfrm."""
    told = [(notification(event), GROUP_OF[type(event)]) for event in events(11, 300)]
    sent = [(int(x.type), int(group), x.payload.hex()) for x, group in told]
    run = subprocess.run(
        ["unshare", "--map-root-user", "--net", sys.executable, "-c", RUN, *option.split()],
        input=json.dumps(sent),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={"TZ": "UTC", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    ours = []
    for kind, _, payload in sent:
        event = replies.event(Message(kind, 0, 0, 0, bytes.fromhex(payload)))
        ours.append(show_event(event, bool(option), zone=UTC, name_of=lo))
    text = run.stdout
    for number, words in enumerate(ours):
        assert text[: len(words)] == words, (number, sent[number])
        text = text[len(words) :]
    assert not text
