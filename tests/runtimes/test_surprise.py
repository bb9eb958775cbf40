"""Calibrated surprise: chance scores are uniform, events are not, and memory has an end."""

import numpy as np

from jepa_edge.runtimes.surprise import LEAST, RECENT, Calibration


def test_scores_of_a_steady_world_come_with_the_chance_they_name():
    random = np.random.default_rng(0)
    calibration = Calibration()
    scores = [calibration.score(float(s)) for s in random.lognormal(size=5000)]
    assert scores[:LEAST] == [None] * LEAST
    known = np.array(scores[LEAST:])
    for share in (0.02, 0.1, 0.5):
        assert abs((known <= share).mean() - share) < 0.02


def test_an_event_is_rare_whatever_the_scale_and_the_usual_is_learnt_anew():
    random = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 1e3):
        calibration = Calibration()
        for s in random.lognormal(sigma=0.3, size=RECENT):
            calibration.score(scale * float(s))
        assert calibration.score(scale * 10) <= 1 / RECENT
        for s in random.lognormal(mean=3.0, sigma=0.3, size=RECENT):
            last = calibration.score(scale * float(s))
        assert last > 1 / RECENT  # what is always so surprises no more
        assert len(calibration._sorted) == len(calibration._recent) == RECENT
