"""Fuzz the netlink input with atheris: `python tests/netlink/fuzz.py --seconds 3600`.

Needs atheris, which guides by coverage and is not among the development packages (see docs/decisions.md):
`pip install -c constraints.txt -e '.[dev,fuzz]'`. What it finds is in the directory that it names, one file
an input; `--show FILE` prints one as a line for corpus.txt, which every test run plays.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


def _compiled() -> list[str]:
    """Modules whose functions Numba compiles: they must keep their bytecode, so they are not instrumented."""
    import uxfrm

    root = Path(uxfrm.__file__).parent
    sources = [x for x in root.rglob("*.py") if "datapath" in x.parts or "@compiled(" in x.read_text()]
    return [
        "uxfrm",
        *(".".join(("uxfrm", *x.relative_to(root).with_suffix("").parts)) for x in sources),
        "uxfrm.compiled",
    ]


def fuzz(seconds: int, directory: Path, seed: int) -> None:
    """Run for some time, or until something is found. Does not return."""
    import atheris

    with atheris.instrument_imports(include=["uxfrm"], exclude=_compiled()):
        from netlink import fuzz_target
    from netlink.fuzz_input import Mutator, corpus

    seeds = corpus()
    kept = directory / "corpus"
    kept.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds):
        (kept / f"seed-{number}").write_bytes(data)

    mutator = Mutator(seeds)

    def mutate(data: bytes, most: int, number: int) -> bytes:
        if number % 16 == 0:
            return bytes(atheris.Mutate(data, most))
        return mutator.mutate(data, number)[:most]

    flags = [
        f"-max_total_time={seconds}", f"-artifact_prefix={directory}/", f"-seed={seed}", "-max_len=16384",
        "-timeout=20", "-rss_limit_mb=2048", "-len_control=0", "-print_final_stats=1",
    ]  # fmt: skip
    print(f"findings go to {directory}", flush=True)
    atheris.Setup([sys.argv[0], *flags, str(kept)], fuzz_target.run, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> None:
    """Read the command line."""
    arguments = argparse.ArgumentParser(description="Fuzz the netlink input.")
    arguments.add_argument("--seconds", type=int, default=3600)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--directory", type=Path, help="where findings and the corpus go")
    arguments.add_argument("--show", type=Path, metavar="FILE", help="print a finding for corpus.txt")
    chosen = arguments.parse_args()
    if chosen.show is not None:
        print(chosen.show.name, chosen.show.read_bytes().hex())
    else:
        fuzz(chosen.seconds, chosen.directory or Path(tempfile.mkdtemp(prefix="uxfrm-fuzz-")), chosen.seed)


if __name__ == "__main__":
    main()
