"""A camera with sound on RTSP, for tests: `/usr/bin/python3 rtsp_server.py PORT` (Debian's gi).

96x96 pixels at 30 frames/s. The upper half is a clock: 32 bits of monotonic milliseconds, each a
block of 12x12 pixels. Lines on stdin: ``freeze``, ``thaw``, ``mute``, ``unmute``.
"""

import os
import sys
import threading
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

SIZE, BLOCK, FPS = 96, 12, 30
RATE, PIECES = 16_000, 50
PIPELINE = (
    "( appsrc name=camera is-live=true format=time do-timestamp=true "
    f"caps=video/x-raw,format=RGB,width={SIZE},height={SIZE},framerate={FPS}/1 "
    "! videoconvert ! video/x-raw,format=I420 ! x264enc tune=zerolatency speed-preset=ultrafast "
    "key-int-max=15 pass=quant quantizer=18 "
    "! rtph264pay name=pay0 pt=96 config-interval=1 "
    "appsrc name=mic is-live=true format=time do-timestamp=true "
    f"caps=audio/x-raw,format=S16BE,rate={RATE},channels=1,layout=interleaved "
    "! rtpL16pay name=pay1 pt=97 )"
)
frozen = threading.Event()
muted = threading.Event()


def picture(now_ms, noise):
    """RGB bytes: the clock above, noise below, so that no two frames are alike."""
    rows = []
    for line in range(SIZE // 2 // BLOCK):
        bits = [(now_ms >> (line * 8 + column)) & 1 for column in range(8)]
        row = b"".join((b"\xff" if bit else b"\x00") * (3 * BLOCK) for bit in bits)
        rows.append(row * BLOCK)
    return b"".join(rows) + noise


def frame(before):
    """The next picture, or the same again."""
    if frozen.is_set() and before:
        return before
    now_ms = int(time.monotonic() * 1000) & 0xFFFFFFFF
    return picture(now_ms, os.urandom(SIZE * 3) * (SIZE // 2))


def sound(_before):
    """1/50 s of noise, or silence."""
    size = 2 * RATE // PIECES
    return bytes(size) if muted.is_set() else os.urandom(size)


class Paced:
    """Gives what `make` makes, so many times a second, when the pipeline asks."""

    def __init__(self, rate, make):
        self.rate, self.make = rate, make
        self.began, self.count, self.data = time.monotonic(), 0, b""

    def give(self, source, _length):
        """Pushes the next piece, at its time."""
        self.count += 1
        time.sleep(max(0.0, self.began + self.count / self.rate - time.monotonic()))
        self.data = self.make(self.data)
        source.emit("push-buffer", Gst.Buffer.new_wrapped(self.data))


def configure(_factory, media):
    """Finds the elements of a new pipeline."""
    pipeline = media.get_element()
    pipeline.get_by_name("camera").connect("need-data", Paced(FPS, frame).give)
    pipeline.get_by_name("mic").connect("need-data", Paced(PIECES, sound).give)


def obey():
    """Does what stdin says."""
    for line in sys.stdin:
        verb = line.strip()
        if verb in ("freeze", "thaw"):
            (frozen.set if verb == "freeze" else frozen.clear)()
        elif verb in ("mute", "unmute"):
            (muted.set if verb == "mute" else muted.clear)()


def main():
    """Serves until killed."""
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[1])
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(PIPELINE)
    factory.set_shared(True)
    factory.set_suspend_mode(GstRtspServer.RTSPSuspendMode.NONE)
    factory.connect("media-configure", configure)
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    threading.Thread(target=obey, daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


main()
