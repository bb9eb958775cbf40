"""State told from the latents in training: what it asks of them, and what it leaves out."""

from itertools import pairwise

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from jepa_edge.contract import WrongUseError
from jepa_edge.model.jepa import JEPA
from jepa_edge.train.clips import state_variables
from jepa_edge.train.config import TrainConfig
from jepa_edge.train.learner import Learner, known_error
from jepa_edge.train.loop import Run
from tests.train.test_pilot import STEPWISE, moving
from tests.train.test_train import Silent

FREE = msgspec.structs.replace(STEPWISE, grounded=())


def clips_with_states(recordings=6):
    clips = msgspec.structs.replace(moving(recordings), grounded=())
    return msgspec.structs.replace(clips, variables=state_variables(clips.recordings))


def trained(tmp_path, clips, state_weight):
    config = TrainConfig(
        out=str(tmp_path / str(state_weight)),
        steps=80,
        batch=6,
        warmup=5,
        bf16=False,
        target="shared",
        target_view="clip",
        state_weight=state_weight,
        modality_dropout=0.0,
        evaluate_every=80,
        learning_rate=4e-3,
    )
    torch.manual_seed(0)
    learner = Learner(JEPA(FREE).train(), config, len(clips.variables))
    run = Run(learner, config, torch.device("cpu"))
    return run.train(clips, clips, logger=Silent(), progress=Silent()), learner


def test_the_latents_come_to_tell_what_can_be_seen_and_not_what_cannot(tmp_path):
    found, learner = trained(tmp_path, clips_with_states(), 2.0)
    told = {each.name: each.r2 for each in found.state}
    assert told["x_m"] > 0.6
    assert told["room_m"] < 0.4
    assert not any("state" in name for name, _ in learner.model.named_parameters())


def test_without_weight_there_is_no_layer(tmp_path):
    found, learner = trained(tmp_path, clips_with_states(), 0.0)
    assert learner.state is None
    assert found.state == []


def test_what_a_recording_does_not_have_does_not_count():
    one, other = moving(2).recordings
    other = msgspec.structs.replace(other, state_names=["y_m", "room_m"])
    without = msgspec.structs.replace(one, state=None, state_names=[])
    recordings = [one, other, without]
    variables = state_variables(recordings)
    assert [v.name for v in variables] == ["x_m", "room_m", "y_m"]
    clips = msgspec.structs.replace(
        moving(2), recordings=recordings, grounded=(), variables=variables
    )
    states = clips.batch_of([(each, 0) for each in recordings]).states
    known = states.isfinite().all(dim=1).numpy()
    assert known.tolist() == [[True, True, False], [False, True, True], [False] * 3]
    wanted = (one.state[: clips.steps, 0] - variables[0].mean) / variables[0].std
    np.testing.assert_allclose(states[0, :, 0], wanted, rtol=1e-5)

    told = states.nan_to_num(7.0).requires_grad_()
    error = known_error(told + 1.0, states)
    error.backward()
    assert float(error.detach()) == np.float32(0.5)
    assert (told.grad[~states.isfinite()] == 0).all()


def test_a_run_begins_with_single_steps_and_resumes_among_them(tmp_path):
    clips = clips_with_states()

    def run(folder):
        config = TrainConfig(
            out=str(tmp_path / folder),
            steps=5,
            single_steps=3,
            single_batch=8,
            batch=2,
            warmup=1,
            bf16=False,
            state_weight=1.0,
            evaluate_every=100,
        )
        torch.manual_seed(0)
        learner = Learner(JEPA(FREE).train(), config, len(clips.variables))
        return Run(learner, config, torch.device("cpu"))

    class Noted(Silent):
        def __init__(self, patience=9):
            self.losses, self.patience = [], patience

        def update(self, step, losses):
            self.losses.append(losses)
            if step == self.patience:
                raise KeyboardInterrupt

    whole, rest = Noted(), Noted()
    run("whole").train(clips, clips, logger=Silent(), progress=whole)
    assert ["predict" in losses for losses in whole.losses] == [False] * 3 + [True] * 2
    assert all("state" in losses for losses in whole.losses)

    with pytest.raises(KeyboardInterrupt):
        run("halves").train(clips, clips, logger=Silent(), progress=Noted(patience=2))
    again = run("halves")
    assert again.resume()
    again.train(clips, clips, logger=Silent(), progress=rest)
    assert rest.losses == whole.losses[2:]


def test_last_the_predictors_learn_from_latents_that_stay(tmp_path):
    clips = clips_with_states()
    config = TrainConfig(
        out=str(tmp_path),
        steps=6,
        predictor_steps=3,
        batch=2,
        warmup=1,
        bf16=False,
        target="shared",
        score_limit=0.1,
        evaluate_every=100,
    )
    torch.manual_seed(0)
    run = Run(Learner(JEPA(FREE).train(), config), config, torch.device("cpu"))
    seen = []

    class Watching(Silent):
        def update(self, step, losses):
            model = run.learner.model
            parts = (model.encoder, model.pool, model.predictor, model.action_predictor)
            seen.append([nn.utils.parameters_to_vector(p.parameters()).clone() for p in parts])
            assert ("sigreg" in losses) == (step <= 3)

    run.train(clips, clips, logger=Silent(), progress=Watching())
    for before, after in pairwise(seen[2:]):
        same = [bool(torch.equal(a, b)) for a, b in zip(before, after, strict=True)]
        assert same == [True, True, False, False]
    assert not torch.equal(seen[0][0], seen[2][0])


def test_stages_are_parts_of_the_whole():
    config = TrainConfig(steps=10, single_steps=4, predictor_steps=3, state_weight=1.0)
    assert [config.stage(step) for step in (0, 3, 4, 6, 7, 9)] == [
        (0, 4),
        (0, 4),
        (4, 7),
        (4, 7),
        (7, 10),
        (7, 10),
    ]
    assert TrainConfig(steps=10).stage(9) == (0, 10)
    with pytest.raises(WrongUseError, match="parts of steps"):
        TrainConfig(steps=5, single_steps=4, predictor_steps=2, state_weight=1.0)
    with pytest.raises(WrongUseError, match="state_weight"):
        TrainConfig(single_steps=4)
