"""
Keywords that run the victim, and the command line, with the interpreter that runs Robot Framework.

Processes start in a folder of their own and with the safe path, so that they find the installed wheel and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from robot.api import logger
from victim import ACKNOWLEDGEMENT


VICTIM = Path(__file__).with_name("victim.py")
PATIENCE = 60  # seconds after which a process hangs


class Application:
    """
    One application in one folder, and all that its processes acknowledged.
    """

    ROBOT_LIBRARY_SCOPE = "SUITE"

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []
        self._settings: dict[str, str] = {}
        # By buffer: the (thread, ordinal, seq) of each record() that returned.
        self.acknowledged: dict[str, list[tuple[int, int, int]]] = {}
        self.folder: Path | None = None

    # The folder -------------------------------------------------------------------------------------------------

    def start_afresh(self) -> None:
        """
        Give the application an empty folder and no settings.
        """
        self.clear_away()
        self.folder = Path(tempfile.mkdtemp(prefix="audit-robot-"))
        self._settings, self.acknowledged = {}, {}

    def clear_away(self) -> None:
        """
        End what still runs, and remove the folder.
        """
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for reader in self._readers:
            reader.join(PATIENCE)
        self._processes, self._readers = [], []
        if self.folder is not None:
            shutil.rmtree(self.folder)
            self.folder = None

    def database_file(self) -> str:
        return str(self._in_folder("audit.db"))

    def ring_directory(self) -> str:
        return f"{self.database_file()}-ring"

    def ring_files(self) -> list[str]:
        """
        Return the names of the ring files beside the database.
        """
        return sorted(path.name for path in Path(self.ring_directory()).glob("*.ring"))

    def write_file(self, name: str, *lines: str) -> str:
        """
        Write a file of lines into the application's folder, and return its path.
        """
        path = self._in_folder(name)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(path)

    def _in_folder(self, name: str) -> Path:
        assert self.folder is not None, "Start Afresh comes first"
        return self.folder / name

    # Processes --------------------------------------------------------------------------------------------------

    def set_to(self, **settings: str) -> None:
        """
        Set AUDIT_* for every process from now on.
        """
        self._settings.update({f"AUDIT_{name.upper()}": str(value) for name, value in settings.items()})

    def forget_settings(self) -> None:
        self._settings.clear()

    def run_application(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """
        Run the victim to its end; returns its `returncode`, `stdout` and `stderr`.
        """
        return self._run(self._victim(arguments))

    def run_python(self, code: str) -> subprocess.CompletedProcess[str]:
        return self._run([sys.executable, "-P", "-c", code])

    def run_command_line(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """
        Run `audit-buffer`.
        """
        command = Path(sys.executable).with_name("audit-buffer")
        return self._run([str(command), *arguments], stdin)

    def _run(self, command: list[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **self._surroundings(),
        )
        self._processes.append(process)
        stdout, stderr = process.communicate(stdin, timeout=PATIENCE)
        logger.info(f"{' '.join(command)}\nexit code {process.returncode}\n{stdout}\n{stderr}")
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def start_application(self, *arguments: str) -> subprocess.Popen[str]:
        """
        Start the victim, keep its acknowledgements, and return the process.
        """
        reading, writing = os.pipe()
        process = subprocess.Popen(
            [*self._victim(arguments), "--ack-fd", str(writing)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[writing],
            **self._surroundings(),
        )
        os.close(writing)
        process.enough = threading.Condition()
        process.count = 0
        self._processes.append(process)
        reader = threading.Thread(target=self._read_acknowledgements, args=(process, reading), daemon=True)
        reader.start()
        process.reader = reader
        self._readers.append(reader)
        return process

    def _victim(self, arguments: tuple[str, ...]) -> list[str]:
        url = f"sqlite:///{self.database_file()}"
        return [sys.executable, "-P", str(VICTIM), "--db", url, *map(str, arguments)]

    def _surroundings(self) -> dict[str, Any]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("AUDIT_")}
        wide = {"COLUMNS": "200", "NO_COLOR": "1", "PYTHONSAFEPATH": "1"}
        return {"cwd": self.folder, "env": {**environ, **wide, **self._settings}, "text": True}

    def _read_acknowledgements(self, process: Any, reading: int) -> None:
        with open(reading, "rb", buffering=1 << 16) as pipe:
            found = self.acknowledged.setdefault(pipe.read(16).hex(), [])
            while len(record := pipe.read(ACKNOWLEDGEMENT.size)) == ACKNOWLEDGEMENT.size:
                found.append(ACKNOWLEDGEMENT.unpack(record))
                with process.enough:
                    process.count += 1
                    process.enough.notify_all()
        with process.enough:
            process.enough.notify_all()

    def wait_for_acknowledgements(self, process: Any, count: int) -> None:
        """
        Return when *process* has acknowledged *count* entries.
        """
        with process.enough:
            process.enough.wait_for(
                lambda: process.count >= int(count) or not process.reader.is_alive(), PATIENCE
            )
        assert process.count >= int(count), f"only {process.count} acknowledged: {self._words(process)}"

    def wait_until_recorded(self, process: Any) -> None:
        """
        Return when the victim says that every thread is done.
        """
        line = process.stdout.readline()
        assert line == "recorded\n", f"{line!r}: {self._words(process)}"

    @staticmethod
    def _words(process: Any) -> str:
        return process.stderr.read() if process.poll() is not None else "it still runs"

    def send_signal(self, process: Any, name: str) -> subprocess.CompletedProcess[str]:
        """
        Send a signal and wait for the end; returns `returncode` (negative: the signal), `stdout` and `stderr`.
        """
        process.send_signal(signal.Signals[name])
        return self.wait_for_end(process)

    def wait_for_end(self, process: Any) -> subprocess.CompletedProcess[str]:
        stdout, stderr = process.communicate(timeout=PATIENCE)
        process.reader.join(PATIENCE)
        logger.info(f"{name_of(process.returncode)}\n{stdout}\n{stderr}")
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    # What was promised ------------------------------------------------------------------------------------------

    def acknowledged_entries(self) -> dict[str, list[tuple[int, int, int]]]:
        """
        Return by buffer what `record()` returned.
        """
        return self.acknowledged

    def cloudtrail_file(self) -> str | None:
        """
        Return the path of the real events beside the repository, or None.
        """
        path = Path(__file__).resolve().parents[3] / "shared" / "data" / "cloudtrail-1900.ndjson"
        return str(path) if path.exists() else None

    def events(self, count: int) -> list[str]:
        """
        Return lines of invented events.
        """
        return [
            json.dumps(
                {"event_type": "order.paid", "actor": f"customer-{n % 7}", "outcome": "success", "n": n}
            )
            for n in range(int(count))
        ]


def name_of(code: int) -> str:
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
