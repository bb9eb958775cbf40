"""Runs in the drone in place of the agent's worker, and dies once where it is told to."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, "/opt/jepa-edge/agent.pyz")

from jepa_edge.devices.agent import __main__, worker

WORDS, MARK = sys.argv[1], Path("/var/lib/died")
tell = worker.Worker._say


def say(self, what):
    tell(self, what)
    if WORDS in what and not MARK.exists():
        MARK.touch()
        os.kill(os.getpid(), signal.SIGKILL)


setattr(worker.Worker, "_say", say)  # noqa: B010  (mypy: methods are not assigned to)
sys.exit(__main__.main(["work"]))
