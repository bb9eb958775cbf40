"""A flight on real device nodes: a V4L2 camera and an ALSA card, in a virtual machine."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.conftest import write_micro_bundle
from tests.runtimes.device_vm import OUT, missing, run

UNPROVEN = "has booted here, but not been run to its end: DEVICE_VM=1 runs it (docs/streaming.md)"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif("DEVICE_VM" not in os.environ, reason=UNPROVEN)
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_it_sees_and_hears_devices_and_outlives_an_unplugged_camera(tmp_path):
    write_micro_bundle(tmp_path)
    script = Path(__file__).with_name("on_devices.py")
    code, said = run(tmp_path, f"{sys.executable} {script} {OUT}/micro.jepa", limit_s=360)
    assert code == 0, said
    (found,) = json.loads(said.splitlines()[-1])
    assert found["ok"] == 5
    assert len(found["tones"]) == 1  # a steady tone is the loudest pitch at each step
    assert found["moving"] > 1
    assert "camera" in found["hold"]
    assert found["back"] == "ok"
