"""Reads two GStreamer pipelines as a camera and a microphone; prints what it saw as JSON."""

import itertools
import json
import sys
import time
from contextlib import closing

from jepa_edge.contract import AudioSpec, InputError, Senses, VideoSpec
from jepa_edge.runtimes.live import LiveSource

SENSES = Senses(video=VideoSpec(height=16, width=16), audio=AudioSpec(mel_bins=8))
CAMERA = (
    "gst:videotestsrc is-live=true pattern=ball ! video/x-raw,width=70,height=50,framerate=30/1"
)
MIC = "gst:audiotestsrc is-live=true wave=pink-noise ! audio/x-raw,rate=48000"


def main():
    with closing(LiveSource(CAMERA, MIC, SENSES)) as source:
        ages, steps = [], []
        for step in itertools.islice((s for s in source.steps() if not s.fault), 8):
            ages.append((time.monotonic_ns() - step.captured_ns) / 1e6)
            steps.append(step)
    try:
        LiveSource("gst:nvarguscamerasrc", "none", SENSES)
        refusal = ""
    except InputError as error:
        refusal = str(error)
    found = {
        "steps": len(steps),
        "video": list(steps[-1].video.shape),
        "loud": bool(steps[-1].audio.max() > steps[-1].audio.min()),
        "oldest_ms": max(ages),
        "refusal": refusal,
    }
    sys.stdout.write(json.dumps(found))


main()
