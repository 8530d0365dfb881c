"""Setup files: what `ip -batch` takes, or what `ip -s xfrm state` and `ip -s xfrm policy` print.

A line that cannot be read or that the kernel would refuse becomes one problem with file and line; the others
are applied all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from uxfrm.iproute2.commands import answer
from uxfrm.iproute2.execute import execute
from uxfrm.iproute2.requests import RestorePolicy, RestoreState, Statement
from uxfrm.iproute2.setup import parse_setup
from uxfrm.model.dump import NO_STATS, LarvalConfig, PolicyDump, StateDump
from uxfrm.model.error import XfrmError
from uxfrm.model.lifetime import LifetimeCurrent
from uxfrm.model.policy import Direction
from uxfrm.model.state import ReplayEsn, ReplayLegacy
from uxfrm.namespace import Namespace


class Interfaces:
    """Interfaces of the host played, known by name only: numbers are given as names come up."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def index(self, name: str) -> int:
        """The number of a name."""
        if name not in self._names:
            self._names.append(name)
        return self._names.index(name) + 1

    def name(self, index: int) -> str:
        """The name of a number."""
        return self._names[index - 1] if 0 < index <= len(self._names) else f"if{index}"


def apply_setup(
    namespace: Namespace, lines: Iterable[str], name: str, fresh: bool, interfaces: Interfaces
) -> list[str]:
    """Apply a setup file; return its problems, one line each. `fresh` leaves pasted counters out."""
    problems: list[str] = []
    pasted: list[Statement] = []
    for statement in parse_setup(lines, interfaces.index):
        if statement.command is None:
            problems.append(_problem(name, statement, statement.error or "not understood"))
        elif isinstance(statement.command, RestoreState | RestorePolicy):
            pasted.append(statement)
        else:
            problems += _apply(namespace, statement, name, fresh)
    # `ip` lists the newest first; age decides lookups, so the oldest must come first.
    for statement in reversed(pasted):
        problems += _apply(namespace, statement, name, fresh)
    return problems


def apply_tables(
    namespace: Namespace, states: Iterable[StateDump], policies: Iterable[PolicyDump], name: str, fresh: bool
) -> list[str]:
    """Bring live tables over, as their dumps list them, newest first; return what could not be taken.

    Policies of sockets belong to their sockets and are passed over.
    """
    problems: list[str] = []
    for dump in reversed(list(policies)):
        if dump.config.index & 7 <= Direction.FWD:
            problems += _restored(name, dump.config.index, partial(namespace.restore_policy, dump))
    for state in reversed(list(states)):
        wanted = _fresh(state) if fresh else state
        problems += _restored(name, state.config.spi, partial(namespace.restore_state, wanted))
    return problems


def _restored(name: str, number: int, restore: Callable[[], object]) -> list[str]:
    try:
        restore()
    except XfrmError as error:
        return [f"{name} {number:#x}: {answer(error).removeprefix('Error: ')}"]
    return []


def _apply(namespace: Namespace, statement: Statement, name: str, fresh: bool) -> list[str]:
    command = statement.command
    try:
        if isinstance(command, RestoreState):
            namespace.restore_state(_fresh(command.dump) if fresh else command.dump)
        elif isinstance(command, RestorePolicy):
            namespace.restore_policy(command.dump)
        elif command is not None:
            execute(command, namespace)
    except XfrmError as error:
        return [_problem(name, statement, answer(error))]
    return []


def _fresh(dump: StateDump) -> StateDump:
    """The state as it was when it was made: no counters, sequence numbers at the start."""
    empty: ReplayLegacy | ReplayEsn = ReplayLegacy()
    if isinstance(dump.replay, ReplayEsn):
        empty = ReplayEsn(dump.replay.words, dump.replay.replay_window)
    life = dump.config.lifetime if not isinstance(dump.config, LarvalConfig) else None
    current = LifetimeCurrent(add_time=dump.current.add_time) if life else dump.current
    return replace(dump, current=current, replay=empty, stats=NO_STATS, lastused=0)


def _problem(name: str, statement: Statement, text: str) -> str:
    first = text.splitlines()[0] if text else "not understood"
    return f"{name}:{statement.line}: {first.removeprefix('Error: ')}"
