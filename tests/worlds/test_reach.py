"""The arm: it goes where it is told, a touch is felt, heard and moves the cube."""

import numpy as np
import pytest

NAMES = ("hand_x_m", "hand_y_m", "hand_z_m")


def at(reach, seen, name):
    return float(seen["state"][reach.state_names.index(name)])


@pytest.mark.parametrize(("axis", "sign"), [(0, 1), (1, 1), (1, -1), (2, 1)])
def test_each_action_moves_the_hand_along_its_axis(reach, axis, sign):
    seen, _ = reach.reset(seed=3)
    before = at(reach, seen, NAMES[axis])
    action = np.zeros(4, np.float32)
    action[axis] = sign
    for _ in range(2):
        seen, *_ = reach.step(action)
    assert sign * (at(reach, seen, NAMES[axis]) - before) > 0.08


def test_the_fourth_action_bends_the_wrist(reach):
    seen, _ = reach.reset(seed=3)
    before = at(reach, seen, "wrist_rad")
    seen, *_ = reach.step(np.array([0, 0, 0, -1], np.float32))
    assert at(reach, seen, "wrist_rad") < before - 0.1


def test_a_touch_is_felt_heard_and_moves_the_cube(reach):
    seen, info = reach.reset(seed=2)
    start = reach.data.qpos[4:7].copy()
    assert not info["success"]
    free = []
    for _ in range(12):
        seen, _, finished, _, info = reach.step(reach.expert())
        if info["success"]:
            break
        free.append(seen)
    assert finished
    assert at(reach, seen, "contact_n") > 0
    assert all(at(reach, step, "contact_n") == 0 for step in free)

    def knock(step):  # the first mode of the cube, 640 Hz
        return np.abs(np.fft.rfft(step["samples"]))[int(620 * 0.2) : int(660 * 0.2)].max()

    still = reach.step(np.zeros(4, np.float32))[0]
    assert knock(seen) > 5 * max([knock(step) for step in free] or [0])
    for _ in range(4):
        reach.step(np.array([1, 0, -0.5, 0], np.float32))
    assert np.linalg.norm(reach.data.qpos[4:7] - start) > 0.01
    assert np.isfinite(still["samples"]).all()


def test_servos_are_quiet_when_still_and_whine_when_moving(reach):
    def loudness(action):
        reach.reset(seed=5)
        for _ in range(4):
            seen, *_ = reach.step(np.array(action, np.float32))
        return np.sqrt(np.mean(seen["samples"] ** 2))

    assert loudness([0, 1, 0.3, 0]) > 10 * loudness([0, 0, 0, 0])


def test_state_agrees_with_itself(reach):
    reach.reset(seed=4)
    seen, *_ = reach.step(np.array([0.5, 0.5, 0, 0], np.float32))
    hand = np.array([at(reach, seen, name) for name in NAMES])
    cube = np.array([at(reach, seen, f"cube_{axis}_m") for axis in "xyz"])
    assert at(reach, seen, "hand_cube_m") == pytest.approx(np.linalg.norm(hand - cube), abs=1e-5)
