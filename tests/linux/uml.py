"""The process: Debian's user-mode-linux 6.1, started with a folder of its own and always reaped.

The kernel runs as an ordinary process on the host's files (hostfs, read-only). What belongs to one run is in one
temporary folder. Everything started is in one process group, so that ending it needs no names.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
MEMORY = 256 << 20
# Modules that no request asks for by itself; algorithms load when a state names them.
MODULES = ("xfrm_user", "esp4", "esp6", "ah4", "ah6", "ipcomp", "ipcomp6", "veth")

INIT = """\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /run || exit
mkdir /run/netns
echo {modprobe} >/proc/sys/kernel/modprobe
{modprobe} -a {modules} || exit
export TMPDIR=/run
exec {python} -I -S -B {agent}
"""

# The host's own modprobe.d is none of the guest's business: some hosts forbid esp4 there.
MODPROBE = """\
#!/bin/sh
exec {home}/usr/bin/modprobe -C /dev/null -d {home} "$@"
"""


class GuestError(Exception):
    """The guest did not do as it was asked: it is dead, mute, or its agent raised."""


def fetch() -> Path:
    """Return the folder with the unpacked packages; download them the first time."""
    done = subprocess.run(["/bin/sh", HERE / "fetch.sh"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise GuestError(f"there is no Linux kernel to run\n{done.stderr}")
    return Path(done.stdout.strip())


def memory_folder() -> str:
    """Return a folder for the guest's memory: in RAM if it is large enough and code may be mapped from it.

    In a container /dev/shm is often 64 MB or mounted noexec; either would kill the guest later.
    """
    with contextlib.suppress(OSError):
        room = os.statvfs("/dev/shm")
        if not room.f_flag & os.ST_NOEXEC and room.f_bavail * room.f_frsize > MEMORY:
            return "/dev/shm"
    return tempfile.gettempdir()


class Machine:
    """One run of the kernel. `folder` is there from the start, the process from `start` to `stop`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="uxfrm-linux-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._console = self.folder / "console"
        atexit.register(self.stop)

    def start(self, devices: list[str], descriptors: list[int]) -> None:
        """Boot with these vecN devices, which may name these file descriptors."""
        home = fetch()
        self._write("modprobe", MODPROBE.format(home=shlex.quote(str(home))))
        self._write("init", self._init())
        command = [str(home / "usr/bin/linux.uml"), f"mem={MEMORY >> 20}M", "root=/dev/root"]
        command += ["rootfstype=hostfs", "hostfs=/", "ro", "quiet", "umid=guest", f"uml_dir={self.folder}/"]
        command += ["con=null", "ssl=null", "con0=fd:0,fd:1", f"init={self.folder}/init", *devices]
        # Standard input is a pipe that nobody writes to: its end tells the guest that the host is gone.
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=subprocess.STDOUT,
                pass_fds=descriptors,
                start_new_session=True,
                env={"TMPDIR": memory_folder(), "HOME": str(self.folder), "PATH": os.defpath},
            )

    def _init(self) -> str:
        return INIT.format(
            modprobe=shlex.quote(f"{self.folder}/modprobe"),
            modules=" ".join(MODULES),
            python=shlex.quote(os.path.realpath(sys.executable)),
            agent=shlex.quote(str(HERE / "agent.py")),
        )

    def _write(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(script)
        path.chmod(0o755)

    @property
    def pid(self) -> int | None:
        """The process id of the kernel, which is that of its process group."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def console(self, lines: int = 40) -> str:
        """Return the last words of the kernel."""
        with contextlib.suppress(OSError):
            return "\n".join(self._console.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def wait(self, seconds: float) -> None:
        """Give a kernel that was told to halt the time to reap its own processes."""
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)

    def stop(self) -> None:
        """End what was started and remove the folder. Twice does no harm."""
        process, self._process = self._process, None
        if process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if process.stdin:
                process.stdin.close()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.stop)
