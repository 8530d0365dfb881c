"""Build user-mode Linux 6.12 from Debian's source, once: it has ESP in TCP, xfrm interfaces, SM3 and SM4.

    make test-kernel    builds what the cache does not have, in minutes; `make test` does so first

The program is kept in the user's cache, named by the source's version and a hash of its configuration.
It appears there whole, checked, or not at all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from linux.fetch import Kernel, cache, do, download

SOURCE = "linux-source-6.12"
FRAGMENT = Path(__file__).with_name("uml-6.12.config")
_PROGRAM = "linux.uml"
_FILES = 1100
_TELL_EVERY_S = 15


def built() -> Kernel:
    """The kernel that was built last with this configuration; RuntimeError where none was."""
    found = sorted(cache().glob(f"uml-6.12.*-{_fingerprint()}/{_PROGRAM}"), key=os.path.getmtime)
    if not found:
        raise RuntimeError("Linux 6.12 for the tests has not been built: run `make test-kernel` (minutes)")
    return Kernel(found[-1])


def build() -> Kernel:
    """Build the kernel where the cache has none of the version that Debian offers."""
    where = _place(_offered())
    if not (where / _PROGRAM).is_file():
        made = Path(tempfile.mkdtemp(dir=cache(), prefix="building-6.12-"))
        try:
            where = _place(_build(made))
            try:
                (made / "done").rename(where)
            except OSError:
                if not (where / _PROGRAM).is_file():
                    raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return Kernel(where / _PROGRAM)


def _place(version: str) -> Path:
    return cache() / f"uml-{version.replace('~', '_')}-{_fingerprint()}"


def _fingerprint() -> str:
    """What tells configurations apart."""
    return hashlib.sha256(FRAGMENT.read_bytes()).hexdigest()[:12]


def _offered() -> str:
    """The version of the source that Debian offers, such as 6.12.117-1."""
    told = _policy()
    if not told:
        do("apt-get", "update", cwd=Path("/"))
        told = _policy()
    if not told:
        raise RuntimeError(f"Debian has no {SOURCE} here")
    return told


def _policy() -> str:
    said = subprocess.run(["apt-cache", "policy", SOURCE], capture_output=True, text=True, check=True).stdout
    versions = [line.split()[1] for line in said.splitlines() if line.strip().startswith("Candidate:")]
    return versions[0] if versions and versions[0] != "(none)" else ""


def _build(made: Path) -> str:
    """Fill `made`/done: 1. source  2. configuration  3. program  4. check. Returns the source's version."""
    _tell("the source, 150 MB")
    download(made, [SOURCE])
    (package,) = made.glob("*.deb")
    _, version, _ = package.name.split("_")
    do("dpkg", "-x", str(package), str(made / "package"), cwd=made)
    package.unlink()
    (archive,) = made.glob("package/usr/src/*.tar.xz")
    _tell("unpacking it")
    (made / "source").mkdir()
    do("tar", "-xf", str(archive), "--strip-components=1", "-C", str(made / "source"), cwd=made)
    archive.unlink()
    _configure(made / "source", made / "out")
    _compile(made / "source", made / "out")
    done = made / "done"
    done.mkdir()
    shutil.copy2(made / "out" / ".config", done / "config")
    shutil.copy2(made / "out" / "linux", done / _PROGRAM)
    release = subprocess.run([done / _PROGRAM, "--version"], capture_output=True, text=True, check=True)
    _tell(f"{release.stdout.strip()} is ready")
    return version


def _make(out: Path, *what: str) -> list[str]:
    """The command; a `make` that runs this has its own flags."""
    return ["env", "-u", "MAKEFLAGS", "-u", "MFLAGS", "-u", "MAKELEVEL", "make", "ARCH=um", f"O={out}", *what]


def _configure(source: Path, out: Path) -> None:
    out.mkdir()
    do(*_make(out, "tinyconfig"), cwd=source)
    do(str(source / "scripts/kconfig/merge_config.sh"), "-m", ".config", str(FRAGMENT), cwd=out)
    do(*_make(out, "olddefconfig"), cwd=source)
    settled = (out / ".config").read_text().splitlines()
    wanted = [line for line in FRAGMENT.read_text().splitlines() if line.startswith("CONFIG_")]
    if missing := [line for line in wanted if line not in settled]:
        raise RuntimeError(f"Linux 6.12 cannot be configured so: {missing}")


def _compile(source: Path, out: Path) -> None:
    begun = told = time.monotonic()
    for number, _ in enumerate(_steps(_make(out, f"-j{os.cpu_count() or 1}", "linux"), source)):
        if time.monotonic() > told + _TELL_EVERY_S:
            told = time.monotonic()
            _tell(f"compiled {number} of about {_FILES} files in {told - begun:.0f} s")


def _steps(argv: list[str], source: Path) -> Iterator[str]:
    """The files that `make` says it compiles; RuntimeError with its last words where it fails."""
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(argv, cwd=source, stdout=subprocess.PIPE, stderr=errors, text=True) as running:
            assert running.stdout is not None
            yield from (line for line in running.stdout if " CC " in line)
        if running.returncode:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(argv)}: {errors.read()[-4000:]}")


def _tell(what: str) -> None:
    print(f"    Linux 6.12 for the tests: {what}", flush=True)


if __name__ == "__main__":
    build()
