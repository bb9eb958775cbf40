"""Training: objectives, masks, meters, exact resume, collapse, two processes."""

import json
import subprocess
import sys

import msgspec
import numpy as np
import pytest
import torch

from jepa_edge.contract import CheckFailedError, InputError, Senses, VideoSpec, WrongUseError
from jepa_edge.model.config import ActionConfig, EncoderConfig, ModelConfig, PredictorConfig
from jepa_edge.model.jepa import JEPA
from jepa_edge.train.clips import ClipStore, Recorded
from jepa_edge.train.collapse import CollapseGuard, spread_of
from jepa_edge.train.config import TrainConfig, config_from_flags
from jepa_edge.train.learner import Learner, sigreg_at_each_step
from jepa_edge.train.loop import Run
from jepa_edge.train.masks import multiblock
from jepa_edge.train.objectives import prediction_loss, sigreg
from jepa_edge.train.resume import RESUME_FILE

MICRO = ModelConfig(
    name="micro",
    encoder=EncoderConfig(dim=32, depth=1, heads=2),
    predictor=PredictorConfig(dim=16, depth=1, heads=1),
    action=ActionConfig(dim=16, depth=1, heads=1, horizon=3, history=2),
    senses=Senses(video=VideoSpec(height=32, width=32)),
    window=4,
    pooled_dim=16,
)


class Silent:
    def add_scalar(self, tag, scalar_value, global_step):
        pass

    def update(self, step, losses):
        pass


def store(recordings=4, steps=9, model=MICRO):
    random = np.random.default_rng(0)
    made = [
        Recorded(
            name=str(i),
            frames=random.integers(0, 255, (2 * steps, 32, 32, 3), np.uint8),
            mel=random.standard_normal((64, 20 * steps)).astype(np.float32),
            actions=random.uniform(-1, 1, (steps, 4)).astype(np.float32),
        )
        for i in range(recordings)
    ]
    return ClipStore(recordings=made, senses=model.senses, steps=model.training_steps, action_dim=4)


def a_run(tmp_path, **changes):
    defaults = {"steps": 4, "batch": 2, "warmup": 1, "bf16": False, "evaluate_every": 100}
    config = TrainConfig(out=str(tmp_path), **(defaults | changes))
    torch.manual_seed(config.seed)
    return Run(Learner(JEPA(MICRO).train(), config), config, torch.device("cpu"))


@pytest.mark.parametrize("objective", ["l1", "l2", "smooth_l1", "cosine", "infonce"])
def test_each_objective_is_lowest_at_the_target(objective):
    torch.manual_seed(0)
    target = torch.randn(4, 3, 5, 16)
    exact = prediction_loss(target, target, objective)
    assert exact < prediction_loss(target + 0.5 * torch.randn_like(target), target, objective)
    assert exact < prediction_loss(target.flip(0), target, objective)


def test_sigreg_tells_a_normal_sample_from_collapsed_and_stretched_ones():
    random = torch.Generator().manual_seed(0)
    normal = torch.randn(2000, 16, generator=random)

    def score(x):
        return float(sigreg(x, torch.Generator().manual_seed(1)))

    assert score(normal) < 2.0
    assert score(normal * 0.1) > 50 * score(normal)
    assert score(normal * 3.0) > 50 * score(normal)
    narrow = normal.clone()
    narrow[:, 8:] = 0.0
    assert score(narrow) > 5 * score(normal)


def test_a_clock_does_not_pass_for_a_normal_sample():
    """Latents that tell the step of the clip, the same in every clip, are collapsed."""
    random = torch.Generator().manual_seed(0)
    normal = torch.randn(16, 40, 24, generator=random)
    clock = torch.randn(1, 40, 24, generator=random).expand(16, -1, -1)
    mixed = (normal + 3 * clock) / 10**0.5
    assert sigreg(mixed.flatten(0, 1), random) < 20  # as one sample it is nearly normal
    honest = sigreg_at_each_step(normal, random)
    assert sigreg_at_each_step(mixed, random) > 5 * honest
    assert sigreg_at_each_step(clock, random) > 5 * honest


@pytest.mark.parametrize("seed", range(20))
def test_masks_split_the_tokens_evenly_over_the_batch(seed):
    mask = multiblock(MICRO, 3, 6, torch.Generator().manual_seed(seed))
    tokens = 6 * MICRO.tokens_per_step
    for seen, wanted in zip(mask.seen.tolist(), mask.wanted.tolist(), strict=True):
        assert seen
        assert wanted
        assert not set(seen) & set(wanted)
        assert set(seen) | set(wanted) <= set(range(tokens))


def test_spread_meters_tell_collapse():
    random = torch.Generator().manual_seed(0)
    full = spread_of(torch.randn(500, 8, generator=random))
    line = spread_of(torch.randn(500, 1, generator=random) * torch.ones(8))
    point = spread_of(torch.ones(500, 8) + 1e-6 * torch.randn(500, 8, generator=random))
    assert full.effective_rank > 7.5
    assert line.effective_rank < 1.1
    assert point.dimension_std < 1e-3
    guard = CollapseGuard(2.0)
    guard.watch(1, line)
    guard.watch(2, full)
    guard.watch(3, line)
    guard.watch(4, line)
    with pytest.raises(CheckFailedError, match="collapsed by step 5"):
        guard.watch(5, line)


@pytest.mark.parametrize("split", ["future", "multiblock", "both"])
@pytest.mark.parametrize("target", ["ema", "shared"])
def test_training_lowers_the_loss_and_moves_only_what_it_should(tmp_path, split, target):
    run = a_run(tmp_path, split=split, target=target, steps=12, learning_rate=3e-3)
    slow = run.learner.target
    before = None if slow is None else [p.clone() for p in slow.parameters()]
    clips = store()
    batch = clips.draw(8, np.random.default_rng(5))

    def loss_of_each_split():
        turns = [torch.Generator().manual_seed(seed) for seed in range(6)]
        with torch.no_grad():
            return sum(float(sum(run.learner(batch, turn).values())) for turn in turns)

    at_first = loss_of_each_split()
    for run.step in range(12):
        run._train_step(clips)
    assert loss_of_each_split() < at_first
    if before is not None:
        assert any(not torch.equal(a, b) for a, b in zip(before, slow.parameters(), strict=True))
        assert all(p.grad is None for p in slow.parameters())


def test_context_sees_the_first_part_and_the_target_the_rest(tmp_path):
    """80/20 of time: changing the last steps must not change what the predictor reads."""
    run = a_run(tmp_path, target="ema", target_view="future")
    batch = store().draw(2, np.random.default_rng(0))
    seen = {}
    run.learner.model.predictor.register_forward_pre_hook(
        lambda _module, given: seen.setdefault("context", []).append(given[0].detach())
    )
    run.learner.target.register_forward_pre_hook(
        lambda _module, given: seen.setdefault("target", []).append(given[0].shape[2])
    )
    for change in (0.0, 1.0):
        later = batch.video.clone()
        later[:, :, 2 * MICRO.window :] += change
        run.learner._future_losses(msgspec.structs.replace(batch, video=later))
    assert seen["context"][0].shape[1] == MICRO.window
    torch.testing.assert_close(seen["context"][0], seen["context"][1])
    assert seen["target"] == [2 * MICRO.horizon] * 2


def test_a_resumed_run_is_the_same_run(tmp_path):
    whole = a_run(tmp_path / "whole", steps=6)
    whole.train(store(), store(2), logger=Silent(), progress=Silent())
    first = a_run(tmp_path / "parts", steps=6)
    first.train = None  # only its first half runs
    for first.step in range(3):
        first._train_step(store())
    first.step = 3
    first.save()
    second = a_run(tmp_path / "parts", steps=6)
    assert second.resume()
    second.train(store(), store(2), logger=Silent(), progress=Silent())
    for a, b in zip(whole.learner.parameters(), second.learner.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_interrupted_run_saves_and_another_setting_is_refused(tmp_path):
    class Impatient(Silent):
        def update(self, step, losses):
            if step == 2:
                raise KeyboardInterrupt

    run = a_run(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.train(store(), store(2), logger=Silent(), progress=Impatient())
    again = a_run(tmp_path)
    assert again.resume()
    assert again.step == 2
    with pytest.raises(InputError, match="other settings"):
        a_run(tmp_path, batch=3).resume()
    state = torch.load(tmp_path / RESUME_FILE, weights_only=True)
    torch.save(
        {name: part for name, part in state.items() if name != "format"}, tmp_path / RESUME_FILE
    )
    with pytest.raises(InputError, match="older jepa-edge"):
        a_run(tmp_path).resume()


def test_settings_are_checked(tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text("stepz = 3\n")
    with pytest.raises(InputError, match="stepz"):
        config_from_flags(recipe, {})
    recipe.write_text("steps = 3\n")
    assert config_from_flags(recipe, {"batch": 7, "seed": None}).batch == 7
    with pytest.raises(WrongUseError, match="objective"):
        config_from_flags(None, {"objective": "l7"})
    with pytest.raises(WrongUseError, match="collapses"):
        TrainConfig(target="shared", sigreg_weight=0.0)


TWO = """
import json, sys, torch
from tests.train.test_train import MICRO, Silent, store
from torch import distributed as dist
from jepa_edge.model.jepa import JEPA
from jepa_edge.train.config import TrainConfig
from jepa_edge.train.learner import Learner, sigreg_at_each_step
from jepa_edge.train.loop import Run
dist.init_process_group("gloo")
config = TrainConfig(out=sys.argv[1], steps=3, batch=2, warmup=1, bf16=False, score_limit=1e-3)
torch.manual_seed(0)
run = Run(Learner(JEPA(MICRO).train(), config), config, torch.device("cpu"))
run.train(store(), store(2), logger=Silent(), progress=Silent())
total = sum(float(p.double().sum()) for p in run.learner.parameters())
print(json.dumps({"rank": dist.get_rank(), "total": total}), flush=True)
dist.destroy_process_group()
"""


def test_the_inverse_head_learns_what_was_done_and_trains_the_encoder(tmp_path):
    run = a_run(tmp_path, steps=60, batch=8, learning_rate=3e-3, inverse_weight=1.0)
    moving = store()
    for recorded in moving.recordings:  # brightness tells what the actions add up to
        shade = (recorded.actions[:, :1].cumsum(0) * 25 + 128).astype(np.uint8).repeat(2, axis=0)
        recorded.frames[:] = shade[:, :, None, None]
        recorded.actions[:, 1:] = 0.0
    first = run._train_step(moving)
    run.step = 1
    before = [p.clone() for p in run.learner.inverse.parameters()]
    run.train(moving, moving, logger=Silent(), progress=Silent())
    after = run._train_step(moving)
    assert after["inverse"] < 0.5 * first["inverse"]
    pairs = zip(before, run.learner.inverse.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs)
    inverse = torch.autograd.grad(
        run.learner(moving.draw(2, np.random.default_rng(0)), torch.Generator())["inverse"],
        run.learner.model.encoder.norm.weight,
    )
    assert float(inverse[0].abs().sum()) > 0


def test_scores_stay_below_their_limit_and_tame_heads_are_left_alone(tmp_path):
    limit = 1e-3
    run = a_run(tmp_path, score_limit=limit, learning_rate=1e-9)
    blocks = run.learner.model.encoder.blocks
    attention = blocks[0].attn
    with torch.no_grad():  # of two heads, the second scores far below the limit
        attention.qkv.weight.mul_(10)
        attention.qkv.weight.view(3, 2, 16, 32)[:2, 1] *= 1e-6
    tame = attention.qkv.weight.detach().clone().view(3, 2, 16, 32)
    clips = store()
    run._train_step(clips)
    assert attention.peak[0] > limit > attention.peak[1]
    kept = attention.qkv.weight.detach().view(3, 2, 16, 32)
    assert torch.allclose(kept[:, 1], tame[:, 1], atol=1e-7)
    assert torch.allclose(kept[2], tame[2], atol=1e-7)
    run._train_step(clips)
    assert attention.peak[0] <= 1.01 * limit


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", "29517", str(script)]
    done = subprocess.run(
        [*command, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={"PYTHONPATH": ".", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(row) for row in done.stdout.splitlines() if row.startswith("{")]
    assert {line["rank"] for line in lines} == {0, 1}
    assert lines[0]["total"] == pytest.approx(lines[1]["total"], rel=1e-12)
