"""Which clips are chosen to calibrate on, and what is said of those that are not like them."""

import numpy as np
import pytest

from jepa_edge.contract import Senses
from jepa_edge.media.clips import Clip
from jepa_edge.quantize import calibration
from jepa_edge.quantize.calibration import CALLS, CLIPS, calibration_clips, coverage


def clip(name, *, brightness=0.0, motion=0.1, loudness=0.0):
    frames = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8).repeat(3, 0).repeat(6, 1)
    frames = frames + brightness + motion * np.arange(6, dtype=np.float32)[None, :, None, None]
    return Clip(name=name, video=frames, audio=np.full((1, 8, 30), loudness, np.float32))


@pytest.fixture
def pool(monkeypatch):
    """Many alike of one recording, few others: one dark, one loud, one that moves."""
    clips = [clip(f"a.mp4#{k}", brightness=0.001 * k) for k in range(40)]
    clips += [clip("a.mp4#dark", brightness=-2.0), clip("a.mp4#loud", loudness=3.0)]
    clips += [clip("b.mp4#0"), clip("a.mp4#fast", motion=1.0)]
    monkeypatch.setattr(calibration, "clips_from", lambda *_args, **_more: clips)
    return clips


def test_rare_scenes_and_every_recording_are_chosen(pool):
    chosen, seen = calibration_clips("anything", Senses(), steps=CALLS // CLIPS)
    names = {one.name for one in chosen}
    assert {"a.mp4#dark", "a.mp4#loud", "a.mp4#fast", "b.mp4#0"} <= names
    assert len(chosen) == CLIPS
    assert len(names) == CLIPS
    assert seen == len(pool)
    short, _ = calibration_clips("anything", Senses(), steps=CALLS // (2 * CLIPS))
    assert len(short) >= 2 * CLIPS


def test_of_more_recordings_than_clips_the_rare_ones_are_chosen_wherever_they_are(monkeypatch):
    clips = [clip(f"{k}.mp4", brightness=0.001 * k) for k in range(60)]
    clips += [clip("siren.mp4", loudness=3.0)]
    monkeypatch.setattr(calibration, "clips_from", lambda *_args, **_more: clips)
    chosen, _ = calibration_clips("anything", Senses(), steps=CALLS // CLIPS)
    assert len({one.name for one in chosen}) == CLIPS
    assert "siren.mp4" in {one.name for one in chosen}


def test_heldout_clips_outside_of_the_range_are_told():
    known = [clip("a", brightness=0.0), clip("b", brightness=0.5, loudness=1.0)]
    like = coverage(known, [clip("c", brightness=0.2, loudness=0.5)], 2)
    assert like.warnings == []
    assert like.recordings == 2
    other = coverage(known, [clip("d", brightness=3.0, loudness=0.5)], 2)
    assert [one.inside for one in other.ranges if one.name == "brightness"] == [0.0]
    assert "100% of the held-out clips lie outside of the brightness" in other.warnings[0]
