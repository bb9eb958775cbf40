"""The drone: its rotors are heard, its state is what it does, trees are in its way."""

import numpy as np
import pytest
from scipy.signal import butter, hilbert, sosfiltfilt

from jepa_edge.worlds.forest import GOAL_M
from jepa_edge.worlds.sound import HOVER_HZ


def flown(forest, action, steps, seed=0):
    """State over some steps of one action in still air, and the sound of each."""
    forest.reset(seed=seed)
    forest.wind[:] = 0
    seen = [forest.step(np.array(action, np.float32))[0] for _ in range(steps)]
    states = np.stack([step["state"] for step in seen])
    return dict(zip(forest.state_names, states.T, strict=True)), [s["samples"] for s in seen]


def blade_hz(samples):
    """The mean frequency of the first rotors' harmonic, by the turning of its analytic signal."""
    smooth = sosfiltfilt(butter(4, (60, 160), "bandpass", fs=16_000, output="sos"), samples)
    turning = np.diff(np.unwrap(np.angle(hilbert(smooth))))
    loud = np.abs(hilbert(smooth))[1:] > 0.2 * np.abs(smooth).max()
    return np.average(turning[loud]) * 16_000 / (2 * np.pi)


def test_rotor_pitch_follows_the_root_of_the_thrust(forest):
    heard, expected = [], []
    for climb in (-0.6, 0.0, 0.6):
        _, sounds = flown(forest, [0, 0, climb, 0], 1)
        shares = np.array(forest.heard) / (9.81 / 4)
        heard.append(blade_hz(sounds[0]))
        expected.append(HOVER_HZ * 1.0225 * np.sqrt(shares).mean())  # 0 to 4.5 % apart
    assert heard[0] < heard[1] < heard[2]
    assert heard == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("action", "name", "sign"),
    [
        ([1, 0, 0, 0], "forward_m_s", 1),
        ([-1, 0, 0, 0], "forward_m_s", -1),
        ([0, 1, 0, 0], "left_m_s", 1),
        ([0, -1, 0, 0], "left_m_s", -1),
        ([0, 0, 1, 0], "up_m_s", 1),
        ([0, 0, 0, 1], "yaw_rate_rad_s", 1),
        ([0, 0, 0, -1], "yaw_rate_rad_s", -1),
    ],
)
def test_each_action_moves_its_own_axis(forest, action, name, sign):
    state, _ = flown(forest, action, 3)
    assert sign * state[name][-1] > 0.6


def test_turning_left_sends_the_goal_right(forest):
    state, _ = flown(forest, [0, 0, 0, 1], 3)
    assert state["goal_bearing_rad"][-1] < state["goal_bearing_rad"][0] - 0.2


def test_goal_is_as_far_as_it_was_flown(forest):
    forest.reset(seed=1)
    seen, *_ = forest.step(np.zeros(4, np.float32))
    distance = seen["state"][forest.state_names.index("goal_distance_m")]
    x, y = forest.data.qpos[:2]
    assert distance == pytest.approx(np.hypot(GOAL_M - x, y), abs=1e-5)


def test_a_crash_is_heard_counted_and_ends_the_flight(forest):
    for seed in range(20):
        forest.reset(seed=seed)
        before = forest.info()["collisions"]
        for _ in range(14):
            quiet = forest.knocks.tail.size == 0 or not np.abs(forest.knocks.tail).max()
            seen, _, finished, _, info = forest.step(np.array([1, 0, 0, 0], np.float32))
            if info["collisions"] > before:
                hit = np.array(seen["samples"])
                high = np.abs(np.fft.rfft(hit))[int(900 * 0.2) : int(1000 * 0.2)].max()
                assert quiet
                assert finished == (info["crashed"] or info["success"])
                if info["crashed"]:
                    assert high > 20
                    return
                break
    pytest.fail("no seed of twenty meets a tree at full speed")


def test_wind_is_louder_the_faster_the_air(forest):
    def hiss_db(action):
        _, sounds = flown(forest, action, 5)
        power = np.abs(np.fft.rfft(sounds[-1])) ** 2
        return 10 * np.log10(power[int(2500 * 0.2) :].mean())

    assert hiss_db([1, 0, 0, 0]) > hiss_db([0, 0, 0, 0]) + 3
