"""What every simulated robot promises: Gymnasium's interface, repeatability, sound that flows."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from jepa_edge.worlds.record import open_world
from jepa_edge.worlds.world import gaps, softened


def played(world, seed, steps=4):
    """Everything seen, heard and felt in some steps of fixed actions."""
    rng = np.random.default_rng(5)
    seen = [world.reset(seed=seed)[0]]
    seen += [world.step(rng.uniform(-1, 1, 4).astype(np.float32))[0] for _ in range(steps)]
    return {key: np.stack([step[key] for step in seen]) for key in seen[0]}


# The render modes are checked with the frames; a state has no bounds in physical units.
@pytest.mark.filterwarnings("ignore:.*(spec|infinity|bound|observation space).*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:gymnasium")
def test_gymnasium_accepts_it(world):
    check_env(world, skip_render_check=True)


def test_same_seed_and_actions_same_everything(world):
    once, again, other = played(world, 7), played(world, 7), played(world, 8)
    for key in once:
        assert np.array_equal(once[key], again[key]), key
        assert not np.array_equal(once[key], other[key]), key


def test_another_process_world_sees_the_same(world):
    fresh = open_world(world.name, size=32)
    played(world, 3)  # a world that was used before
    once, again = played(world, 7), played(fresh, 7)
    fresh.close()
    assert all(np.array_equal(once[key], again[key]) for key in once)


def test_one_step_is_two_frames_and_two_tenths_of_a_second(world):
    seen, info = world.reset(seed=0)
    before = world.data.time
    seen, *_ = world.step(np.zeros(4, np.float32))
    assert world.data.time - before == pytest.approx(0.2)
    assert seen["frames"].shape == (2, 32, 32, 3)
    assert seen["samples"].shape == (3200,)
    assert seen["state"].shape == (len(world.state_names),)
    assert set(info) >= {"success", "collisions"}


def test_size_changes_the_picture_alone(world):
    larger = open_world(world.name, size=48)
    small, large = played(world, 2), played(larger, 2)
    larger.close()
    assert large["frames"].shape[-3:] == (48, 48, 3)
    assert np.array_equal(small["state"], large["state"])
    assert np.array_equal(small["samples"], large["samples"])


def test_every_picture_shows_something_and_things_move(world):
    frames = played(world, 1)["frames"].astype(float)
    assert (frames.std((2, 3, 4)) > 8).all()
    assert np.abs(frames[-1, -1] - frames[0, 0]).mean() > 1


def test_actions_beyond_the_bounds_are_held_to_them(world):
    world.reset(seed=0)
    within, *_ = world.step(np.ones(4, np.float32))
    world.reset(seed=0)
    beyond, *_ = world.step(np.full(4, 9, np.float32))
    assert np.array_equal(within["state"], beyond["state"])


def test_sound_stays_within_one_and_is_there(world):
    samples = played(world, 6, steps=10)["samples"]
    loud_db = 20 * np.log10(np.sqrt(np.mean(samples**2)))
    assert -34 < loud_db < -14
    assert np.abs(samples).max() < 1


def wins(world, policy, steps):
    """Of six seeds, how many reach the goal in some steps. Nobody looks: nothing is rendered."""
    world.render = lambda: np.zeros((32, 32, 3), np.uint8)
    won = 0
    for seed in range(300, 306):
        _, info = world.reset(seed=seed)
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            if not info["success"]:
                *_, info = world.step(policy(rng))
        won += info["success"]
    return won


@pytest.mark.parametrize(("world", "steps"), [("forest", 50), ("reach", 8)], indirect=["world"])
def test_the_expert_succeeds_far_more_often_than_chance(world, steps):
    expert = wins(world, lambda _: world.expert(), steps)
    chance = wins(world, lambda rng: rng.uniform(-1, 1, 4), steps)
    assert expert >= 4
    assert chance <= expert - 4


@given(
    st.floats(0.5, 6.0),
    st.floats(0.01, 0.95),
    st.booleans(),
    st.floats(-3.1, 3.1),
    st.floats(0.1, 0.4),
)
def test_gaps_are_metres_to_the_next_trunk_however_the_robot_is_turned(
    far, way, mirrored, heading, radius
):
    way = -way if mirrored else way
    trunk = far * np.cos(heading + way), far * np.sin(heading + way), radius
    _, left, right = gaps(np.zeros(2), heading, [trunk], hull_m=0.2, far_m=4.0)
    metres = min(4.0, max(0.0, far - radius - 0.2))
    assert (left, right) == pytest.approx((metres, 4.0) if way > 0 else (4.0, metres), abs=1e-6)
    straight, _, _ = gaps(np.zeros(2), heading + way, [trunk], hull_m=0.2, far_m=4.0)
    assert straight == pytest.approx(metres, abs=1e-6)


def test_a_softened_goal_is_where_it_is_and_near_it_in_metres():
    ahead, left = softened(0.1, 0.5, far_m=4.0)
    assert np.hypot(ahead, left) == pytest.approx(0.1, rel=0.02)
    assert np.arctan2(left, ahead) == pytest.approx(0.5)
    assert np.hypot(*softened(16.0, 0.5, far_m=4.0)) < 7.0


@pytest.mark.parametrize("name", ["forest", "reach", "rover"])
def test_a_world_is_drawn_as_mujocos_own_renderer_draws_it(name):
    world = open_world(name, size=64)
    world.reset(seed=4)
    ours = world.render().astype(float)
    with mujoco.Renderer(mujoco.MjModel.from_xml_string(world.scene()), 64, 64):
        pass  # of another scene: contexts do not disturb one another
    theirs = mujoco.Renderer(world.model, 64, 64)
    theirs.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    theirs.update_scene(world.data, world.camera)
    drawn = theirs.render().astype(float)
    assert np.abs(world.render() - ours).max() == 0
    assert np.abs(ours - drawn).mean() < 6
    assert np.abs(ours - drawn[:, ::-1]).mean() > 1.2 * np.abs(ours - drawn).mean()
    theirs.close()
    world.close()


def test_a_world_that_another_thread_drew_can_be_closed():
    world = open_world("forest", size=32)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(world.reset, seed=1).result()
        world.close()
    assert open_world("forest", size=32).reset(seed=1)[0]["frames"].any()


def test_no_opengl_is_one_clear_line(tmp_path):
    broken = os.environ | {"MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_DIRS": str(tmp_path)}
    command = [sys.executable, "-m", "jepa_edge.worlds", "--episodes", "1", "--steps", "1"]
    ran = subprocess.run(
        [*command, "--out", str(tmp_path / "out")],
        env=broken,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "libegl1 libgl1-mesa-dri" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out" / "meta" / "info.json").exists()
