"""The tables as files, as the host's own commands would print them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from uxfrm.iproute2.output import show_policy, show_state
from uxfrm.model.dump import StateDump
from uxfrm.model.outcome import show_counters
from uxfrm.namespace import Namespace
from uxfrm.replay import private


def write_tables(namespace: Namespace, directory: Path, name_of: Callable[[int], str]) -> None:
    """Write state.txt, policy.txt and xfrm_stat.txt. OSError where that cannot be.

    state.txt holds keys, as `ip -s xfrm state` does: only the owner may read it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    states = (show_state(_without_lastused(dump), name_of=name_of) for dump in namespace.dump_states())
    policies = (show_policy(dump, name_of=name_of) for dump in namespace.dump_policies())
    private.write(directory / "state.txt", "".join(states))
    private.write(directory / "policy.txt", "".join(policies))
    private.write(directory / "xfrm_stat.txt", show_counters(namespace.counters()))


def _without_lastused(dump: StateDump) -> StateDump:
    """As kernels before 6.2, which tell the time of last use of MIPv6 states only."""
    return replace(dump, lastused=0)
