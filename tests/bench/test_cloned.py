"""Cloning: it finds the rule that the recordings follow, and only with the goal what needs it."""

import numpy as np
import pytest

from jepa_edge.bench.cloned import Cloned

WIDTH, HISTORY = 6, 2


@pytest.fixture(scope="module")
def walks():
    """Latents that actions move, each action towards a place that only its episode knows."""
    random = np.random.default_rng(0)
    latents, actions = [], []
    for _ in range(60):
        place, target = random.standard_normal((2, 2))
        rest = random.standard_normal(WIDTH - 2)
        seen, done = [], []
        for _ in range(20):
            action = np.clip(target - place, -0.3, 0.3)
            place = place + action
            done.append(action)
            seen.append(np.concatenate((place, rest)))
        latents.append(np.array(seen, np.float32))
        actions.append(np.array(done, np.float32))
    return latents, actions


def towards(cloned):
    """How much of the way to goals all around its actions go, from one place at rest."""
    here = np.zeros((HISTORY, WIDTH), np.float32)
    ways = []
    for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False):
        goal = np.zeros(WIDTH, np.float32)
        goal[:2] = np.cos(angle), np.sin(angle)
        ways.append(float(cloned.action(here, goal) @ goal[:2]))
    return np.mean(ways)


def test_hindsight_goals_steer_and_a_reactive_clone_cannot_know_them(walks):
    told, blind = (Cloned(*walks, history=HISTORY, to_goal=to_goal) for to_goal in (True, False))
    assert towards(told) > 0.1
    assert abs(towards(blind)) < 1e-6


def test_it_gives_bounded_actions_and_the_same_ones_again(walks):
    one, two = (Cloned(*walks, history=HISTORY, to_goal=True) for _ in range(2))
    far = np.full((HISTORY, WIDTH), 1e3, np.float32)
    assert np.abs(one.action(far, far[0])).max() <= 1.0
    assert np.array_equal(one.action(far, far[0]), two.action(far, far[0]))
