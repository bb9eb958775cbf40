"""The shipped worlds by their Gymnasium names: ``jepa_edge/forest-v0`` and the others."""

from __future__ import annotations

from functools import partial

import gymnasium

from jepa_edge.worlds.record import WORLDS, open_world
from jepa_edge.worlds.world import World


def _made(name: str, *, size: int = 96) -> World:
    return open_world(name, size=size)


for _name in WORLDS:
    gymnasium.register(id=f"jepa_edge/{_name}-v0", entry_point=partial(_made, _name))
