"""Recorded episodes in the LeRobot v3 layout: parquet tables and one mp4 with sound an episode.

Why this layout: the learners' tools of robotics read it as it is, and parquet and mp4 open
everywhere. One episode per file makes recording parallel and resumable. The mp4 also carries the
microphone as a lossless FLAC track, which readers of the layout ignore and this project uses.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from jepa_edge.contract import (
    FRAMES_PER_STEP,
    FloatArray,
    InputError,
    MissingExtraError,
    Senses,
    VideoSpec,
)
from jepa_edge.media.decode import read_recording
from jepa_edge.media.features import Frames
from jepa_edge.media.lerobot import (
    CAMERA,
    VERSION,
    Layout,
    episodes_table,
    info_of,
    place,
    stats_of,
    tasks_table,
)

__all__ = [
    "Dataset",
    "Episode",
    "Layout",
    "finish_dataset",
    "has_episode",
    "is_dataset",
    "open_dataset",
    "write_episode",
]

_STATS_EPISODES = 16  # enough pictures for their mean colours
_STATS_EVERY = 10  # frames


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """`frames [T, H, W, 3]` uint8, `samples [n]`, `actions [S, A]` held in a step, `state [S, D]`.

    The state of a step is that at its last frame.
    """

    index: int
    task: str
    frames: Frames
    samples: FloatArray
    actions: FloatArray
    state: FloatArray


def is_dataset(folder: Path) -> bool:
    """Whether a recorded dataset is at `folder`."""
    return (folder / "meta" / "info.json").is_file()


class Dataset:
    """A recorded dataset, read one episode at a time."""

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        self.folder = folder
        self.episodes: int = info["total_episodes"]
        self.world: str = info["robot_type"]
        self.state_names: list[str] = info["features"]["observation.state"]["names"]
        self.action_names: list[str] = info["features"]["action"]["names"]

    def read(self, index: int, senses: Senses) -> Episode:
        """Episode `index`, decoded to the geometry of `senses`. Raises `InputError` if broken."""
        paths = _Paths(self.folder, index)
        recording = read_recording(paths.video, senses)
        rows = _parquet().read_table(paths.data)
        state = np.array(rows["observation.state"].to_pylist(), np.float32)
        action = np.array(rows["action"].to_pylist(), np.float32)
        steps = len(state) // FRAMES_PER_STEP
        heard = recording.samples
        return Episode(
            index=index,
            task=self.world,
            frames=recording.frames[: steps * FRAMES_PER_STEP],
            samples=np.zeros(0, np.float32) if heard is None else heard,
            actions=action[::FRAMES_PER_STEP][:steps],
            state=state[FRAMES_PER_STEP - 1 :: FRAMES_PER_STEP][:steps],
        )


def open_dataset(folder: Path) -> Dataset:
    """The dataset at `folder`. Raises `InputError` if there is none, or of another version."""
    file = folder / "meta" / "info.json"
    if not file.is_file():
        raise InputError(f"no dataset at {folder}: {file} does not exist (jepa-edge record)")
    try:
        info = json.loads(file.read_text())
        if info["codebase_version"] != VERSION:
            raise InputError(f"{folder} is LeRobot {info['codebase_version']}; needs {VERSION}")
        return Dataset(folder, info)
    except (json.JSONDecodeError, KeyError) as error:
        raise InputError(f"{file} is not a dataset's description: {error!r}") from error


def has_episode(folder: Path, index: int) -> bool:
    """Whether episode `index` is complete: its table is written last."""
    return _Paths(folder, index).data.is_file()


def write_episode(folder: Path, layout: Layout, episode: Episode) -> None:
    """Writes one episode, its table last, each file whole or not at all."""
    paths = _Paths(folder, episode.index)
    for path in (paths.video, paths.data):
        path.parent.mkdir(parents=True, exist_ok=True)
    part = paths.video.with_suffix(".part.mp4")
    _write_video(part, layout, episode)
    part.replace(paths.video)
    table = _rows(layout, episode)
    part = paths.data.with_suffix(".part")
    _parquet().write_table(table, part)
    part.replace(paths.data)


def finish_dataset(folder: Path, layout: Layout) -> int:
    """Writes the meta files for the episodes that are there, 0 up to the first gap; their count.

    Without any there is no dataset, and nothing is written. Raises `InputError` when the episodes
    differ in length: a row's ``index`` counts on it.
    """
    count = 0
    while has_episode(folder, count):
        count += 1
    for left in (*folder.glob("data/*/*.part"), *folder.glob("videos/*/*/*.part.mp4")):
        left.unlink()  # of a writer that was killed
    if count == 0:
        return 0
    tables = [_parquet().read_table(_Paths(folder, i).data) for i in range(count)]
    lengths = [len(table) for table in tables]
    if len(set(lengths)) > 1:
        raise InputError(f"the episodes of {folder} have {sorted(set(lengths))} frames, not one")
    meta = folder / "meta"
    episodes = meta / "episodes" / "chunk-000"
    episodes.mkdir(parents=True, exist_ok=True)
    _parquet().write_table(episodes_table(layout, lengths), episodes / "file-000.parquet")
    _parquet().write_table(tasks_table(layout), meta / "tasks.parquet")
    stats = stats_of(tables, _some_frames(folder, layout, count))
    (meta / "stats.json").write_text(json.dumps(stats, indent=1))
    part = meta / "info.json.part"
    part.write_text(json.dumps(info_of(layout, count, sum(lengths)), indent=1))
    part.replace(meta / "info.json")
    return count


def _some_frames(folder: Path, layout: Layout, count: int) -> Frames:
    spec = VideoSpec(fps=layout.fps, height=layout.height, width=layout.width)
    senses = Senses(video=spec, audio=None, steps_per_second=layout.fps / FRAMES_PER_STEP)
    some = sorted({round(i) for i in np.linspace(0, count - 1, min(count, _STATS_EPISODES))})
    frames = [
        read_recording(_Paths(folder, i).video, senses, sound="none").frames[::_STATS_EVERY]
        for i in some
    ]
    return np.concatenate(frames)


class _Paths:
    """Where an episode's files are."""

    def __init__(self, folder: Path, index: int) -> None:
        chunk, file = place(index)
        where = f"chunk-{chunk:03d}/file-{file:03d}"
        self.data = folder / "data" / f"{where}.parquet"
        self.video = folder / "videos" / CAMERA / f"{where}.mp4"


def _parquet() -> Any:  # noqa: ANN401  (pyarrow has no stubs)
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "sim") from error
    return parquet


def _rows(layout: Layout, episode: Episode) -> Any:  # noqa: ANN401
    import pyarrow as pa

    count = len(episode.frames)
    state = np.repeat(episode.state, FRAMES_PER_STEP, axis=0).astype(np.float32)
    action = np.repeat(episode.actions, FRAMES_PER_STEP, axis=0).astype(np.float32)
    floats = pa.list_(pa.float32())
    return pa.table(
        {
            "observation.state": pa.array(state.tolist(), floats),
            "action": pa.array(action.tolist(), floats),
            "timestamp": pa.array(np.arange(count) / layout.fps, pa.float32()),
            "frame_index": np.arange(count),
            "episode_index": np.full(count, episode.index),
            "index": np.arange(count) + episode.index * count,
            "task_index": np.zeros(count, np.int64),
        }
    )


def _write_video(path: Path, layout: Layout, episode: Episode) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as out:
        video = out.add_stream("libx264", rate=layout.fps)
        video.width, video.height, video.pix_fmt = layout.width, layout.height, "yuv420p"
        # A fixed quantiser: with rate control, x264's macroblock tree gives the same pictures other
        # bytes once in a while (measured: 7 of 60 encodes), and episodes would not repeat exactly.
        video.options = {"qp": "16", "preset": "veryfast"}
        video.thread_count = 1
        audio = out.add_stream("flac", rate=layout.sample_rate)
        audio.layout, audio.format = "mono", "s16"
        for frame in episode.frames:
            out.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(video.encode(None))
        pcm = np.clip(np.round(episode.samples * 32767), -32768, 32767).astype(np.int16)
        for start in range(0, len(pcm), 4096):
            piece = av.AudioFrame.from_ndarray(pcm[None, start : start + 4096], "s16", "mono")
            piece.sample_rate, piece.pts = layout.sample_rate, start
            piece.time_base = Fraction(1, layout.sample_rate)
            out.mux(audio.encode(piece))
        out.mux(audio.encode(None))
