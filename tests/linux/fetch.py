"""Get Debian's user-mode Linux 6.1 with its modules, and kmod to load them: unpacked, not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("user-mode-linux", "kmod")


class Kernel(NamedTuple):
    """Where the unpacked files are: the kernel as a program, modprobe, the root that holds lib/modules."""

    program: Path
    modprobe: Path
    modules: Path


def fetch() -> Kernel:
    """Return the kernel, downloaded when the cache has none. The cache appears at once or not at all."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    where = cache / "uxfrm" / "uml-6.1"
    if not where.is_dir():
        where.parent.mkdir(parents=True, exist_ok=True)
        _unpack(where)
    return Kernel(where / "usr/bin/linux.uml", where / "sbin/modprobe", where)


def _unpack(where: Path) -> None:
    made = Path(tempfile.mkdtemp(dir=where.parent, prefix="uml-6.1-"))
    made.chmod(0o755)
    try:
        _download(made)
        for package in sorted(made.glob("*.deb")):
            _do("dpkg", "-x", str(package), str(made), cwd=made)
            package.unlink()
        # modprobe -d ROOT looks in ROOT/lib/modules
        (made / "lib").mkdir(exist_ok=True)
        (made / "lib/modules").symlink_to("../usr/lib/uml/modules")
        try:
            made.rename(where)
        except OSError:
            if not where.is_dir():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _download(folder: Path) -> None:
    try:
        _do("apt-get", "download", *PACKAGES, cwd=folder)
    except RuntimeError:
        _do("apt-get", "update", cwd=folder)
        _do("apt-get", "download", *PACKAGES, cwd=folder)


def _do(*argv: str, cwd: Path) -> None:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")


if __name__ == "__main__":
    print(*fetch(), sep="\n")
