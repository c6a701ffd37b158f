"""Run a stdio server between a client and this program, which writes down every line.

Use: python record_lines.py FOLDER COMMAND ARGUMENT...
It needs the standard library only: clients start it with environments of their own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO


def main() -> int:
    """Pass all lines on until the server ends; return its exit status."""
    folder, *command = sys.argv[1:]
    record = (Path(folder) / f"{os.getpid()}.jsonl").open("w", buffering=1)
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None
    assert server.stdout is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda which, _: server.send_signal(which))
    lock = threading.Lock()

    def pass_on(source: IO[bytes], target: IO[bytes], side: str) -> None:
        for line in source:
            with lock:
                record.write(
                    json.dumps({"from": side, "line": line.decode(errors="replace")}) + "\n"
                )
            try:
                target.write(line)
                target.flush()
            except OSError:  # EPIPE: the other side has ended
                return
        target.close()

    pairs = [
        (sys.stdin.buffer, server.stdin, "client"),
        (server.stdout, sys.stdout.buffer, "server"),
    ]
    threads = [threading.Thread(target=pass_on, args=pair, daemon=True) for pair in pairs]
    for thread in threads:
        thread.start()
    status = server.wait()
    threads[1].join()
    os._exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
