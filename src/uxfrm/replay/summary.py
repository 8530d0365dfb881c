"""What a whole replay came to: frames, outcomes, counters, totals per state."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from uxfrm.datapath.batch import Int64s
from uxfrm.datapath.context import Context
from uxfrm.explain.report import IN, Part, outcome_words
from uxfrm.model.dump import StateDump
from uxfrm.model.outcome import Counter, Outcome
from uxfrm.namespace import Namespace
from uxfrm.replay.host import Host
from uxfrm.tables.states import State


@dataclass(slots=True)
class StateTotal:
    """What the capture held of one state: frames by outcome."""

    state: State
    frames: int = 0
    outcomes: Tally[str] = field(default_factory=Tally)

    @property
    def dump(self) -> StateDump:
        return self.state.dump()


class Summary:
    """Counts packets as they pass."""

    def __init__(self) -> None:
        self.outcomes: Tally[tuple[str, str]] = Tally()
        self.reasons: Tally[Outcome] = Tally()
        self.states: dict[State, StateTotal] = {}

    def add(self, context: Context, part: Part) -> None:
        """Count a part, packets of one state with one outcome at a time."""
        p = part.batch.packets
        if not len(part.batch):
            return
        inside = p["depth"] > 0
        pairs = np.stack([p["outcome"], p["pathgen"][:, 0] * inside, p["path"][:, 0] * inside], axis=1)
        for (outcome, gen, row), count in _tally(pairs):
            code = Outcome.of(outcome)
            words = outcome_words(code, part.direction)[0]
            self.outcomes[part.direction, words] += count
            self.reasons[code] += count
            state = context.state_at(row, gen) if gen else None
            if state is not None:
                total = self.states.setdefault(state, StateTotal(state))
                total.frames += count
                total.outcomes[words] += count

    def counters(self, namespace: Namespace) -> dict[str, int]:
        """The counters that moved."""
        values = namespace.counters()
        return {counter.name: values[counter] for counter in Counter if values[counter]}

    def hints(self, host: Host) -> list[str]:
        """What a user may want to try when the picture looks like a known mistake."""
        found = []
        received = sum(count for (direction, _), count in self.outcomes.items() if direction == IN)
        late = self.reasons[Outcome.IN_SEQ_OLD] + self.reasons[Outcome.IN_SEQ_REPLAYED]
        if received and late * 2 > received:
            found.append(
                "most frames look replayed: if the tables were printed after the capture, try --fresh"
            )
        if not self.outcomes and host.frames:
            found.append("no frame belongs to this host: check --mac or --local")
        return found

    def as_dict(self, host: Host) -> dict[str, object]:
        """The summary as JSON carries it."""
        return {
            "frames": host.frames,
            "skipped": {
                "not for this host": host.skipped.other,
                "not IP": host.skipped.not_ip,
                "direction unknown": host.skipped.unknown,
            },
            "outcomes": [
                {"direction": direction, "outcome": outcome, "frames": count}
                for (direction, outcome), count in sorted(self.outcomes.items())
            ],
            "counters": self.counters(host.namespace),
            "states": [_state(total) for total in self.states.values()],
        }


def _tally(rows: Int64s) -> Iterator[tuple[list[int], int]]:
    """Each distinct row of a table, and how often it occurs; in order of first occurrence."""
    distinct, first, counts = np.unique(rows, axis=0, return_index=True, return_counts=True)
    for k in np.argsort(first):
        yield distinct[k].tolist(), int(counts[k])


def _state(total: StateTotal) -> dict[str, object]:
    dump = total.dump
    return {
        "spi": dump.config.spi,
        "reqid": dump.config.reqid,
        "frames": total.frames,
        "outcomes": dict(total.outcomes),
        "bytes": dump.current.bytes,
        "packets": dump.current.packets,
        "replay_window": dump.stats.replay_window,
        "replay": dump.stats.replay,
        "failed": dump.stats.integrity_failed,
    }
