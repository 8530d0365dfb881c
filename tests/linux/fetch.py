"""Get Debian packages unpacked, not installed: user-mode Linux 6.1 with its modules and kmod to load them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Modules(NamedTuple):
    """What loads a kernel's modules, and the root that holds lib/modules."""

    modprobe: Path
    root: Path


class Kernel(NamedTuple):
    """A kernel as a program; one without modules has all built in."""

    program: Path
    modules: Modules | None = None


def fetch() -> Kernel:
    """Return the kernel, downloaded when the cache has none."""
    where = unpacked("uml-6.1", ["user-mode-linux", "kmod"], _link_modules)
    return Kernel(where / "usr/bin/linux.uml", Modules(where / "sbin/modprobe", where))


def _link_modules(root: Path) -> None:
    """modprobe -d ROOT looks in ROOT/lib/modules."""
    (root / "lib").mkdir(exist_ok=True)
    (root / "lib/modules").symlink_to("../usr/lib/uml/modules")


def cache() -> Path:
    """The folder of the user's cache that the tests' kernels are kept in."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uxfrm"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def unpacked(name: str, packages: list[str], finish: Callable[[Path], None] | None = None) -> Path:
    """Return a folder of the cache with these packages' files, as below /; `finish` puts it right.

    The folder appears at once or not at all.
    """
    where = cache() / name
    if not where.is_dir():
        _unpack(where, packages, finish)
    return where


def _unpack(where: Path, packages: list[str], finish: Callable[[Path], None] | None) -> None:
    made = Path(tempfile.mkdtemp(dir=where.parent, prefix=f"{where.name}-"))
    made.chmod(0o755)
    try:
        download(made, packages)
        for package in sorted(made.glob("*.deb")):
            do("dpkg", "-x", str(package), str(made), cwd=made)
            package.unlink()
        if finish is not None:
            finish(made)
        try:
            made.rename(where)
        except OSError:
            if not where.is_dir():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def download(folder: Path, packages: list[str]) -> None:
    """Get packages' files into a folder, with a look at what is new where they are not known."""
    try:
        do("apt-get", "download", *packages, cwd=folder)
    except RuntimeError:
        do("apt-get", "update", cwd=folder)
        do("apt-get", "download", *packages, cwd=folder)


def do(*argv: str, cwd: Path) -> None:
    """Run a command; RuntimeError with what it said where it fails."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")


if __name__ == "__main__":
    print(*fetch(), sep="\n")
