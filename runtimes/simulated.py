"""A Gymnasium environment as camera, microphone and controller at once: the loop, closed.

``--camera gym:forest --controller gym`` flies one of the shipped worlds. Any environment works
whose observation holds ``frames [2, H, W, 3]`` uint8 and, for a model that hears, ``samples [n]``,
one step of each, and that takes the height of its pictures as ``size``. ``gym:module:id?seed=3``
imports ``module`` first, as `gymnasium.make` does.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from jepa_edge.contract import FloatArray, InputError, MissingExtraError, Senses, WrongUseError
from jepa_edge.front import stderr
from jepa_edge.runtimes.loop import Tick
from jepa_edge.runtimes.sources import StepData, heard_in, seen

SHIPPED = "jepa_edge.worlds.gym:jepa_edge/{}-v0"


class Simulated:
    """Source and sink of one simulated robot: it does each action for one step, then rests.

    The environment is stepped where its steps are asked for (a renderer belongs to one thread); an
    action that comes too late for its step is not done at all.
    """

    def __init__(self, uri: str, senses: Senses, *, fast: bool, repeat: bool) -> None:
        """Makes the environment of ``gym:ID?seed=N``.

        Raises `WrongUseError` for another one, `MissingExtraError` without Gymnasium.
        """
        name, _, query = uri.removeprefix("gym:").partition("?")
        self.name, self.senses, self.fast, self.repeat = name, senses, fast, repeat
        self.seed = _seed(query)
        size = senses.video.height if senses.video else 96
        self.env = _made(name, size)
        self.width = int(np.prod(self.env.action_space.shape))
        self._action: FloatArray | None = None

    def steps(self) -> Generator[StepData]:
        """The steps until the episode ends; with `repeat`, the next scene follows."""
        given = 0
        while True:
            for step in self._episode(given):
                yield step
                given += 1
            if not self.repeat:
                return
            self.seed += 1

    def take(self, tick: Tick) -> bool:
        """Does the action of a tick during the next step; without one, the robot rests.

        Raises `WrongUseError` when the model has another number of actions than the robot.
        """
        if tick.action is not None and len(tick.action) != self.width:
            raise WrongUseError(
                f"gym:{self.name} takes {self.width} actions, the model gives {len(tick.action)}"
            )
        action = None if tick.action is None else np.asarray(tick.action, np.float32)
        self._action = action
        return True

    def close(self) -> None:
        """Frees the environment."""
        self.env.close()

    def _episode(self, first: int) -> Generator[StepData]:
        observed, info = self.env.reset(seed=self.seed)
        before, ended, count = None, False, 0
        began_s = time.monotonic()
        while not ended:
            yield self._seen(observed, before, first + count)
            before, count = observed.get("samples"), count + 1
            if not self.fast:
                time.sleep(max(0.0, began_s + count * self.senses.step_s - time.monotonic()))
            observed, _, terminated, truncated, info = self.env.step(self._next_action())
            ended = terminated or truncated
        told = ", ".join(f"{key} {value}" for key, value in info.items())
        stderr.print(f"gym:{self.name} seed {self.seed}: ended after {count} steps; {told}")

    def _next_action(self) -> FloatArray:
        """The action that came since the last step, once; or rest."""
        action, self._action = self._action, None
        rest = np.zeros(self.env.action_space.shape, np.float32)
        return rest if action is None else action.reshape(rest.shape)

    def _seen(self, observed: dict[str, Any], before: FloatArray | None, index: int) -> StepData:
        try:
            frames, samples = observed["frames"], observed.get("samples")
            video = seen(np.asarray(frames, np.uint8), self.senses)
            audio = heard_in(samples, before, self.senses)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(
                f"gym:{self.name} gives no frames [2, H, W, 3] and samples [n] ({error!r})"
            ) from error
        return StepData(index=index, captured_ns=time.monotonic_ns(), video=video, audio=audio)


def _seed(query: str) -> int:
    options = dict(parse_qsl(query))
    if set(options) - {"seed"} or not options.get("seed", "0").isdigit():
        raise WrongUseError(f"gym:…?{query}: the one option is seed, a number")
    return int(options.get("seed", "0"))


def _made(name: str, size: int) -> Any:  # noqa: ANN401  (an environment of any kind)
    try:
        import gymnasium
    except ImportError as error:
        raise MissingExtraError("gymnasium", "sim") from error
    identity = name if ":" in name else SHIPPED.format(name)
    try:
        return gymnasium.make(identity, size=size, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError) as error:
        raise WrongUseError(f"no environment gym:{name}: {error}") from error
