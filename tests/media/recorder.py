"""Makes media files whose content says when it was shown: a number burned into the pixels."""

from fractions import Fraction

import av
import numpy as np

MILLIS = Fraction(1, 1000)
BITS = 8


def picture(number, side=64):
    """`[side, side, 3]`: `number` as a column of black and white bars, most significant on top."""
    bars = [(number >> bit & 1) * 255 for bit in reversed(range(BITS))]
    column = np.repeat(bars, -(-side // BITS))[:side]
    return np.repeat(np.repeat(column[:, None, None], side, 1), 3, 2).astype(np.uint8)


def number_of(frame):
    """The number in a picture of any size."""
    side, total = len(frame), 0
    bar = -(-64 // BITS) * side / 64
    for bit in range(BITS):
        total = total * 2 + bool(frame[int((bit + 0.5) * bar), side // 2, 0] > 127)
    return total


def record(path, shown_ms=(), sound=None, *, sound_ms=0, rate=16_000, codec="libx264", **options):
    """Writes pictures 0, 1, 2, … at the times `shown_ms`, and `sound [n]` in [-1, 1].

    `sound` may also be a list of (starts at ms, samples), with gaps between.
    """
    with av.open(str(path), "w", options=options) as out:
        video = audio = None
        if len(shown_ms):
            video = out.add_stream(codec, rate=30)
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
            video.time_base = video.codec_context.time_base = MILLIS
            video.options = {"crf": "18", "preset": "ultrafast", "x264-params": "bframes=0"}
        if sound is not None:
            audio = out.add_stream("aac" if path.suffix == ".mp4" else "flac", rate=rate)
            audio.layout = "mono"
        packets = []
        if video:
            for number, at_ms in enumerate(shown_ms):
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                frame.pts, frame.time_base = int(at_ms), MILLIS
                packets += video.encode(frame)
            packets += video.encode(None)
        if audio:
            parts = sound if isinstance(sound, list) else [(sound_ms, sound)]
            packets += sound_packets(audio, parts, rate)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            out.mux(packet)
    return path


def sound_packets(audio, parts, rate):
    packets = []
    kind = "fltp" if audio.codec.name == "aac" else "s16"
    size = 1024
    for start_ms, samples in parts:
        scaled = samples if kind == "fltp" else np.round(samples * 32767)
        pcm = scaled.astype(np.float32 if kind == "fltp" else np.int16)
        for at in range(0, len(pcm), size):
            piece = av.AudioFrame.from_ndarray(pcm[None, at : at + size], kind, "mono")
            piece.sample_rate, piece.time_base = rate, Fraction(1, rate)
            piece.pts = at + start_ms * rate // 1000
            packets += audio.encode(piece)
    return packets + audio.encode(None)
