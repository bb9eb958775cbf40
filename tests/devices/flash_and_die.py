"""A flash that kills itself with SIGKILL at a stage: HOST FOLDER TRUST STAGE."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from jepa_edge.devices.flash.pipeline import FlashConfig, flash
from jepa_edge.devices.release.build import BuiltRelease

host, folder, trust, stage = sys.argv[1:]


def say(_host, what, done, total):
    if stage in what and (total <= 1 or done >= total // 2):
        os.kill(os.getpid(), signal.SIGKILL)


release = BuiltRelease(folder=Path(folder), manifest=(Path(folder) / "release.json").read_bytes())
config = FlashConfig(device="generic-onnx", retries=0)
asyncio.run(flash(host, release, Path(trust).read_bytes(), config, say))
