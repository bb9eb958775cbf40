"""Recording: the same whatever the workers, resumable after any end, never mixed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jepa_edge.contract import CheckFailedError, Senses, VideoSpec, WrongUseError
from jepa_edge.media.dataset import has_episode, is_dataset, open_dataset
from jepa_edge.worlds import record as recording
from jepa_edge.worlds.record import RecordConfig, open_world, play, record

SENSES = Senses(video=VideoSpec(height=32, width=32))


def config(out, **changes):
    asked = {"world": "reach", "episodes": 2, "steps": 3, "workers": 1, "size": 32} | changes
    return RecordConfig(out=out, **asked)


def run(asked):
    told = []
    done = record(asked, lambda n, total: told.append((n, total)))
    return done, told


def differing(one, other):
    """The names of what is not exactly the same in two episodes."""
    names = ("frames", "samples", "actions", "state")
    return [name for name in names if not np.array_equal(getattr(one, name), getattr(other, name))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    run(config(out))
    return out


def test_progress_and_summary_say_what_was_done(alone, tmp_path):
    done, told = run(config(tmp_path))
    assert (done.episodes, done.recorded_now) == (2, 2)
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_workers_do_not_change_what_is_recorded(alone, tmp_path):
    run(config(tmp_path, workers=2))
    one, two = open_dataset(alone), open_dataset(tmp_path)
    for index in range(2):
        assert differing(one.read(index, SENSES), two.read(index, SENSES)) == []


def test_what_was_played_is_what_is_recorded(alone):
    world = open_world("reach", size=32)
    played = play(world, seed=100_003, config=config(alone), index=1)
    world.close()
    read = open_dataset(alone).read(1, SENSES)
    assert np.array_equal(read.state, played.state)
    assert np.array_equal(read.actions, played.actions)
    noise = np.mean((read.samples - played.samples) ** 2)
    assert 10 * np.log10(np.mean(played.samples**2) / noise) > 60
    assert read.frames.shape == played.frames.shape


def test_more_episodes_are_added_and_those_there_are_kept(alone, tmp_path):
    run(config(tmp_path, episodes=1))
    kept = next(tmp_path.glob("videos/*/*/*.mp4")).stat().st_mtime_ns
    done, _ = run(config(tmp_path))
    assert (done.episodes, done.recorded_now) == (2, 1)
    assert min(p.stat().st_mtime_ns for p in tmp_path.glob("videos/*/*/*.mp4")) == kept
    one, two = open_dataset(alone), open_dataset(tmp_path)
    for index in range(2):
        assert differing(one.read(index, SENSES), two.read(index, SENSES)) == []


def test_a_lost_episode_is_recorded_again_as_it_was(alone, tmp_path):
    run(config(tmp_path))
    before = open_dataset(tmp_path).read(0, SENSES)
    next(tmp_path.glob("data/*/file-000.parquet")).unlink()
    done, _ = run(config(tmp_path))
    assert done.recorded_now == 1
    assert differing(before, open_dataset(tmp_path).read(0, SENSES)) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 1}, "seed 0, asked was 1"),
        ({"steps": 4}, "steps 3, asked was 4"),
        ({"world": "forest"}, "world reach, asked was forest"),
        ({"expert_share": 0.1}, "expert_share 0.5, asked was 0.1"),
    ],
)
def test_other_episodes_are_not_mixed_in(alone, changes, says):
    with pytest.raises(WrongUseError, match=says):
        run(config(alone, **changes))


def test_episodes_of_unknown_origin_are_not_added_to(tmp_path):
    run(config(tmp_path, episodes=1))
    (tmp_path / "meta/recording.json").unlink()
    with pytest.raises(WrongUseError, match="unknown origin"):
        run(config(tmp_path))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"episodes": 0}, "at least 1"),
        ({"workers": 0}, "at least 1"),
        ({"expert_share": 1.5}, "from 0 to 1"),
        ({"world": "moon"}, "known: forest, reach, rover"),
    ],
)
def test_wrong_use_is_named_and_writes_nothing(tmp_path, changes, says):
    with pytest.raises(WrongUseError, match=says):
        run(config(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_an_interrupt_leaves_a_whole_dataset(tmp_path, monkeypatch):
    real = recording._record_one

    def stopped_at_the_second(job):
        if job[1] == 1:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(recording, "_record_one", stopped_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(config(tmp_path))
    assert open_dataset(tmp_path).episodes == 1


def test_a_killed_worker_is_an_error_and_not_a_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "_record_one", killed)
    with pytest.raises(CheckFailedError, match="was killed"):
        run(config(tmp_path, workers=2))
    assert not is_dataset(tmp_path)


def killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


EPISODES = 40  # more than are recorded between the first one and the end of the command


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_command_goes_on_after_any_end(tmp_path, how):
    asked = ["--world", "reach", "--episodes", str(EPISODES), "--steps", "12", "--json"]
    command = [sys.executable, "-m", "jepa_edge.worlds", *asked, "--out", str(tmp_path / "a")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not has_episode(tmp_path / "a", 0) and time.monotonic() < until:
        assert process.poll() is None
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert "Traceback" not in said
    tables = list(Path(tmp_path / "a").glob("data/*/*.parquet"))
    assert 0 < len(tables) < EPISODES
    assert all(len(pq.read_table(table)) == 24 for table in tables)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    done = json.loads(again.stdout)
    assert done["episodes"] == EPISODES
    assert done["recorded_now"] <= EPISODES - len(tables)
    assert open_dataset(tmp_path / "a").episodes == EPISODES
