"""Levels of difficulty, goals that can be shown, starts anywhere, and a siren in the fog."""

import numpy as np
import pytest

from jepa_edge.contract import WrongUseError
from jepa_edge.worlds.forest import LEVELS, SHRILL_HZ, SIREN_HZ
from jepa_edge.worlds.record import open_world

NAMES = ("forest", "reach", "rover")
LEVELLED = [(name, level) for name in NAMES for level in open_world(name).levels]


@pytest.fixture
def at_level(request):
    opened = []

    def make(name, level):
        opened.append(open_world(name, size=32, level=level))
        return opened[-1]

    yield make
    for world in opened:
        world.close()


@pytest.mark.parametrize(("name", "level"), LEVELLED)
def test_every_level_shows_its_goal_and_can_be_told_from_its_start(at_level, name, level):
    world = at_level(name, level)
    shown = world.demonstrate(5, 40)
    start, info = world.reset(seed=5)
    assert not info["success"]
    assert shown is not None
    assert np.abs(shown[-1]["frames"].astype(float) - start["frames"]).mean() > 2


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_level_names_those_that_are(name):
    with pytest.raises(WrongUseError, match=f"{name} has no level 'moon'; known: "):
        open_world(name, level="moon")


@pytest.mark.parametrize("name", NAMES)
def test_roaming_begins_in_the_same_scene_elsewhere(at_level, name):
    world = at_level(name, "")
    world.reset(seed=3)
    usual, scene = world.place().copy(), world.model.geom_pos.copy()
    world.reset(seed=3, options={"roam": True})
    assert np.array_equal(world.model.geom_pos, scene)
    assert np.linalg.norm(world.place() - usual) > 0.02


def siren_db(world, heading, pitch=SIREN_HZ):
    """Loudness at a pitch of the siren, in still air."""
    world.reset(seed=1)
    world.wind[:] = 0
    world.heading = heading
    sound = world.step(world.rest())[0]["samples"]
    power = np.abs(np.fft.rfft(sound)) ** 2
    return 10 * np.log10(power[int((pitch - 40) * 0.2) : int((pitch + 40) * 0.2)].max())


def test_the_siren_is_louder_ahead_than_behind_and_only_in_fog(at_level):
    fog, glade = at_level("forest", "fog"), at_level("forest", "glade")
    assert siren_db(fog, 0.0) > siren_db(fog, np.pi) + 6
    assert siren_db(fog, 0.0) > siren_db(glade, 0.0) + 15


def test_one_microphone_tells_left_from_right(at_level):
    fog = at_level("forest", "fog")
    shrill = [siren_db(fog, way, SHRILL_HZ) - siren_db(fog, way) for way in (-0.8, 0.0, 0.8)]
    assert shrill[0] > shrill[1] + 2 > shrill[2] + 4  # the beacon to the left, ahead, to the right


def test_the_siren_grows_on_the_way_to_the_beacon(at_level):
    fog = at_level("forest", "fog")
    fog.reset(seed=2)
    far = fog._siren()[1]
    fog.data.qpos[0] = 12.0
    assert fog._siren()[1] > 2 * far


def test_fog_hides_the_beacon_until_it_is_near(at_level):
    def redness(level, x):
        world = at_level("forest", level)
        world.reset(seed=1)
        world.data.qpos[:2], world.heading = (x, 0.0), 0.0
        frame = world.step(world.rest())[0]["frames"][-1].astype(float)
        return (frame[..., 0] - frame[..., 1:].max(-1)).max()

    assert LEVELS["fog"].sight_m < 8
    assert redness("fog", 8.0) < 0.3 * redness("glade", 8.0)
    assert redness("fog", 14.0) > 60


def test_the_rover_goes_as_it_is_told_and_bumps_into_crates():
    rover = open_world("rover", size=32, level="yard")
    rover.reset(seed=1)
    for action, name in (((1, 0), "forward_m_s"), ((0, 1), "yaw_rate_rad_s")):
        rover.reset(seed=1)
        for _ in range(3):
            seen, *_ = rover.step(np.array(action, np.float32))
        assert seen["state"][rover.state_names.index(name)] > 0.8
    bumps = 0
    for seed in range(6):
        rover.reset(seed=seed)
        for _ in range(25):
            *_, info = rover.step(np.array([1, 0], np.float32))
        bumps += info["collisions"]
    rover.close()
    assert bumps


@pytest.mark.parametrize("name", NAMES)
def test_nominal_physics_knows_which_way_the_goal_is(at_level, name):
    world = at_level(name, "")
    world.reset(seed=7)
    told = np.zeros((1, 4, len(world.action_names)), np.float32)
    for step in range(4):
        told[0, step] = world.expert()
        world.step(told[0, step])
    went = world.distance
    world.reset(seed=7)
    assert world.nominal(told)[0, -1] == pytest.approx(went, abs=1.3)  # it knows no lag
    assert world.nominal(np.zeros_like(told))[0, -1] > world.nominal(told)[0, -1]
