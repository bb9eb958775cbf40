"""The flight log: all that is needed to fly again, bit for bit, in one MCAP file.

Topics: ``/step`` what the model was given (msgpack), ``/latents`` what it answered (msgpack, raw
float32), ``/tick`` what the controller got and ``/camera`` the newest picture (JSON; Foxglove shows
both). Times are monotonic; the metadata ``run`` says what they are since 1970.
"""

from __future__ import annotations

import base64
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from jepa_edge.contract import (
    FloatArray,
    InputError,
    MissingExtraError,
    Senses,
    VideoSpec,
    WrongUseError,
)
from jepa_edge.media.features import frames_from_video, video_from_frames
from jepa_edge.runtimes.loop import Tick
from jepa_edge.runtimes.sources import StepData

WAITING = 64
"""Steps that may wait to be written; a disk that is slower for longer loses some, counted."""
CHUNK_BYTES = 1 << 18
"""What a crash loses at most."""

IMAGE_SCHEMA = msgspec.json.encode(
    {
        "type": "object",
        "properties": {
            "timestamp": {
                "type": "object",
                "properties": {"sec": {"type": "integer"}, "nsec": {"type": "integer"}},
            },
            "frame_id": {"type": "string"},
            "data": {"type": "string", "contentEncoding": "base64"},
            "format": {"type": "string"},
        },
    }
)


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Which model flew, on what."""

    bundle: str
    digest: str
    precision: str
    threads: int
    clip_mode: bool = False
    change_gate: float = 0.0
    unix_minus_monotonic_ns: int = 0


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """An array; `pixels` is the picture that its normalised frames were made from."""

    shape: tuple[int, ...]
    data: bytes
    pixels: bool = False


class LoggedStep(msgspec.Struct, frozen=True, kw_only=True):
    """A `StepData` on disk."""

    index: int
    captured_ns: int
    dropped: int
    fault: str
    video: Packed | None
    audio: Packed | None


class LoggedLatents(msgspec.Struct, frozen=True, kw_only=True):
    """What the model answered at a step: pooled `[P]` and the future `[J, P]`, raw float32."""

    index: int
    state: str
    pooled: Packed | None
    future: Packed | None


class FlightLog:
    """Writes in a thread of its own: it never blocks the loop, and never ends a flight.

    `lost` counts the steps that are not in the file, `trouble` says why (a full disk). Until
    `close` the file is ``PATH.part``, readable up to the last chunk.

    Raises `WrongUseError` when it cannot be begun.
    """

    def __init__(self, path: Path, header: Header, senses: Senses) -> None:
        self.path, self.senses = path, senses
        self.lost, self.trouble = 0, ""
        self._unwritten = 0
        self._part = path.with_name(path.name + ".part")
        try:
            self._file: BinaryIO = self._part.open("wb")
            self._writer = _Writer(self._file, header)
        except OSError as error:
            raise WrongUseError(f"--log {path}: cannot write there: {error}") from error
        self._queue: queue.Queue[tuple[StepData, Tick, LoggedLatents] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="flight log", daemon=True)
        self._thread.start()

    def add(
        self, step: StepData, tick: Tick, pooled: FloatArray | None, future: FloatArray | None
    ) -> None:
        """Takes one step and what came of it."""
        latents = LoggedLatents(
            index=step.index, state=tick.state, pooled=_raw(pooled), future=_raw(future)
        )
        try:
            self._queue.put_nowait((step, tick, latents))
        except queue.Full:
            self.lost += 1

    def close(self) -> None:
        """Writes what waits, and gives the file its name if it is whole."""
        self._queue.put(None)
        self._thread.join()
        try:
            if not self.trouble:
                self._writer.finish()
            self._file.close()
        except OSError as error:
            self._fail(error)
        if not self.trouble:
            self._part.replace(self.path)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self.trouble:
                self.lost += 1
                continue
            self._unwritten += 1
            before = self._file.tell()
            try:
                self._writer.add(*item, self.senses.video)
                self._file.flush()
            except OSError as error:
                self._fail(error)
                continue
            if self._file.tell() > before:
                self._unwritten = 0

    def _fail(self, error: OSError) -> None:
        """From now on nothing is written; what was in the last chunk is lost too."""
        if not self.trouble:
            self.trouble = str(error)
            self.lost += self._unwritten


class _Writer:
    """The MCAP file."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        try:
            from mcap.writer import CompressionType, Writer
        except ImportError as error:
            raise MissingExtraError("mcap", "log") from error
        self._writer: Any = Writer(file, chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD)
        self._writer.start(profile="", library="jepa-edge")
        since = time.time_ns() - time.monotonic_ns()
        whole = msgspec.structs.replace(header, unix_minus_monotonic_ns=since)
        fields = {name: str(value) for name, value in msgspec.to_builtins(whole).items()}
        self._writer.add_metadata("run", fields)
        schema = msgspec.json.encode(msgspec.json.schema(Tick))
        tick = self._writer.register_schema("jepa_edge.Tick", "jsonschema", schema)
        image = self._writer.register_schema("foxglove.CompressedImage", "jsonschema", IMAGE_SCHEMA)
        channel = self._writer.register_channel
        self._channels = {
            "/step": channel("/step", "msgpack", 0),
            "/latents": channel("/latents", "msgpack", 0),
            "/tick": channel("/tick", "json", tick),
            "/camera": channel("/camera", "json", image),
        }

    def add(
        self, step: StepData, tick: Tick, latents: LoggedLatents, spec: VideoSpec | None
    ) -> None:
        """Writes one step on every topic."""
        video = None if step.video is None or spec is None else packed_video(step.video, spec)
        logged = LoggedStep(
            index=step.index,
            captured_ns=step.captured_ns,
            dropped=step.dropped,
            fault=step.fault,
            video=video,
            audio=_raw(step.audio),
        )
        at = step.captured_ns
        self._write("/step", at, msgspec.msgpack.encode(logged))
        self._write("/latents", at, msgspec.msgpack.encode(latents))
        self._write("/tick", at, msgspec.json.encode(tick))
        if video is not None and video.pixels:
            self._write("/camera", at, _picture(video, at))

    def finish(self) -> None:
        """Writes the index."""
        self._writer.finish()

    def _write(self, topic: str, at: int, data: bytes) -> None:
        self._writer.add_message(self._channels[topic], log_time=at, data=data, publish_time=at)


class Flight:
    """A log, read back. Raises `InputError` for what is none."""

    def __init__(self, path: Path, senses: Senses) -> None:
        self.path, self.senses = path, senses

    def steps(self) -> Iterator[tuple[StepData, LoggedLatents]]:
        """Every step and the answer to it; of a log that broke off, those that are whole."""
        step: StepData | None = None
        for topic, data in _messages(self.path):
            if topic == "/step":
                step = self._step(msgspec.msgpack.decode(data, type=LoggedStep))
            elif topic == "/latents" and step is not None:
                yield step, msgspec.msgpack.decode(data, type=LoggedLatents)

    def _step(self, logged: LoggedStep) -> StepData:
        return StepData(
            index=logged.index,
            captured_ns=logged.captured_ns,
            dropped=logged.dropped,
            fault=logged.fault,
            video=_unpacked_video(logged.video, self.senses.video),
            audio=unpacked(logged.audio),
        )


def header_of(path: Path) -> Header:
    """Which model flew. Raises `InputError` if `path` is no flight log."""
    mcap = _mcap()
    if not path.is_file():
        raise InputError(f"no flight log at {path}; jepa-edge run --log {path} writes one")
    with path.open("rb") as file:
        try:
            for record in mcap.StreamReader(file).records:
                if isinstance(record, mcap.Metadata) and record.name == "run":
                    return msgspec.convert(record.metadata, Header, strict=False)
        except (mcap.McapError, msgspec.ValidationError) as error:
            raise InputError(f"{path} is no flight log of jepa-edge: {error}") from error
    raise InputError(f"{path} does not say which model flew; is it a log of jepa-edge run?")


def packed_video(video: FloatArray, spec: VideoSpec) -> Packed:
    """`video [1, 3, 2, H, W]` as pixels where these give the same bits again, else as it is."""
    frames = frames_from_video(video[0], spec)
    if np.array_equal(video_from_frames(frames, spec)[None], video):
        return Packed(shape=frames.shape, data=frames.tobytes(), pixels=True)
    return Packed(shape=video.shape, data=np.ascontiguousarray(video, np.float32).tobytes())


def unpacked(packed: Packed | None) -> FloatArray | None:
    """The float32 array."""
    if packed is None:
        return None
    return np.frombuffer(packed.data, np.float32).reshape(packed.shape)


def _unpacked_video(packed: Packed | None, spec: VideoSpec | None) -> FloatArray | None:
    if packed is None or not packed.pixels or spec is None:
        return unpacked(packed)
    return video_from_frames(_frames(packed), spec)[None]


def _frames(packed: Packed) -> npt.NDArray[np.uint8]:
    return np.frombuffer(packed.data, np.uint8).reshape(packed.shape)


def _raw(array: FloatArray | None) -> Packed | None:
    if array is None:
        return None
    return Packed(shape=array.shape, data=np.ascontiguousarray(array, np.float32).tobytes())


def _picture(video: Packed, at: int) -> bytes:
    import cv2

    bgr = np.ascontiguousarray(_frames(video)[-1][..., ::-1])
    _, jpeg = cv2.imencode(".jpg", bgr)
    return msgspec.json.encode(
        {
            "timestamp": {"sec": at // 10**9, "nsec": at % 10**9},
            "frame_id": "camera",
            "data": base64.b64encode(jpeg.tobytes()).decode(),
            "format": "jpeg",
        }
    )


def _messages(path: Path) -> Iterator[tuple[str, bytes]]:
    mcap = _mcap()
    topics: dict[int, str] = {}
    with path.open("rb") as file:
        try:
            for record in mcap.StreamReader(file).records:
                if isinstance(record, mcap.Channel):
                    topics[record.id] = record.topic
                elif isinstance(record, mcap.Message):
                    yield topics[record.channel_id], record.data
        except mcap.EndOfFile:
            return  # it broke off: a crash, a full disk


def _mcap() -> Any:  # noqa: ANN401
    from types import SimpleNamespace

    try:
        from mcap.exceptions import EndOfFile, McapError
        from mcap.records import Channel, Message, Metadata
        from mcap.stream_reader import StreamReader
    except ImportError as error:
        raise MissingExtraError("mcap", "log") from error
    return SimpleNamespace(
        StreamReader=StreamReader,
        Channel=Channel,
        Message=Message,
        Metadata=Metadata,
        EndOfFile=EndOfFile,
        McapError=McapError,
    )
