"""What runs inside the virtual machine of `device_vm`: a flight on its camera and its sound card.

`jepa-edge run` sees /dev/video0 (the driver `vivid`) and hears an ALSA card (`snd-aloop`: what is
played into one end is heard at the other). Then the camera is unplugged, and comes back. One JSON
object on standard output says what came of it.
"""

import fcntl
import itertools
import json
import struct
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import av
import numpy as np

from jepa_edge.bundle import open_bundle
from jepa_edge.runtimes.capture import find_alsa_settings
from jepa_edge.runtimes.loop import Loop
from jepa_edge.runtimes.sources import open_source
from jepa_edge.runtimes.stream import Stream

NODE, CAMERA = "/dev/video0", "/dev/video0?video_size=320x180"
RATE, TONE_HZ = 16_000, 1000
HEARD, PLAYED = f"alsa:hw:Loopback,1,0?channels=1&sample_rate={RATE}", "hw:Loopback,0,0"
VIDIOC_S_CTRL = 0xC008561C
VIVID_DISCONNECT = 0x00F0F000 + 65
AGE_LIMIT_MS = 60_000.0  # an emulated processor is slow: that is not what is tested


def play(stop):
    """A tone into the one end of the card, until `stop`."""
    at = 0
    with av.open(PLAYED, "w", format="alsa") as card:
        out = card.add_stream("pcm_s16le", rate=RATE, layout="mono")
        while not stop.is_set():
            moments = (at + np.arange(RATE // 20)) / RATE
            wave = (12_000 * np.sin(2 * np.pi * TONE_HZ * moments)).astype(np.int16)
            block = av.AudioFrame.from_ndarray(wave[None], "s16", "mono")
            block.sample_rate, block.pts = RATE, at
            card.mux(out.encode(block))
            at += len(wave)


@contextmanager
def unplugged():
    """As a cable that is pulled: the driver takes the node away until the last user has closed."""
    with Path(NODE).open("rb") as node:
        fcntl.ioctl(node, VIDIOC_S_CTRL, struct.pack("Ii", VIVID_DISCONNECT, 1))
        yield


def flight(bundle, microphone):
    """Ticks of a flight whose camera is unplugged on the way."""
    found = {"microphone": microphone}
    opened = open_bundle(Path(bundle))
    senses = opened.manifest.senses
    loop = Loop(Stream(opened, "fp32", threads=1), age_limit_ms=AGE_LIMIT_MS)
    loudest, pictures = [], []

    def note(step, _tick, _pooled, _future):
        if not step.fault:
            loudest.append(int(step.audio[0, 0].mean(1).argmax()))
            pictures.append(step.video[0, :, -1].copy())

    loop.recorder = note
    with closing(open_source(CAMERA, microphone, senses, stall_s=0.5)) as source:
        ticks = loop.ticks(source)
        good = list(itertools.islice((t for t in ticks if t.state == "ok"), 5))
        found["ok"] = len(good)
        found["age_ms"] = max(t.age_ms for t in good)
        found["tones"] = sorted(set(loudest[-4:]))
        found["moving"] = len({picture.tobytes() for picture in pictures[-4:]})
        began = time.monotonic()
        with unplugged():
            held = next(t for t in itertools.islice(ticks, 200) if t.state == "hold")
            found["hold"], found["to_hold_s"] = held.reason, round(time.monotonic() - began, 2)
        began = time.monotonic()
        back = next(t for t in itertools.islice(ticks, 400) if t.state == "ok")
        found["back"], found["to_recover_s"] = back.state, round(time.monotonic() - began, 2)
    return found


def main():
    find_alsa_settings()
    stop = threading.Event()
    player = threading.Thread(target=play, args=(stop,), daemon=True)
    player.start()
    flights = [flight(sys.argv[1], microphone) for microphone in (HEARD, *sys.argv[2:])]
    stop.set()
    sys.stdout.write(json.dumps(flights) + "\n")


if __name__ == "__main__":
    main()
