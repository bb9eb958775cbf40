"""The film of a flight, with and without a viewer."""

import av
import numpy as np
import pytest

from jepa_edge.bench.closed_loop import ClosedLoopConfig, evaluate
from jepa_edge.bench.film import DECODED_PX
from jepa_edge.contract import InputError, WrongUseError
from tests.cloud.bundles import cloud_bundle_at


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return cloud_bundle_at(tmp_path_factory.mktemp("film") / "micro.jepa")


def config(bundle, **changes):
    return ClosedLoopConfig(
        bundle=bundle, world="reach", episodes=1, steps=4, seed=3, threads=1, **changes
    )


def filmed(bundle, file, **changes):
    """The pictures of the film of one short flight."""
    try:
        evaluate(config(bundle, film=file, **changes), lambda *_: None)
    except InputError as error:
        if "OpenGL" not in str(error):
            raise
        pytest.skip(str(error))
    with av.open(str(file)) as film:
        return [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]


@pytest.mark.filterwarnings("ignore")
def test_a_viewer_adds_what_was_expected_to_the_same_flight(bundle, micro_viewer, tmp_path):
    plain = filmed(bundle, tmp_path / "plain.mp4", out=tmp_path / "flights")
    shown = filmed(bundle, tmp_path / "shown.mp4", out=tmp_path / "flights", viewer=micro_viewer)
    wide = DECODED_PX + 8
    assert len(shown) == len(plain)
    assert shown[0].shape[1] == plain[0].shape[1] + wide
    for with_it, without in zip(shown, plain, strict=True):
        assert abs(with_it[:, wide:].astype(int) - without).mean() < 3  # but for compression
    panels = [picture[18 : 18 + DECODED_PX, :DECODED_PX] for picture in shown]
    assert np.std(panels[0]) < 2  # nothing was expected before the first plan
    assert np.std(panels[-1]) > 10


def test_a_viewer_of_another_model_or_with_no_film_is_refused(bundle, micro_viewer, tmp_path):
    with pytest.raises(WrongUseError, match="give --film"):
        config(bundle, viewer=micro_viewer)
    with pytest.raises(InputError, match="no viewer at"):
        evaluate(
            config(bundle, film=tmp_path / "f.gif", viewer=tmp_path / "v.onnx"), lambda *_: None
        )
    assert not list(tmp_path.iterdir())
