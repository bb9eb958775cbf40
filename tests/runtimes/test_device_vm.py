"""A flight on real device nodes: a V4L2 camera and an ALSA card, in a virtual machine."""

import json
import sys
from ctypes.util import find_library
from pathlib import Path

import pytest

from tests.conftest import write_micro_bundle
from tests.runtimes.device_vm import OUT, missing, run
from tests.runtimes.on_devices import HEARD

PORTAUDIO = "sounddevice:Loopback: PCM (hw:0,1)"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_it_sees_and_hears_devices_and_outlives_an_unplugged_camera(tmp_path):
    write_micro_bundle(tmp_path)
    script = Path(__file__).with_name("on_devices.py")
    line = f"{sys.executable} {script} {OUT}/micro.jepa"
    heard_by = [HEARD]
    if find_library("portaudio"):
        line, heard_by = f"{line} '{PORTAUDIO}'", [HEARD, PORTAUDIO]
    code, said = run(tmp_path, line, limit_s=360)
    assert code == 0, said
    flights = json.loads(said.splitlines()[-1])
    assert [found["microphone"] for found in flights] == heard_by
    for found in flights:
        assert found["ok"] == 5
        assert len(found["tones"]) == 1  # a steady tone is the loudest pitch at each step
        assert found["moving"] > 1
        assert "camera" in found["hold"]
        assert found["back"] == "ok"
