"""A soak: tunnels that rekey once a simulated hour, under traffic, for simulated days; and what time costs.

    python bench/soak.py [--json FILE] [--quick]
    python bench/soak.py --tunnels N --days D [--seconds LIMIT] [--json FILE]
    python bench/soak.py --cycles N [--json FILE]
    python bench/soak.py --timers N [--json FILE]

Two hosts hold each tunnel: a state in and out each, a policy in and out each. The soft limit of an hour's
lifetime has both rekey: a new pair of states, then the old pair is deleted, or (one in eight) left to its
hard limit. Every tick of ten simulated seconds a share of the tunnels carries a packet each way. A packet
that fares otherwise than it must, an event too many or too few, a counter that moves: each ends the run.
With LIMIT (seconds of the wall clock) a run may end sooner; it says how far it came.

`--cycles` adds states that a soft and a hard limit of time end, or a request; `--timers` measures what states
with timers cost while nothing is due. Memory is this process's resident set.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import Counter, deque
from typing import Any

from common import ALGORITHMS, endpoints, inner, options, packet, ready, save, table
from states import resident
from uxfrm.datapath.batch import Batch
from uxfrm.lifecycle.events import Event, PolicyAdded, StateAdded, StateDeleted, StateExpired, StateMonitored
from uxfrm.model.dump import StateId
from uxfrm.model.lifetime import LifetimeConfig
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.model.state import StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.namespace import Namespace

HOUR, DAY = 3600, 86400
TICK = 10
SOFT, HARD = 3600, 3900
"""Seconds; a tunnel is rekeyed when its states become dying."""

LEFT_TO_EXPIRE, POLICY_EVERY = 8, 16
"""One rekey of so many leaves the old pair to its hard limit; one of so many updates a policy."""

FULL_TUNNELS, FULL_DAYS = 100_000, 30
LIFETIME = LifetimeConfig(soft_add=SOFT, hard_add=HARD)
ALGORITHM = "AES-GCM-128"


class Host:
    """One end of every tunnel, with what it told, by kind, and the seconds spent in it."""

    def __init__(self, mirrored: bool) -> None:
        self.namespace = Namespace(randbytes=os.urandom)
        self.mirrored = mirrored
        self.told: Counter[str] = Counter()
        self.soft: list[int] = []
        self.seconds = 0.0
        # Of running figures (NEWAE) nobody hears, as on a host without a standby.
        self.namespace.listen(self._hear, lambda kind: kind is not StateMonitored)

    def _hear(self, event: Event) -> bool:
        self.told[_kind(event)] += 1
        if isinstance(event, StateExpired) and not event.hard and not event.state.config.spi & 1:
            self.soft.append(event.state.config.reqid - 1)
        return False

    def advance(self, now: int) -> list[int]:
        """Let time pass; the tunnels of which the first state has become dying."""
        start = time.perf_counter()
        self.namespace.advance(now)
        self.seconds += time.perf_counter() - start
        dying, self.soft = self.soft, []
        return dying

    def carry(self, data: list[bytes], outgoing: bool) -> list[bytes]:
        """Take packets out, or in; whatever is not sent or delivered ends the run."""
        start = time.perf_counter()
        batch = Batch.pack(data, self.namespace.now_s)
        (self.namespace.output if outgoing else self.namespace.input)(batch)
        self.seconds += time.perf_counter() - start
        wanted = Outcome.SENT if outgoing else Outcome.DELIVERED
        wrong = batch.packets["outcome"] != wanted
        if wrong.any():
            outcome = Outcome.of(int(batch.packets["outcome"][wrong][0]))
            _wrong(f"{int(wrong.sum())} packets were not {wanted.name.lower()}: {outcome.words}")
        return [batch.packet(i) for i in range(len(batch))]


def _kind(event: Event) -> str:
    if isinstance(event, StateExpired):
        return "hard" if event.hard else "soft"
    return {StateAdded: "added", StateDeleted: "deleted", PolicyAdded: "policy"}.get(type(event), "other")


def _wrong(words: str) -> None:
    raise SystemExit(f"soak: {words}")


class Soak:
    """Two hosts, their tunnels, and what must have come of what was done to them."""

    def __init__(self, tunnels: int) -> None:
        self.hosts = (Host(False), Host(True))
        self.tunnels = tunnels
        self.now = 0
        self.rekeys = self.packets = 0
        self.must: Counter[str] = Counter()
        # Per tunnel the generation of its pair; pairs left to their hard limit, soonest first.
        self.generation = [0] * tunnels
        self._left: deque[int] = deque()
        self._next = 0

    def state(self, number: int, generation: int, back: bool, keys: dict[str, Any]) -> StateConfig:
        """One of a pair: its SPI is unique to its time, even for the way there."""
        near, far = endpoints(number)
        source, destination = (far, near) if back else (near, far)
        return StateConfig(
            daddr=destination, saddr=source, spi=0x10000 + (generation * self.tunnels + number) * 2 + back,
            reqid=number + 1, mode=Mode.TUNNEL, replay_window=32, lifetime=LIFETIME, **keys,
        )  # fmt: skip

    def establish(self, number: int) -> None:
        """Add a pair of states to both hosts."""
        for back in (False, True):
            config = self.state(number, self.generation[number], back, ALGORITHMS[ALGORITHM]())
            for host in self.hosts:
                start = time.perf_counter()
                host.namespace.add_state(config)
                host.seconds += time.perf_counter() - start
        self.must["added"] += 2

    def protect(self, number: int, *, update: bool) -> None:
        """Have the policies of a tunnel on both hosts, anew where they are there."""
        for host in self.hosts:
            for direction in (Direction.IN, Direction.OUT):
                config = _policy(number, direction, (direction == Direction.IN) != host.mirrored)
                start = time.perf_counter()
                (host.namespace.update_policy if update else host.namespace.add_policy)(config)
                host.seconds += time.perf_counter() - start
        self.must["policy"] += 2

    def rekey(self, number: int) -> None:
        """A new pair; the old one goes now, or by its hard limit."""
        old = self.generation[number]
        self.generation[number] += 1
        self.establish(number)
        self.rekeys += 1
        self.must["soft"] += 2
        if self.rekeys % POLICY_EVERY == 0:
            self.protect(number, update=True)
        if self.rekeys % LEFT_TO_EXPIRE == 0:
            self._left.append(self.now)
            return
        for back in (False, True):
            near, far = endpoints(number)
            spi = 0x10000 + (old * self.tunnels + number) * 2 + back
            identity = StateId(near if back else far, spi, 50, 2)
            for host in self.hosts:
                start = time.perf_counter()
                host.namespace.delete_state(identity)
                host.seconds += time.perf_counter() - start
        self.must["deleted"] += 2

    def tick(self, share: int) -> None:
        """Ten seconds: what expires, its rekeys, and a packet each way through `share` tunnels."""
        self.now += TICK
        dying = [host.advance(self.now) for host in self.hosts]
        if sorted(dying[0]) != sorted(dying[1]):
            _wrong("the hosts did not find the same tunnels dying")
        for number in dying[0]:
            self.rekey(number)
        while self._left and self._left[0] + HARD - SOFT <= self.now:
            self._left.popleft()
            self.must["hard"] += 2
        self.carry([(self._next + i) % self.tunnels for i in range(share)])
        self._next = (self._next + share) % self.tunnels

    def carry(self, numbers: list[int]) -> None:
        """A packet each way through these tunnels, which must come out as it went in."""
        there = [packet(number, 100) for number in numbers]
        back = [_reversed(data) for data in there]
        near, far = self.hosts
        for data, sender, receiver in ((there, near, far), (back, far, near)):
            if receiver.carry(sender.carry(data, True), False) != data:
                _wrong("packets came out changed")
        self.packets += 2 * len(numbers)

    def check(self) -> None:
        """End the run where an event is missing or too many, or a counter has moved, or a state is left."""
        live = 2 * self.tunnels + 2 * len(self._left)
        for host in self.hosts:
            if host.told != self.must:
                _wrong(f"events {dict(host.told)}, not {dict(self.must)}")
            if any(host.namespace.counters()):
                _wrong(f"counters moved: {host.namespace.counters()}")
            if len(host.namespace.states) != live:
                _wrong(f"{len(host.namespace.states)} states, not {live}")


def _policy(number: int, direction: Direction, back: bool) -> PolicyConfig:
    (source, destination), (near, far) = inner(number), endpoints(number)
    if back:
        source, destination, near, far = destination, source, far, near
    template = Template(far, near, family=2, reqid=number + 1, mode=Mode.TUNNEL)
    return PolicyConfig(direction, Selector(2, destination, source, 32, 32), (template,))


def _reversed(data: bytes) -> bytes:
    """A packet with its addresses exchanged; the header's sum stays the same."""
    return data[:12] + data[16:20] + data[12:16] + data[20:]


def soak(tunnels: int, days: float, limit: float) -> list[dict[str, Any]]:
    """Run the tunnels; a row per tenth of it, and what the full size would take."""
    start = time.perf_counter()
    run = Soak(tunnels)
    for number in range(tunnels):
        # Spread over the hour, as tunnels that came up one after the other are.
        run.now = number * HOUR // tunnels
        if run.now > run.hosts[0].namespace.now_s:
            for host in run.hosts:
                host.advance(run.now)
        run.establish(number)
        run.protect(number, update=False)
    run.now = HOUR - TICK
    built, share = time.perf_counter() - start, max(1, min(256, tunnels // 64))
    for host in run.hosts:
        host.seconds = 0.0
    rows, end, begun = [], int(HOUR + days * DAY), time.perf_counter()
    every = max(HOUR, int(days * DAY / 10))
    shown = run.now
    while run.now < end:
        run.tick(share)
        over = time.perf_counter() - begun > limit
        if run.now - shown >= every or run.now >= end or over:
            shown = run.now
            run.check()
            gc.collect()
            rows.append(_row(run, built, time.perf_counter() - begun))
            print(_told(rows[-1]), file=sys.stderr, flush=True)
        if over:
            break
    return [*rows[:-1], rows[-1] | _full(rows[-1])]


def _row(run: Soak, built: float, wall: float) -> dict[str, Any]:
    busy = sum(host.seconds for host in run.hosts)
    return {
        "tunnels": run.tunnels,
        "days": round((run.now - HOUR) / DAY, 3),
        "rekeys": run.rekeys,
        "packets": run.packets,
        "events": sum(sum(host.told.values()) for host in run.hosts),
        "MB": resident() / 1e6,
        "set-up s": round(built, 1),
        "wall s": round(wall, 1),
        "in hosts s": round(busy, 1),
        "rekeys/s": run.rekeys / wall,
        "one host's/s": run.rekeys / (busy / 2),
    }


def _full(row: dict[str, Any]) -> dict[str, Any]:
    """What the issue's full size would take at this rate."""
    return {"full run h": FULL_TUNNELS * FULL_DAYS * 24 / row["rekeys/s"] / 3600}


def _told(row: dict[str, Any]) -> str:
    return f"{row['days']} days, {row['rekeys']:,} rekeys, {row['MB']:.0f} MB, {row['wall s']:.0f} s"


def cycles(count: int) -> list[dict[str, Any]]:
    """Add states that limits or requests end; a row per tenth of them, with the resident set."""
    namespace, told = Namespace(randbytes=os.urandom), Counter[str]()
    namespace.listen(lambda event: told.update([_kind(event)]))
    keys, at_once = ALGORITHMS[ALGORITHM](), min(1000, count)
    rows, start, done = [], time.perf_counter(), 0
    for tenth in range(1, 11):
        while done < count * tenth // 10:
            _cycle(namespace, done, at_once, keys)
            done += at_once
        if len(namespace.states) or namespace.next_deadline() is not None:
            _wrong("states or timers are left")
        gc.collect()
        wall = time.perf_counter() - start
        rows.append(
            {"cycles": done, "MB": resident() / 1e6, "wall s": round(wall, 1), "cycles/s": done / wall}
        )
        print(f"{done:,} cycles, {rows[-1]['MB']:.1f} MB, {wall:.0f} s", file=sys.stderr, flush=True)
    must = {"added": done, "soft": done, "hard": done // 2, "deleted": done // 2}
    if told != must:
        _wrong(f"events {dict(told)}, not {must}")
    return rows


def _cycle(namespace: Namespace, first: int, count: int, keys: dict[str, Any]) -> None:
    """Add `count` states, let all become dying, delete every second, let the others expire."""
    now, lifetime = namespace.now_s, LifetimeConfig(soft_add=10, hard_add=20)
    for number in range(first, first + count):
        near, far = endpoints(number % 1000)
        namespace.add_state(
            StateConfig(
                daddr=far, saddr=near, spi=0x1000 + number, mode=Mode.TUNNEL, lifetime=lifetime, **keys
            )
        )
    namespace.advance(now + 10)
    for number in range(first, first + count, 2):
        namespace.delete_state(StateId(endpoints(number % 1000)[1], 0x1000 + number, 50, 2))
    namespace.advance(now + 20)


def timers(count: int) -> list[dict[str, Any]]:
    """What `count` states with timers cost while none of them is due."""
    namespace = Namespace(randbytes=os.urandom)
    keys, before = ALGORITHMS[ALGORITHM](), resident()
    for number in range(count):
        near, far = endpoints(number)
        config = StateConfig(
            daddr=far, saddr=near, spi=0x1000 + number, reqid=number + 1, mode=Mode.TUNNEL,
            lifetime=LifetimeConfig(soft_add=HOUR + number, hard_add=2 * HOUR + number), **keys,
        )  # fmt: skip
        namespace.add_state(config)
    grown, calls = resident() - before, 100_000
    start = time.perf_counter()
    for _ in range(calls):
        namespace.next_deadline()
    asked = time.perf_counter() - start
    start = time.perf_counter()
    for step in range(calls):
        namespace.advance(step * HOUR / calls)
    passed = time.perf_counter() - start
    return [
        {
            "states": count,
            "bytes/state": grown / count,
            "next_deadline() us": asked / calls * 1e6,
            "idle advance() us": passed / calls * 1e6,
        }
    ]


def main() -> None:
    given = options(__doc__, tunnels=int, days=float, seconds=float, cycles=int, timers=int)
    ready()
    if given.cycles:
        parts = [cycles(given.cycles)]
    elif given.timers:
        parts = [timers(given.timers)]
    elif given.tunnels:
        parts = [soak(given.tunnels, given.days or 1, given.seconds or float("inf"))]
    elif given.quick:
        parts = [soak(50, 0.25, 60), cycles(10_000), timers(1_000)]
    else:
        parts = [soak(1_000, 1, 120), cycles(100_000), timers(100_000)]
    for rows in parts:
        print(table(rows))
    save([row for rows in parts for row in rows], given.json)


if __name__ == "__main__":
    main()
