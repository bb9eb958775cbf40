"""Probes against scikit-learn and against data whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from jepa_edge.bench.episodes import Recorded
from jepa_edge.bench.probe import FOLDS, RIDGES, fitted_ridge, probe, r2_scores, stood_still
from jepa_edge.bench.surprise import auroc, relative_error, spliced, surprise
from jepa_edge.bench.variants import Chain, variants_of
from jepa_edge.bundle import open_bundle
from jepa_edge.contract import InputError
from jepa_edge.media.clips import Clip
from jepa_edge.media.dataset import Episode, Layout, finish_dataset, write_episode

SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


@given(SCORES, SCORES)
def test_auroc_equals_scikit_learn_with_ties(positive, negative):
    truth = [1] * len(positive) + [0] * len(negative)
    expected = roc_auc_score(truth, positive + negative)
    assert auroc(np.array(positive), np.array(negative)) == pytest.approx(expected, abs=1e-12)


@pytest.fixture(scope="module")
def linear():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 12)).astype(np.float32)
    truth = features @ rng.normal(size=(12, 3)) + 2 + rng.normal(size=(60, 3))
    return features, truth.astype(np.float32)


def test_ridge_equals_scikit_learn_for_every_target(linear):
    x, y = linear
    ours = fitted_ridge(x, y, np.arange(60) // 6)
    for column, alpha in enumerate(ours.penalties):
        theirs = Ridge(alpha=alpha).fit(x.astype(float), y[:, column].astype(float))
        assert ours(x)[:, column] == pytest.approx(theirs.predict(x.astype(float)), abs=1e-8)


def test_each_penalty_is_the_best_by_true_group_cross_validation(linear):
    x, y = (array.astype(float) for array in linear)
    groups = np.arange(60) // 6
    folds = PredefinedSplit(groups % FOLDS)
    errors = [
        ((cross_val_predict(Ridge(alpha=a), x, y, cv=folds) - y) ** 2).mean(0) for a in RIDGES
    ]
    expected = [RIDGES[int(k)] for k in np.argmin(errors, axis=0)]
    assert list(fitted_ridge(*linear, groups).penalties) == expected


def test_episodes_that_repeat_themselves_do_not_fool_the_penalty():
    """Features that only tell episodes apart foretell nothing of a new one."""
    rng = np.random.default_rng(3)
    groups = np.arange(240) // 10
    codes, luck = rng.normal(size=(25, 40)), rng.normal(size=(24, 1))
    features = codes[groups] + rng.normal(scale=0.01, size=(240, 40))
    ridge = fitted_ridge(features.astype(np.float32), luck[groups].astype(np.float32), groups)
    assert ridge.penalties[0] >= 100
    assert abs(float((ridge(codes[24:]) - luck.mean())[0, 0])) < 0.5


def test_r2_equals_scikit_learn_and_a_constant_has_none(linear):
    x, y = linear
    foretold = fitted_ridge(x, y, np.arange(60))(x)
    expected = r2_score(y.astype(float), foretold, multioutput="raw_values")
    assert r2_scores(y, foretold) == pytest.approx(expected)
    assert np.isnan(r2_scores(np.ones((5, 1), np.float32), np.ones((5, 1)))[0])


@pytest.fixture
def recorded_folder(tmp_path):
    """Eight episodes: `loud` is the sound's level, `bright` the picture's, `luck` is neither."""
    names = ["loud", "bright", "luck"]
    layout = Layout(
        world="lab",
        fps=10,
        height=32,
        width=32,
        sample_rate=16_000,
        state_names=names,
        action_names=["a"],
    )
    rng = np.random.default_rng(3)
    for index in range(8):
        steps = 24
        state = rng.uniform(0, 1, (steps, 3)).astype(np.float32)
        grey = np.repeat(np.round(state[:, 1] * 255).astype(np.uint8), 2)
        frames = np.broadcast_to(grey[:, None, None, None], (2 * steps, 32, 32, 3)).copy()
        level = 10 ** (-3 + 2.5 * np.repeat(state[:, 0], 3200))
        samples = (level * rng.choice([-0.5, 0.5], len(level))).astype(np.float32)
        actions = np.zeros((steps, 1), np.float32)
        episode = Episode(
            index=index, task="lab", frames=frames, samples=samples, actions=actions, state=state
        )
        write_episode(tmp_path / "lab", layout, episode)
    finish_dataset(tmp_path / "lab", layout)
    return tmp_path / "lab"


@pytest.fixture
def chain(micro_bundle):
    return Chain(variants_of([open_bundle(micro_bundle)])[0], threads=1)


def test_what_hardly_varied_in_the_test_is_not_scored():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(500, 3)).astype(np.float32)
    test = rng.normal(size=(200, 3)).astype(np.float32) * np.array([1.0, 0.05, 0.2], np.float32)
    assert stood_still(train, test).tolist() == [False, True, False]


def test_probe_finds_what_is_heard_and_seen_and_nothing_else(chain, recorded_folder):
    recorded = Recorded(recorded_folder, chain.senses, window=4, limit=8, seed=0)
    assert not set(recorded.train) & set(recorded.test)
    found = probe(chain, recorded)
    assert found.r2_dense_silence is not None
    assert found.r2_dense["loud"] > 0.8
    assert found.r2_dense["bright"] > 0.8
    assert found.r2_dense_silence["bright"] > 0.8
    assert found.r2_dense_silence["loud"] < 0.1
    assert found.r2_dense["luck"] < 0.1


def test_surprise_of_copy_last_is_its_own_baseline(chain, recorded_folder):
    recorded = Recorded(recorded_folder, chain.senses, window=4, limit=8, seed=0)
    found = surprise(chain, recorded, limit=12)
    assert found is not None
    assert found.cuts == 12
    assert found.auroc == pytest.approx(found.auroc_copy_last, abs=0.02)


def test_too_few_episodes_or_steps_are_refused(chain, recorded_folder):
    with pytest.raises(InputError, match="a probe needs at least 4"):
        Recorded(recorded_folder, chain.senses, window=4, limit=3, seed=0)
    with pytest.raises(InputError, match="lasts 24 steps"):
        Recorded(recorded_folder, chain.senses, window=24, limit=8, seed=0)


def test_splice_changes_only_the_end():
    first = Clip(
        name="a",
        video=np.zeros((3, 8, 2, 2), np.float32),
        audio=np.zeros((1, 4, 80), np.float32),
        state=np.zeros((4, 1), np.float32),
    )
    second = Clip(
        name="b",
        video=np.ones((3, 8, 2, 2), np.float32),
        audio=np.ones((1, 4, 80), np.float32),
        state=np.zeros((4, 1), np.float32),
    )
    cut = spliced(first, second, 3)
    assert cut.video is not None
    assert cut.audio is not None
    assert cut.video[:, :6].max() == 0
    assert cut.video[:, 6:].min() == 1
    assert cut.audio[..., :60].max() == 0
    assert cut.audio[..., 60:].min() == 1


def test_relative_error_is_a_share_of_the_actual_length():
    assert relative_error(np.array([3.0, 0.0]), np.array([0.0, 4.0])) == pytest.approx(1.25)
