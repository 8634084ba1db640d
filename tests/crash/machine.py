"""
A machine for one test: a real systemd as the first process of namespaces of its own.

Guarantees:
    * Nothing outside changes: the machine sees the root folder, /sys and /proc/sys read-only; /var/lib, /srv, /run and /dev are its own; it has no
      network, starts no unit of the system it runs on, and may neither load modules nor set the clock, reboot or make devices.
    * It ends with its first process, and that one with the thread of its test, whatever becomes of the test.

Assumptions:
    * Linux, root, cgroup2; systemd and util-linux as in Debian 12 or newer.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.crash.programs import PATIENCE


SYSTEMD = Path("/lib/systemd/systemd")
TOOLS = ("find", "mount", "nsenter", "setpriv", "systemctl", "unshare")
# What a unit leans on unless it says otherwise, and what ours names; empty, so that nothing else starts.
TARGETS = ("sysinit", "basic", "shutdown", "network-online", "multi-user")
CAPABILITIES = "-sys_module,-sys_time,-sys_boot,-sys_rawio,-syslog,-mknod"

# $1 is the folder of the machine, whose name is its cgroup's, too. This is the first process of its namespaces; the one of cgroups
# comes last, because it begins where the process is.
BEGIN = """
read -r pid rest </proc/self/stat  # as those outside number it
mount -t cgroup2 cgroup2 "$1/cgroup"
mkdir "$1/cgroup/${1##*/}"
echo 0 >"$1/cgroup/${1##*/}/cgroup.procs"
umount "$1/cgroup"
echo "$pid"
exec unshare --cgroup sh -euc "$ENTER" sh "$1"
"""
ENTER = """
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs -o mode=755 dev "$1/dev"
for name in null zero full random urandom tty; do
    : >"$1/dev/$name"
    mount --bind "/dev/$name" "$1/dev/$name"
done
mount --bind "$1/lib" /var/lib
mount --bind "$1/srv" /srv
mount -o remount,bind,ro /
mount -o remount,bind,ro /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 run /run
mount --move "$1/dev" /dev
exec setpriv --bounding-set "$CAPABILITIES" \\
    env -i PATH="$PATH" container=test NOTIFY_SOCKET="$1/notify" SYSTEMD_UNIT_PATH="$1/units" \\
    SYSTEMD_GENERATOR_PATH="$1/none" SYSTEMD_ENVIRONMENT_GENERATOR_PATH="$1/none" \\
    "$SYSTEMD" --unit=multi-user.target
"""
NAMESPACES = ("--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--net")
END = """
mount -t cgroup2 cgroup2 "$1/cgroup"
find "$1/cgroup/${1##*/}" -depth -type d -exec rmdir {} ';'
"""
PROBE = "mount -t cgroup2 cgroup2 /mnt; [ -w /mnt/cgroup.procs ]; unshare --pid --fork --cgroup --ipc --uts --net true"


def missing() -> str | None:
    """
    Return what keeps a machine from running here; None if nothing does.
    """
    if os.geteuid() != 0:
        return "needs root"
    if not SYSTEMD.exists() or not all(map(shutil.which, TOOLS)):
        return f"needs {SYSTEMD}, {', '.join(TOOLS)}"
    probe = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", PROBE], capture_output=True, text=True, check=False
    )
    return f"needs namespaces and cgroup2: {probe.stderr.strip()}" if probe.returncode else None


class Machine:
    """
    A machine that is up. Its /var/lib and /srv are the folders `lib` and `srv` here.
    """

    def __init__(self, folder: Path, pid: int) -> None:
        self.lib = folder / "lib"
        self.srv = folder / "srv"
        self._units = folder / "units"
        self._pid = pid
        os.mkfifo(self.lib / "news")
        # For writing, too: between two services there is no end of file.
        self._news = os.open(self.lib / "news", os.O_RDWR | os.O_CLOEXEC)

    def add_unit(self, name: str, text: str, dropin: str) -> None:
        """
        Put a unit file where systemd finds it, and a drop-in beside it; enable it.
        """
        # What `systemctl enable` does. Without it systemd forgets how the unit ended as soon as it has.
        wants = self._units / "multi-user.target.wants"
        wants.mkdir(exist_ok=True)
        if not (wants / name).is_symlink():
            (wants / name).symlink_to(self._units / name)
        (self._units / name).write_text(text)
        folder = self._units / f"{name}.d"
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(dropin)
        self.systemctl("daemon-reload")

    def systemctl(self, *arguments: str) -> str:
        """
        Run systemctl in the machine and return what it says; it waits for the jobs that it asks for.
        """
        ended = subprocess.run(
            ["nsenter", "--target", str(self._pid), "--mount", "--pid", "systemctl", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """
        Return these properties of a unit.
        """
        lines = self.systemctl("show", unit, f"--property={','.join(names)}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def hear(self) -> str:
        """
        Return the next thing that a service says in /var/lib/news, in one write.
        """
        readable, _, _ = select.select([self._news], [], [], PATIENCE)
        assert readable, "nothing was said"
        return os.read(self._news, select.PIPE_BUF).decode().strip()

    def close(self) -> None:
        """
        Stop listening; the machine ends with `booted()`.
        """
        os.close(self._news)


@contextmanager
def booted() -> Iterator[Machine]:
    """
    Have a machine run beside the test; it ends with all that is in it, and leaves nothing.
    """
    # A short path: it has to fit into the address of a socket.
    with tempfile.TemporaryDirectory(prefix="audit-machine-") as name:
        folder = Path(name)
        for part in ("cgroup", "dev", "lib", "none", "srv", "units"):
            (folder / part).mkdir()
        for target in TARGETS:
            (folder / "units" / f"{target}.target").write_text(f"[Unit]\nDescription={target}\n")
        with running(folder) as pid:
            machine = Machine(folder, pid)
            try:
                yield machine
            finally:
                machine.close()


@contextmanager
def running(folder: Path) -> Iterator[int]:
    """
    Have a systemd run in *folder*, and give the process id that it has outside once it is up.
    """
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify,
        subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES, "sh", "-euc", BEGIN, "sh", folder],
            env={**os.environ, "ENTER": ENTER, "CAPABILITIES": CAPABILITIES, "SYSTEMD": str(SYSTEMD)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        notify.bind(str(folder / "notify"))
        notify.settimeout(PATIENCE)
        assert process.stdout is not None
        assert process.stderr is not None
        pid = process.stdout.readline()
        assert pid, process.stderr.read()
        first = os.pidfd_open(int(pid))
        try:
            while b"READY=1" not in notify.recv(4096):
                pass
            yield int(pid)
        finally:
            # With the first process of a namespace the kernel ends all of them, before anybody can wait for it.
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(first, signal.SIGKILL)
            os.close(first)
            process.wait()
            subprocess.run(["unshare", "--mount", "sh", "-euc", END, "sh", folder], check=True)
