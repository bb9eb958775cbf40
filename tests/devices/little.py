"""Runs on a drone in place of the runtime, and tells of itself as the runtime does.

It is of the standard library only, so that it starts within a second on any emulated machine: what
is tried with it is the agent, the installer and systemd, not the model.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

STEP_S = 0.1


def tell(message):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.sendto(message, os.environ["NOTIFY_SOCKET"])


def serve():
    assert Path(sys.argv[sys.argv.index("--camera") + 1]).is_file()
    file = Path(os.environ["RUNTIME_DIRECTORY"]) / "health.json"
    tell(b"READY=1")
    steps = 0
    while True:
        steps += 1
        part = file.with_name(".health.json.part")
        fields = {"pid": os.getpid(), "updated_ns": time.monotonic_ns(), "steps": steps}
        part.write_text(json.dumps(fields | {"ok": steps, "holds": 0, "state": "ok", "reason": ""}))
        part.replace(file)
        tell(b"WATCHDOG=1")
        time.sleep(STEP_S)


if __name__ == "__main__" and "--check" not in sys.argv:
    serve()
