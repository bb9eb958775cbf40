"""Clips: what a URI names, cut and named the same each time."""

from importlib import resources

import msgspec
import numpy as np
import pytest

from jepa_edge.contract import AudioSpec, InputError, Senses, VideoSpec
from jepa_edge.media import clips as module
from jepa_edge.media.features import silence
from tests.media.recorder import record

SENSES = Senses(video=VideoSpec(height=64, width=64))
EVEN_MS = np.arange(75) * 1000 // 30


def clips_from(uri, senses, **options):
    return module.clips_from(uri, senses, **options)


def noise(seconds):
    return np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * 16_000)).astype(np.float32)


@pytest.fixture
def film(tmp_path):
    return record(tmp_path / "film.mkv", EVEN_MS, noise(2.5))


def test_clips_follow_each_other(film):
    clips = clips_from(str(film), SENSES, steps=4)
    assert [clip.name for clip in clips] == ["film.mkv#0.0s", "film.mkv#0.8s", "film.mkv#1.6s"]
    assert clips[0].video.shape == (3, 8, 64, 64)
    assert clips[0].audio.shape == (1, 64, 80)
    assert clips[0].actions is None
    assert len({clip.sha256 for clip in clips}) == 3


def test_a_clip_cut_later_hears_the_sound_before_it(film):
    """Causal features depend on the window before: one long clip must equal its parts."""
    (whole,) = clips_from(str(film), SENSES, steps=12)
    parts = clips_from(str(film), SENSES, steps=4)
    np.testing.assert_array_equal(whole.audio, np.concatenate([p.audio for p in parts], axis=2))
    np.testing.assert_array_equal(whole.video, np.concatenate([p.video for p in parts], axis=1))


def test_stride_and_limit(film):
    every = clips_from(str(film), SENSES, steps=4, stride=1)
    assert len(every) == 9
    some = clips_from(str(film), SENSES, steps=4, stride=1, limit=3)
    assert [clip.name for clip in some] == [every[i].name for i in (0, 4, 8)]


def test_the_same_bytes_have_the_same_hash_and_others_not(film):
    once, again = (clips_from(str(film), SENSES, steps=12)[0] for _ in range(2))
    assert once.sha256 == again.sha256
    deaf = msgspec.structs.replace(once, audio=np.zeros_like(once.audio))
    assert deaf.sha256 != once.sha256


def test_a_folder_and_a_list_give_all_their_files(tmp_path, film):
    (tmp_path / "more").mkdir()
    record(tmp_path / "more" / "b.mp4", EVEN_MS)
    names = {c.name.partition("#")[0] for c in clips_from(str(tmp_path), SENSES, steps=12)}
    assert names == {"film.mkv", "b.mp4"}
    both = clips_from(f"{film},{tmp_path / 'more' / 'b.mp4'}", SENSES, steps=12)
    assert [clip.name.partition("#")[0] for clip in both] == ["film.mkv", "b.mp4"]


def test_without_sound_the_model_hears_silence(tmp_path):
    path = record(tmp_path / "mute.mp4", EVEN_MS)
    clip = clips_from(str(path), SENSES, steps=4)[0]
    np.testing.assert_array_equal(clip.audio[0], silence(AudioSpec(), 80))


@pytest.mark.parametrize("sees", [True, False])
def test_one_sense_alone(film, sees):
    senses = Senses(video=SENSES.video if sees else None, audio=None if sees else SENSES.audio)
    clip = clips_from(str(film), senses, steps=4)[0]
    assert (clip.video is None, clip.audio is None) == (not sees, sees)


def test_what_cannot_be_clips_is_told(tmp_path, film):
    with pytest.raises(InputError, match="no media file at"):
        clips_from(str(tmp_path / "nowhere"), SENSES, steps=4)
    with pytest.raises(InputError, match=r"no clip of 40 steps \(8.0 s\).*builtin:heldout"):
        clips_from(str(film), SENSES, steps=40)
    with pytest.raises(InputError, match="unknown clips builtin:nope; known: builtin:calibration"):
        clips_from("builtin:nope", SENSES, steps=4)
    (tmp_path / "hollow").mkdir()
    with pytest.raises(InputError, match="holds no media files"):
        clips_from(str(tmp_path / "hollow"), SENSES, steps=4)
    with pytest.raises(InputError, match="no clip"):
        clips_from("", SENSES, steps=4)


def members():
    file = resources.files("jepa_edge") / "assets" / "clips" / "sets.toml"
    return msgspec.toml.decode(file.read_bytes(), type=dict[str, list[str]])


def span(member):
    """File, start and end in seconds; an open end is for ever."""
    file, _, part = member.partition("@")
    start_s, _, duration_s = part.partition("+")
    begin = float(start_s or 0)
    return file, begin, begin + float(duration_s) if duration_s else float("inf")


def test_held_out_footage_is_never_calibrated_on():
    for mine in map(span, members()["heldout"]):
        for other in map(span, members()["calibration"]):
            assert mine[0] != other[0] or mine[1] >= other[2] or other[1] >= mine[2]


def test_every_shipped_file_is_real_media_with_sound_and_has_a_licence():
    assets = resources.files("jepa_edge") / "assets"
    licences = (assets / "LICENSES.md").read_text()
    files = {span(member)[0] for group in members().values() for member in group}
    shipped = {f.name for f in (assets / "clips").iterdir() if f.name != "sets.toml"}
    assert files == shipped
    for name in files:
        family = name if f"clips/{name}" in licences else f"{name.partition('-')[0]}-*.mp4"
        assert f"clips/{family}" in licences
    for name in sorted(files)[:1] + [n for n in sorted(files) if "movie" in n]:
        clip = clips_from(str(assets / "clips" / name), Senses(), steps=10)[0]
        assert clip.video.std() > 0.1
        assert clip.audio.std() > 0.1


@pytest.mark.parametrize("name", ["calibration", "heldout"])
def test_shipped_sets_give_clips_of_real_and_simulated_footage(name):
    clips = clips_from(f"builtin:{name}", Senses(), steps=10, limit=100)
    files = {clip.name.partition("@")[0].partition("#")[0] for clip in clips}
    assert "movie-hello.mp4" in files
    assert any(file.startswith("forest") for file in files)
    assert all(np.isfinite(clip.video).all() and np.isfinite(clip.audio).all() for clip in clips)
