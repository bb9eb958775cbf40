"""Grounded dimensions and pilots: what is recorded becomes what latents say in metres."""

import json

import msgspec
import numpy as np
import pytest
import torch

from jepa_edge.bundle import Grounded
from jepa_edge.contract import InputError, WrongUseError
from jepa_edge.model.checkpoint import MODEL_FILE, load_checkpoint
from jepa_edge.model.config import EncoderConfig, PredictorConfig
from jepa_edge.model.jepa import JEPA
from jepa_edge.train.clips import ClipStore, Recorded, mirrored
from jepa_edge.train.config import TrainConfig
from jepa_edge.train.learner import Learner
from jepa_edge.train.loop import Run
from jepa_edge.train.objectives import ground_error
from jepa_edge.train.pilot import heldout_errors, train_pilot
from jepa_edge.train.pipeline import train
from jepa_edge.worlds.record import RecordConfig, record
from tests.train.test_train import MICRO, Silent

GROUNDED = (
    Grounded(name="x_m", mean=0.0, std=1.0, goal=True),
    Grounded(name="room_m", mean=0.0, std=1.0, at_least=0.5),
)
STEPWISE = msgspec.structs.replace(
    MICRO,
    encoder=EncoderConfig(dim=32, depth=1, heads=2, attention="bidirectional", stem="conv"),
    predictor=PredictorConfig(dim=16, depth=1, heads=1, horizon=1),
    window=1,
    grounded=GROUNDED,
)


def moving(recordings=6, steps=9):
    """A bright square that the actions move; the state says where it is."""
    random, made = np.random.default_rng(0), []
    for index in range(recordings):
        actions = random.uniform(-1, 1, (steps, 4)).astype(np.float32)
        place = np.cumsum(actions[:, 0]) * 4 + 16
        frames = np.full((2 * steps, 32, 32, 3), 40, np.uint8)
        for frame, x in enumerate(np.repeat(place, 2)):
            frames[frame, 10:22, int(np.clip(x - 5, 0, 31)) : int(np.clip(x + 5, 1, 32))] = 220
        state = np.stack([(place - 16) / 6, random.standard_normal(steps)], 1).astype(np.float32)
        made.append(
            Recorded(
                name=str(index),
                frames=frames,
                mel=None,
                actions=actions,
                state=state,
                state_names=["x_m", "room_m"],
            )
        )
    return ClipStore(
        recordings=made,
        senses=STEPWISE.senses,
        steps=STEPWISE.training_steps,
        action_dim=4,
        grounded=GROUNDED,
    )


def test_grounded_dimensions_become_what_was_recorded(tmp_path):
    config = TrainConfig(
        out=str(tmp_path),
        steps=60,
        batch=6,
        warmup=5,
        bf16=False,
        target="shared",
        target_view="clip",
        ground=["x_m", "room_m"],
        ground_weight=5.0,
        colour_jitter=0.2,
        modality_dropout=0.0,
        evaluate_every=60,
        learning_rate=4e-3,
    )
    torch.manual_seed(0)
    run = Run(Learner(JEPA(STEPWISE).train(), config), config, torch.device("cpu"))
    found = run.train(moving(), moving(), logger=Silent(), progress=Silent())
    place, noise = found.grounded
    assert place.name == "x_m"
    assert place.seen < 0.4
    assert place.rolled < 0.6
    assert noise.seen > 0.6  # what no picture shows is not learnt


def test_steps_encoded_alone_are_those_of_a_clip():
    model = JEPA(STEPWISE).eval()
    clip = torch.randn(2, 3, 8, 32, 32)
    sound = torch.randn(2, 1, 64, 80)
    together = model.encoder(clip, sound)
    apart = [
        model.encoder(clip[:, :, 2 * s : 2 * s + 2], sound[..., 20 * s : 20 * s + 20])
        for s in range(4)
    ]
    torch.testing.assert_close(together, torch.cat(apart, dim=1))


def test_what_is_to_be_grounded_must_be_recorded():
    with pytest.raises(InputError, match="has no speed to ground; it has x_m, room_m"):
        moving().recordings[0].quantities((Grounded(name="speed", mean=0.0, std=1.0),))
    with pytest.raises(WrongUseError, match="goal, at_least or ground_shares name"):
        TrainConfig(ground=["x_m"], goal=["y_m"])
    with pytest.raises(WrongUseError, match="conv stem"):
        msgspec.structs.replace(STEPWISE, patch=8)


def test_errors_out_of_sight_count_linearly_and_shares_count_most():
    true = torch.tensor([[0.0, 0.0]])
    near, far, farther = (torch.tensor([[error, 0.0]]) for error in (0.1, 2.0, 3.0))
    squared = TrainConfig(ground=["x_m", "room_m"], ground_shares={"x_m": 4.0})
    forgiving = msgspec.structs.replace(squared, ground_beta=0.5)
    assert ground_error(near, true, forgiving) == pytest.approx(4 * 0.1**2 / 2)
    assert ground_error(near, true, squared) == pytest.approx(4 * 0.1**2 / 2)
    slope = ground_error(farther, true, forgiving) - ground_error(far, true, forgiving)
    assert slope == pytest.approx(4 * 2 * 0.5 / 2)


def test_a_pilot_learns_in_stages_what_actions_move(tmp_path):
    config = TrainConfig(
        out=str(tmp_path),
        steps=80,
        batch=16,
        warmup=5,
        joint_steps=20,
        rollout_steps=80,
        bf16=False,
        ground=["x_m", "room_m"],
        learning_rate=4e-3,
        modality_dropout=0.0,
        evaluate_every=80,
    )
    torch.manual_seed(0)
    model = JEPA(msgspec.structs.replace(STEPWISE, predictor=None)).train()
    learner = Learner(model, config)
    seen = []

    def shown(step, _losses):
        if step in (80, 100, 180):
            seen.append([p.clone() for p in model.encoder.parameters()])

    train_pilot(learner, moving(), moving(), config, shown)
    place, _ = heldout_errors(model, moving())
    assert place.seen < 0.4
    assert place.rolled < 0.8 * place.copied
    alone, jointly, ahead = seen
    assert not any(torch.equal(a, b) for a, b in zip(alone, jointly, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(jointly, ahead, strict=True))
    assert (tmp_path / "model.safetensors").is_file()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["encoder", "joint", "rollout"]


@pytest.mark.parametrize("at", [3, 9, 14])
def test_an_interrupted_pilot_goes_on_as_if_nothing_had_been(tmp_path, at):
    def run(name, until=None):
        config = TrainConfig(
            out=str(tmp_path / name),
            steps=6,
            joint_steps=5,
            rollout_steps=6,
            batch=8,
            warmup=2,
            bf16=False,
            ground=["x_m", "room_m"],
            evaluate_every=50,
        )

        def shown(step, _losses):
            seen.append(step)
            if step == until:
                raise KeyboardInterrupt

        torch.manual_seed(0)
        model = JEPA(msgspec.structs.replace(STEPWISE, predictor=None)).train()
        train_pilot(Learner(model, config), moving(), moving(), config, shown)
        return model.state_dict()

    seen = []
    whole = run("whole")
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        run("halves", until=at)
    again = run("halves")
    assert seen == list(range(1, 18))
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_a_mirrored_recording_is_what_a_mirrored_robot_would_have_recorded():
    (recorded,) = moving(recordings=1).recordings
    recorded = msgspec.structs.replace(recorded, mel=np.ones((4, 8), np.float32))
    signs = [-1.0, 1.0, 1.0, 1.0]
    there = mirrored(recorded, {"x_m": "-x_m", "room_m": "x_m"}, signs)
    assert np.array_equal(there.frames, recorded.frames[:, :, ::-1])
    assert np.array_equal(there.actions[:, 0], -recorded.actions[:, 0])
    assert np.array_equal(there.actions[:, 1:], recorded.actions[:, 1:])
    assert np.array_equal(there.state, np.stack([-recorded.state[:, 0], recorded.state[:, 0]], 1))
    assert np.array_equal(there.mel, recorded.mel)
    back = mirrored(mirrored(recorded, {"x_m": "-x_m"}, signs), {"x_m": "-x_m"}, signs)
    assert np.array_equal(back.frames, recorded.frames)
    assert np.array_equal(back.state, recorded.state)
    for state, actions in (({"y_m": "-x_m"}, signs), ({"x_m": "-x_m"}, [1.0])):
        with pytest.raises(WrongUseError, match="mirror names"):
            mirrored(recorded, state, actions)


def test_a_recipe_trains_a_pilot_from_recordings_seen_mirrored_and_without_ears(tmp_path):
    recorded = RecordConfig(world="rover", out=tmp_path / "data", episodes=3, steps=8, workers=1)
    try:
        record(recorded, lambda *_: None)
    except InputError as error:
        if "OpenGL" not in str(error):
            raise
        pytest.skip(str(error))
    config = TrainConfig(
        preset="pilot",
        data=str(tmp_path / "data"),
        out=str(tmp_path / "run"),
        steps=2,
        joint_steps=2,
        rollout_steps=2,
        batch=4,
        target="shared",
        ground=["goal_aside_soft_m", "forward_m_s"],
        goal=["goal_aside_soft_m"],
        mirror_actions=[1, -1],
        mirror={"goal_aside_soft_m": "-goal_aside_soft_m"},
        latent_weight=0.1,
        hears=False,
    )
    made = train(config)
    assert (made.steps, made.resumed_from) == (6, 0)
    known = load_checkpoint(made.checkpoint).model.config
    assert known.senses.audio is None
    aside, forward = known.grounded
    assert aside.mean == pytest.approx(0, abs=1e-5)  # as often to the left as to the right
    assert abs(forward.mean) > 1e-3
    assert train(config).resumed_from == 6
    with pytest.raises(InputError, match="other settings"):
        train(msgspec.structs.replace(config, batch=5))
    config = msgspec.structs.replace(config, out=str(tmp_path / "sided"), unmirrored=[config.data])
    train(config)
    aside, _ = load_checkpoint(f"{config.out}/{MODEL_FILE}").model.config.grounded
    assert abs(aside.mean) > 1e-3
    with pytest.raises(WrongUseError, match="unmirrored names"):
        train(msgspec.structs.replace(config, unmirrored=["elsewhere"]))
