"""A viewer learns from recordings what latents show, and is written whole or not at all."""

import json

import av
import msgspec
import numpy as np
import pytest
import torch

from jepa_edge import cli
from jepa_edge.contract import InputError, Senses, WrongUseError
from jepa_edge.export.viewer import make_viewer
from jepa_edge.model.checkpoint import load_checkpoint, save_checkpoint
from jepa_edge.model.jepa import JEPA
from jepa_edge.runtimes.viewer import Viewer
from jepa_edge.train.viewer import ViewerConfig, train_viewer
from tests.train.test_train import MICRO

SEES = msgspec.structs.replace(MICRO, senses=msgspec.structs.replace(MICRO.senses, audio=None))


def quiet(*_args):
    pass


def wandering(path, seed):
    """Twenty-four steps in which a bright square moves over a dark ground."""
    random = np.random.default_rng(seed)
    places = 16 + 10 * np.sin(np.cumsum(random.uniform(0.1, 0.5, (48, 2)), axis=0))
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        for y, x in places.astype(int):
            frame = np.full((32, 32, 3), 30, np.uint8)
            frame[y - 5 : y + 5, x - 5 : x + 5] = 230
            out.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(video.encode(None))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for seed in range(8):
        wandering(folder / f"{seed}.mp4", seed)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "micro.safetensors"
    save_checkpoint(JEPA(SEES), path)
    return str(path)


def test_what_it_shows_of_held_out_recordings_is_nearer_than_the_mean_picture(
    recordings, checkpoint
):
    model = load_checkpoint(checkpoint).model
    before = [p.clone() for p in model.parameters()]
    config = ViewerConfig(data=str(recordings), steps=120, height=16)
    trained = train_viewer(model, config, quiet)
    assert trained.error < 0.5
    assert trained.heldout.pictures.shape == (24, 16, 16, 3)
    unread = trained.decoder.pictures(np.roll(trained.heldout.latents, 7, axis=0)).astype(float)
    wrong = np.square(unread - trained.heldout.pictures).mean()
    read = trained.decoder.pictures(trained.heldout.latents).astype(float)
    assert np.square(read - trained.heldout.pictures).mean() < 0.5 * wrong
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_file_shows_what_the_decoder_shows_and_says_whose_latents(
    recordings, checkpoint, tmp_path, capsys
):
    file = tmp_path / "made" / "viewer.onnx"
    given = ["--model", checkpoint, "--data", str(recordings / "0.mp4"), "--out", str(file)]
    with pytest.raises(SystemExit) as ended:
        cli.main(["viewer", *given, "--steps", "3", "--height", "16", "--json"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    loaded = load_checkpoint(checkpoint)
    again = ViewerConfig(data=str(recordings / "0.mp4"), steps=3, height=16)
    trained = train_viewer(loaded.model, again, quiet)
    viewer = Viewer(file)
    assert told == {"file": str(file), "facts": msgspec.to_builtins(viewer.facts)}
    assert viewer.facts.checkpoint_sha256 == loaded.sha256
    assert (viewer.facts.model, viewer.facts.pooled_dim) == ("micro", 16)
    latents = np.random.default_rng(0).normal(size=(7, 16)).astype(np.float32)
    apart = viewer.pictures(latents).astype(int) - trained.decoder.pictures(latents)
    assert abs(apart).max() <= 1
    assert [left.name for left in file.parent.iterdir()] == ["viewer.onnx"]


@pytest.mark.parametrize("when", ["encoding", "training", "writing"])
def test_interrupted_it_leaves_nothing(recordings, checkpoint, tmp_path, monkeypatch, when):
    def stop(what, _done, _total):
        if what == when:
            raise KeyboardInterrupt

    def stop_writing(*_args):
        assert list(tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr("jepa_edge.export.viewer._compare", stop_writing)
    config = ViewerConfig(data=str(recordings), steps=2, height=16)
    with pytest.raises(KeyboardInterrupt):
        make_viewer(checkpoint, config, tmp_path / "v.onnx", stop)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_trained_is_told_before_anything_is(recordings, checkpoint, tmp_path):
    config = ViewerConfig(data=str(recordings))
    with pytest.raises(WrongUseError, match="let its name end in .onnx"):
        make_viewer(checkpoint, config, tmp_path, quiet)
    with pytest.raises(InputError, match="no training clips"):
        make_viewer(
            checkpoint, ViewerConfig(data=str(tmp_path)), tmp_path / "out" / "v.onnx", quiet
        )
    with pytest.raises(WrongUseError, match="multiple of 8"):
        ViewerConfig(data="x", height=20)
    hears = msgspec.structs.replace(MICRO, senses=Senses(video=None))
    with pytest.raises(WrongUseError, match="micro hears only"):
        train_viewer(JEPA(hears), config, quiet)
