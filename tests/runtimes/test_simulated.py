"""The closed loop through `jepa-edge run`: a Gymnasium environment is seen, and does the plans."""

import json

import gymnasium
import numpy as np
import pytest

from jepa_edge.bundle import open_bundle
from jepa_edge.contract import InputError, WrongUseError
from jepa_edge.runtimes.pipeline import RunConfig, run
from jepa_edge.runtimes.simulated import Simulated

STEPS = 12


class Room(gymnasium.Env):
    """A picture that each action shifts, and noise to hear; 12 steps long."""

    def __init__(self, size=16):
        self.size, self.done = size, []
        self.action_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
        self.observation_space = gymnasium.spaces.Dict()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.done.append([])
        self.scene = self.np_random.integers(0, 255, (64, 64, 3), np.uint8)
        self.place = np.zeros(3)
        return self.look(), {}

    def step(self, action):
        self.done[-1].append(np.array(action))
        self.place = self.place + action
        ended = len(self.done[-1]) == STEPS
        return self.look(), 0.0, ended, False, {"success": True}

    def look(self):
        shift = tuple(np.round(4 * self.place[:2]).astype(int))
        frame = np.roll(self.scene, shift, (0, 1))[: self.size, : self.size]
        samples = self.np_random.normal(0, 0.1, 3200).astype(np.float32)
        return {"frames": np.stack([frame, frame]), "samples": samples}


class Blank(Room):
    def look(self):
        return {"pictures": None}


MADE: list[Room] = []


def made(kind, **options):
    MADE.append(kind(**options))
    return MADE[-1]


gymnasium.register("Room-v0", entry_point=lambda **o: made(Room, **o), order_enforce=False)
gymnasium.register("Blank-v0", entry_point=lambda **o: made(Blank, **o))
ROOM, BLANK = "gym:gymnasium:Room-v0?seed=3", "gym:gymnasium:Blank-v0"


def config(bundle, clip, **fields):
    base = {"camera": ROOM, "mic": ROOM, "controller": "gym", "goal": str(clip), "fast": True}
    return RunConfig(bundle=bundle, **(base | fields))


def test_each_plan_is_done_in_the_world_and_a_hold_is_rest(micro_bundle, tiny_clip):
    done = run(config(micro_bundle, tiny_clip))
    assert done.steps == STEPS
    [actions] = MADE[-1].done
    assert len(actions) == STEPS
    # a clip model of 4 steps gives its first latent at the 4th, and plans when it has two
    assert [bool(np.any(action)) for action in actions] == [False] * 4 + [True] * (STEPS - 4)
    assert np.abs(actions).max() <= 1


def test_the_same_seed_is_the_same_flight_and_repeat_goes_to_the_next_scene(
    micro_bundle, tiny_clip
):
    run(config(micro_bundle, tiny_clip))
    first = MADE[-1].done[0]
    run(config(micro_bundle, tiny_clip, repeat=True, steps=2 * STEPS + 1))
    again, other = MADE[-1].done[:2]
    assert np.array_equal(first, again)
    assert len(other) == STEPS
    assert not np.array_equal(again, other)


def test_an_action_is_done_once_and_never_repeated(micro_bundle):
    senses = open_bundle(micro_bundle).manifest.senses
    world = Simulated(ROOM, senses, fast=True, repeat=False)
    steps = world.steps()
    next(steps)
    world._action = np.full(3, 0.5, np.float32)
    for _ in range(3):
        next(steps)
    world.close()
    assert [action.tolist() for action in MADE[-1].done[-1]] == [[0.5] * 3, [0.0] * 3, [0.0] * 3]


def test_it_keeps_real_time(micro_bundle, tiny_clip):
    log = micro_bundle.parent / "ticks.jsonl"
    fields = {"fast": False, "controller": f"file:{log}", "steps": 5}
    run(config(micro_bundle, tiny_clip, **fields))
    captured = [json.loads(line)["captured_ns"] for line in log.read_text().splitlines()]
    assert (captured[-1] - captured[0]) / 1e9 == pytest.approx(4 * 0.2, abs=0.25)


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ({"camera": "gym:nowhere"}, WrongUseError, "no environment gym:nowhere"),
        ({"camera": f"{ROOM}&speed=1"}, WrongUseError, "seed"),
        ({"camera": BLANK}, InputError, "gives no frames"),
        ({"camera": "clip.mp4"}, WrongUseError, "give both"),
        ({"mic": "alsa:hw:0"}, WrongUseError, "microphone of its own"),
    ],
)
def test_what_cannot_be_flown_is_told(micro_bundle, tiny_clip, fields, error, named):
    mic = fields.get("mic", fields.get("camera", ROOM))
    with pytest.raises(error, match=named):
        run(config(micro_bundle, tiny_clip, **(fields | {"mic": mic})))


@pytest.mark.slow
def test_the_shipped_forest_is_seen_and_heard(micro_bundle, tiny_clip):
    pytest.importorskip("mujoco")
    fields = {"camera": "gym:forest?seed=4", "mic": "gym:forest?seed=4", "controller": "none"}
    assert run(config(micro_bundle, tiny_clip, steps=6, **fields)).steps == 6
    with pytest.raises(WrongUseError, match="takes 4 actions, the model gives 3"):
        run(config(micro_bundle, tiny_clip, steps=12, **(fields | {"controller": "gym"})))
