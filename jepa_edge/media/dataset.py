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

from jepa_edge.contract import FRAMES_PER_STEP, FloatArray, InputError, MissingExtraError, Senses
from jepa_edge.media.decode import read_recording
from jepa_edge.media.features import Frames

CAMERA = "observation.images.front"
VERSION = "v3.0"
_CHUNK = "chunk-000"


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


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What all episodes of a dataset share."""

    world: str
    fps: int
    height: int
    width: int
    sample_rate: int
    state_names: list[str]
    action_names: list[str]


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
    """Writes the meta files for the episodes that are there, 0 up to the first gap; their count."""
    import pyarrow as pa

    count = 0
    while has_episode(folder, count):
        count += 1
    tables = [_parquet().read_table(_Paths(folder, i).data) for i in range(count)]
    lengths = [len(table) for table in tables]
    meta = folder / "meta"
    episodes = meta / "episodes" / _CHUNK
    episodes.mkdir(parents=True, exist_ok=True)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    columns = {
        "episode_index": list(range(count)),
        "tasks": [[layout.world]] * count,
        "length": lengths,
        "dataset_from_index": starts[:-1].tolist(),
        "dataset_to_index": starts[1:].tolist(),
        "data/chunk_index": [0] * count,
        "data/file_index": list(range(count)),
        f"videos/{CAMERA}/chunk_index": [0] * count,
        f"videos/{CAMERA}/file_index": list(range(count)),
        f"videos/{CAMERA}/from_timestamp": [0.0] * count,
        f"videos/{CAMERA}/to_timestamp": [length / layout.fps for length in lengths],
    }
    _parquet().write_table(pa.table(columns), episodes / "file-000.parquet")
    tasks = pa.table({"task_index": [0], "task": [layout.world]})
    _parquet().write_table(tasks, meta / "tasks.parquet")
    (meta / "stats.json").write_text(json.dumps(_stats(tables), indent=1))
    part = meta / "info.json.part"
    part.write_text(json.dumps(_info(layout, count, int(starts[-1])), indent=1))
    part.replace(meta / "info.json")
    return count


class _Paths:
    """Where an episode's files are."""

    def __init__(self, folder: Path, index: int) -> None:
        self.data = folder / "data" / _CHUNK / f"file-{index:03d}.parquet"
        self.video = folder / "videos" / CAMERA / _CHUNK / f"file-{index:03d}.mp4"


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
        video.options = {"crf": "16", "preset": "veryfast"}
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


def _stats(tables: list[Any]) -> dict[str, dict[str, list[float]]]:
    stats = {}
    for name in ("observation.state", "action"):
        rows = [np.array(table[name].to_pylist(), np.float64) for table in tables]
        whole = np.concatenate(rows) if rows else np.zeros((1, 1))
        stats[name] = {
            "mean": whole.mean(0).tolist(),
            "std": whole.std(0).tolist(),
            "min": whole.min(0).tolist(),
            "max": whole.max(0).tolist(),
            "count": [len(whole)],
        }
    return stats


def _info(layout: Layout, episodes: int, frames: int) -> dict[str, Any]:
    def vector(names: list[str]) -> dict[str, Any]:
        return {"dtype": "float32", "shape": [len(names)], "names": names}

    def scalar(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [1], "names": None}

    picture = {
        "dtype": "video",
        "shape": [layout.height, layout.width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.fps": layout.fps,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "has_audio": True,
            "audio.codec": "flac",
            "audio.sample_rate": layout.sample_rate,
            "audio.channels": 1,
        },
    }
    return {
        "codebase_version": VERSION,
        "robot_type": layout.world,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": 1,
        "chunks_size": 1000,
        "fps": layout.fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            "observation.state": vector(layout.state_names),
            "action": vector(layout.action_names),
            CAMERA: picture,
            "timestamp": scalar("float32"),
            "frame_index": scalar("int64"),
            "episode_index": scalar("int64"),
            "index": scalar("int64"),
            "task_index": scalar("int64"),
        },
    }
