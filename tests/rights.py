"""What /proc says of a process's rights, thread by thread."""

from __future__ import annotations

import re
from pathlib import Path

_SETS = re.compile(r"^(Cap(?:Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs):\s*(\S+)$", re.MULTILINE)


def rights(pid: int) -> dict[str, set[int]]:
    """The values that each set of capabilities, and NoNewPrivs, has on the threads of a process."""
    found: dict[str, set[int]] = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for name, value in _SETS.findall((thread / "status").read_text()):
            found.setdefault(name, set()).add(int(value, 16))
    return found


def exactly(*capabilities: int) -> dict[str, set[int]]:
    """What `rights` says where there are these capabilities for ever, and no others."""
    mask = sum(1 << number for number in capabilities)
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    return {name: {mask} for name in sets} | {"NoNewPrivs": {1}}
