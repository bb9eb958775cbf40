"""Where each step is encoded alone, a rollout's history is still of as many steps as it needs."""

import numpy as np

from jepa_edge.bundle import ModelFacts
from jepa_edge.contract import Senses, TensorSpec, VideoSpec
from jepa_edge.media.clips import Clip
from jepa_edge.runtimes.feeds import Feeder

SENSES = Senses(video=VideoSpec(height=4, width=4), audio=None)


def test_history_is_the_latents_of_consecutive_steps():
    facts = ModelFacts(
        name="stepwise",
        window=1,
        tokens_per_step=1,
        latent_dim=1,
        pooled_dim=1,
        horizon=0,
        attention="bidirectional",
        history=2,
        action_dim=2,
        rollout_horizon=3,
        candidates=4,
    )

    def call(graph, given):
        if graph == "encoder":
            return {"pooled": given["video"][:, :1, -1, 0, 0][None], "latents": np.zeros((1, 1, 1))}
        return {"rollout": np.zeros((4, 3, 1), np.float32)}

    steps = 3
    video = np.repeat(np.arange(steps, dtype=np.float32), 2)[None, :, None, None]
    clip = Clip(name="clip", video=np.broadcast_to(video, (3, 2 * steps, 4, 4)), audio=None)
    inputs = {"rollout": [TensorSpec(name="history", shape=(1, 2, 1))]}
    feeder = Feeder(inputs=inputs, outputs={}, facts=facts, senses=SENSES, call=call)
    (feed,) = feeder.feeds("rollout", [clip])
    assert feed.inputs["history"].tolist() == [[[0.0], [1.0]]]
