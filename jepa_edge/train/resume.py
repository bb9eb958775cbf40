"""What a run goes on from after it was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch

from jepa_edge.contract import InputError
from jepa_edge.model.checkpoint import FORMAT
from jepa_edge.train.config import TrainConfig

RESUME_FILE = "resume.pt"


def save_state(config: TrainConfig, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain values) into the run's folder, whole or not at all."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    known = {"format": FORMAT, "config": msgspec.json.encode(config).decode()}
    part = out / (RESUME_FILE + ".part")
    torch.save(known | state, part)
    part.replace(out / RESUME_FILE)


def saved_state(config: TrainConfig, device: torch.device) -> dict[str, Any] | None:
    """What the run's folder holds; None for a new run.

    Raises `InputError` when that run had other settings (only the last stage may grow).
    """
    file = Path(config.out) / RESUME_FILE
    if not file.is_file():
        return None
    state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    if state.get("format") != FORMAT:
        raise InputError(
            f"{config.out} holds a run of an older jepa-edge, with weights in another order; "
            "choose another --out, or remove it"
        )
    before = msgspec.json.decode(state["config"], type=TrainConfig)
    last = "rollout_steps" if config.rollout_steps else "steps"
    if msgspec.structs.replace(before, **{last: getattr(config, last)}) != config:
        raise InputError(
            f"{config.out} holds a run with other settings; choose another --out, or remove it"
        )
    return state
