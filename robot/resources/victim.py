"""
An application under load, to be watched, killed and started again from outside.

It records with several threads, ends as it is told, and reports in two ways: the buffer's id and each number that `record()`
returned go to the pipe `--ack-fd`; "recorded" goes to standard output when every thread is done. Settings come from AUDIT_*.
"""

from __future__ import annotations

import argparse
import os
import signal
import struct
import sys
import threading

from audit_buffer import AuditBuffer, AuditService, BufferConfig, ConfigError, open_audit


# Thread, ordinal within the thread, seq.
ACKNOWLEDGEMENT = struct.Struct("<HII")


def main() -> int:
    arguments = parse()
    # Whoever measures coverage has a handler, which kills the process; this application has none.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        audit = open_audit(arguments.db, BufferConfig.from_env())
    except ConfigError as error:
        sys.stderr.write(f"bad configuration: {error}\n")
        return 2
    if arguments.ack_fd is not None and isinstance(audit, AuditBuffer):
        os.write(arguments.ack_fd, audit.buffer_id.bytes)
    record_in_threads(audit, arguments)
    if arguments.flush:
        audit.flush()
        record_in_threads(audit, arguments, arguments.entries)
    print("recorded", flush=True)
    return end(audit, arguments.end)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--db", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--entries", type=int, default=0, help="of each thread")
    parser.add_argument("--flush", action="store_true", help="flush, and record as much again")
    parser.add_argument("--ack-fd", type=int)
    parser.add_argument(
        "--end", choices=("close", "return", "raise", "exit", "os-exit", "wait"), default="close"
    )
    return parser.parse_args()


def record_in_threads(
    audit: AuditBuffer | AuditService, arguments: argparse.Namespace, first: int = 0
) -> None:
    threads = [
        threading.Thread(target=record, args=(audit, number, first, arguments.entries, arguments.ack_fd))
        for number in range(arguments.threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def record(
    audit: AuditBuffer | AuditService, number: int, first: int, count: int, ack_fd: int | None
) -> None:
    actor = f"thread-{number}"
    for ordinal in range(first, first + count):
        seq = audit.record(
            "plan.updated", actor=actor, resource=f"plan/{ordinal}", details={"ordinal": ordinal}
        )
        if ack_fd is not None:
            os.write(ack_fd, ACKNOWLEDGEMENT.pack(number, ordinal, seq))


def end(audit: AuditBuffer | AuditService, how: str) -> int:
    if how == "close" and isinstance(audit, AuditBuffer):
        audit.close()
    if how == "raise":
        raise LookupError("the application failed")
    if how == "exit":
        sys.exit(3)
    if how == "os-exit":
        os._exit(4)
    if how == "wait":
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
