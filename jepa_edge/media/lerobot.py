"""What LeRobot v3 readers want to find under ``meta/``, beside the episodes' own rows.

Source: huggingface/lerobot, ``datasets/io_utils.py`` and ``datasets/dataset_metadata.py``.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np

from jepa_edge.media.features import Frames

CAMERA = "observation.images.front"
VERSION = "v3.0"
FILES_PER_CHUNK = 1000
"""Readers sort the files by name, in which ``file-1000`` comes before ``file-101``."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What all episodes of a dataset share."""

    world: str
    fps: int
    height: int
    width: int
    sample_rate: int
    state_names: list[str]
    action_names: list[str]


def place(index: int) -> tuple[int, int]:
    """The chunk and the file of episode `index`."""
    return divmod(index, FILES_PER_CHUNK)


def episodes_table(layout: Layout, lengths: list[int]) -> Any:  # noqa: ANN401  (pyarrow: no stubs)
    """One row an episode: its rows in the data, and its place in the files."""
    import pyarrow as pa

    count = len(lengths)
    starts = np.concatenate(([0], np.cumsum(lengths))).astype(int)
    chunks, files = [place(i)[0] for i in range(count)], [place(i)[1] for i in range(count)]
    return pa.table(
        {
            "episode_index": list(range(count)),
            "tasks": [[layout.world]] * count,
            "length": lengths,
            "dataset_from_index": starts[:-1].tolist(),
            "dataset_to_index": starts[1:].tolist(),
            "meta/episodes/chunk_index": [0] * count,
            "meta/episodes/file_index": [0] * count,
            "data/chunk_index": chunks,
            "data/file_index": files,
            f"videos/{CAMERA}/chunk_index": chunks,
            f"videos/{CAMERA}/file_index": files,
            f"videos/{CAMERA}/from_timestamp": [0.0] * count,
            f"videos/{CAMERA}/to_timestamp": [length / layout.fps for length in lengths],
        }
    )


def tasks_table(layout: Layout) -> Any:  # noqa: ANN401
    """The tasks, named by the table's pandas index: readers take a task's text from there."""
    import pyarrow as pa

    def column(name: str, kind: str, field: str) -> dict[str, Any]:
        return {
            "name": name,
            "field_name": field,
            "pandas_type": kind,
            "numpy_type": "int64" if kind == "int64" else "object",
            "metadata": None,
        }

    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            column("task_index", "int64", "task_index"),
            column("task", "unicode", "task"),
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    table = pa.table({"task_index": [0], "task": [layout.world]})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def stats_of(tables: list[Any], frames: Frames) -> dict[str, dict[str, Any]]:
    """Mean, spread and range of every column, and of each colour of some `frames` in 0..1."""
    stats = {}
    for name in tables[0].column_names:
        rows = np.concatenate([np.array(table[name].to_pylist(), np.float64) for table in tables])
        stats[name] = _summary(rows.reshape(len(rows), -1))
    colours = _summary(frames.reshape(-1, 3) / 255.0)
    stats[CAMERA] = {
        name: [[[value]] for value in values]  # [3, 1, 1]: channels first
        for name, values in colours.items()
        if name != "count"
    } | {"count": [len(frames)]}
    return stats


def _summary(rows: Any) -> dict[str, list[Any]]:  # noqa: ANN401
    return {
        "mean": rows.mean(0).tolist(),
        "std": rows.std(0).tolist(),
        "min": rows.min(0).tolist(),
        "max": rows.max(0).tolist(),
        "count": [len(rows)],
    }


def info_of(layout: Layout, episodes: int, frames: int) -> dict[str, Any]:
    """The description of the dataset: ``meta/info.json``."""
    return {
        "codebase_version": VERSION,
        "robot_type": layout.world,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": 1,
        "chunks_size": FILES_PER_CHUNK,
        "fps": layout.fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": _features(layout),
    }


def _features(layout: Layout) -> dict[str, Any]:
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
            "video.height": layout.height,
            "video.width": layout.width,
            "video.channels": 3,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "has_audio": True,
            "audio.codec": "flac",
            "audio.sample_rate": layout.sample_rate,
            "audio.channels": 1,
        },
    }
    return {
        "observation.state": vector(layout.state_names),
        "action": vector(layout.action_names),
        CAMERA: picture,
        "timestamp": scalar("float32"),
        "frame_index": scalar("int64"),
        "episode_index": scalar("int64"),
        "index": scalar("int64"),
        "task_index": scalar("int64"),
    }
