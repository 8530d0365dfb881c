"""Make docs/outcomes.md from the table in src/uxfrm/model/outcome.py: python scripts/outcomes.py."""

from __future__ import annotations

from pathlib import Path

from uxfrm.explain.report import WORDS
from uxfrm.model.outcome import Outcome

HEAD = """# Every way a packet can end

Made by `scripts/outcomes.py` from `src/uxfrm/model/outcome.py`. The counter is the line of
/proc/net/xfrm_stat that moves; without one, Linux's XFRM counts the packet nowhere. Words in braces
are filled in per packet.

| name | outcome | counter | reason |
|---|---|---|---|
"""


def main() -> None:
    rows = (
        f"| `{o.name}` | {WORDS[o.verdict]} | {'-' if o.counter is None else o.counter.name} | {o.words} |\n"
        for o in Outcome
    )
    Path("docs/outcomes.md").write_text(HEAD + "".join(rows))


if __name__ == "__main__":
    main()
