"""What all simulated robots share: one step is two frames, 0.2 s of sound, and the state."""

from __future__ import annotations

from typing import Any

import numpy as np

from jepa_edge.contract import (
    FRAMES_PER_STEP,
    FloatArray,
    InputError,
    MissingExtraError,
    WrongUseError,
)
from jepa_edge.worlds.sound import SAMPLE_RATE

NO_OPENGL = (
    "no software OpenGL to render with; on Debian install it with: "
    "apt-get install libegl1 libgl1-mesa-dri"
)

try:
    import gymnasium
    import mujoco

    from jepa_edge.worlds.eye import Eye
except ImportError as missing:
    raise MissingExtraError("mujoco or gymnasium", "sim") from missing
except AttributeError as missing:  # PyOpenGL, of an EGL that is not there
    raise InputError(NO_OPENGL) from missing

STEP_S = 0.2
TIMESTEP_S = 0.005
SEEN_AHEAD_M = 10.0
SUBSTEPS = round(STEP_S / TIMESTEP_S)
SAMPLES = round(STEP_S * SAMPLE_RATE)


AT_REST = 8
"""Steps that a demonstration stays at the goal: its latent should not tell how it came there."""

Trunks = list[tuple[float, float, float]]
"""Upright things in the way: x, y and radius."""

Observation = dict[str, Any]
"""`frames [2, H, W, 3]` uint8, `samples [3200]` and `state [D]` of one step."""


class World(gymnasium.Env[dict[str, Any], FloatArray]):
    """A MuJoCo robot with a camera and a microphone; deterministic for a seed and its actions."""

    name = ""
    camera = ""
    levels: tuple[str, ...] = ("plain",)
    """Difficulties, easiest first."""
    usual = "plain"
    """The level when none is asked for."""
    state_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  (Gymnasium's)

    def __init__(
        self, size: int = 96, level: str | None = None, render_mode: str | None = "rgb_array"
    ) -> None:
        self.level = level or self.usual
        if self.level not in self.levels:
            raise WrongUseError(
                f"{self.name} has no level {level!r}; known: {', '.join(self.levels)}"
            )
        self.size = size
        self.render_mode = render_mode
        box = gymnasium.spaces.Box
        self.action_space = box(-1.0, 1.0, (len(self.action_names),), np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "frames": box(0, 255, (FRAMES_PER_STEP, size, size, 3), np.uint8),
                "samples": box(-1.0, 1.0, (SAMPLES,), np.float32),
                "state": box(-np.inf, np.inf, (len(self.state_names),), np.float32),
            }
        )
        self._eye: Eye | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new scene drawn from `seed`; the observation is one step of rest.

        With the option ``roam`` the robot begins anywhere: how exploring episodes are recorded.
        With ``show_goal`` it begins where it is to go: how a picture of the goal is taken.
        """
        super().reset(seed=seed, options=options)
        self.roams = bool((options or {}).get("roam"))
        self.shows_goal = bool((options or {}).get("show_goal"))
        self.close()
        self.model = mujoco.MjModel.from_xml_string(self.scene())
        self.model.opt.timestep = TIMESTEP_S
        self.data = mujoco.MjData(self.model)
        self.fog_m, self.path_m = 0.0, 0.0
        self.begin()
        if self.fog_m:
            self.model.vis.map.fogstart = 0.2 * self.fog_m / self.model.stat.extent
            self.model.vis.map.fogend = self.fog_m / self.model.stat.extent
        mujoco.mj_forward(self.model, self.data)
        return self._advance(self.rest()), self.info()

    def step(self, action: FloatArray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Holds `action [A]` in [-1, 1] for 0.2 s."""
        before = self.place().copy()
        seen = self._advance(np.clip(np.asarray(action, np.float32), -1.0, 1.0))
        self.path_m += float(np.linalg.norm(self.place() - before))
        info = {**self.info(), "path_m": self.path_m}
        return seen, self.reward(), self.finished(), False, info

    def demonstrate(self, seed: int, steps: int) -> list[Observation] | None:
        """What is seen and heard at the goal of the scene of `seed`; None if nothing gets there.

        Here the robot is put there; a robot that cannot be put goes there by its script, in at
        most `steps`, and stays for a while.
        """
        del steps
        first, _ = self.reset(seed=seed, options={"show_goal": True})
        return [first, *(self.step(self.rest())[0] for _ in range(AT_REST // 2))]

    def rest(self) -> FloatArray:
        """The action `[A]` that does nothing."""
        return np.zeros(len(self.action_names), np.float32)

    def close(self) -> None:
        """Frees the renderer."""
        if self._eye is not None:
            self._eye.close()
            self._eye = None

    def render(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The camera's view now, `[H, W, 3]` uint8."""
        if self._eye is None:
            try:
                self._eye = Eye(self.model, self.camera, self.size, fog=self.fog_m > 0)
            except Exception as error:
                raise InputError(f"{NO_OPENGL} ({error})") from error
        return self._eye.see(self.data)

    def _advance(self, action: FloatArray) -> dict[str, Any]:
        frames = []
        self.begin_step()
        for index in range(SUBSTEPS):
            self.drive(action)
            mujoco.mj_step(self.model, self.data)
            self.listen(index)
            if (index + 1) % (SUBSTEPS // FRAMES_PER_STEP) == 0:
                mujoco.mj_forward(self.model, self.data)
                frames.append(self.render())
        samples = np.tanh(self.sound()).astype(np.float32)
        state = np.asarray(self.state(), np.float32)
        return {"frames": np.stack(frames), "samples": samples, "state": state}

    # What a robot adds:

    def scene(self) -> str:
        """The MJCF of a new scene, drawn with ``self.np_random``."""
        raise NotImplementedError

    def place(self) -> np.ndarray[Any, Any]:
        """Where the robot (or its hand) is, in metres."""
        raise NotImplementedError

    def begin(self) -> None:
        """Called once after a reset."""

    def begin_step(self) -> None:
        """Called at the start of each step."""

    def drive(self, action: FloatArray) -> None:
        """Sets forces or controls, each 5 ms."""
        raise NotImplementedError

    def listen(self, substep: int) -> None:
        """Keeps what the sound of this step is made from, each 5 ms."""

    def sound(self) -> FloatArray:
        """The step's samples `[3200]`."""
        raise NotImplementedError

    def state(self) -> list[float]:
        """The values of `state_names`."""
        raise NotImplementedError

    def reward(self) -> float:
        """The step's reward."""
        raise NotImplementedError

    def finished(self) -> bool:
        """Whether the goal is reached."""
        raise NotImplementedError

    def info(self) -> dict[str, Any]:
        """What is no observation: success and collisions."""
        raise NotImplementedError

    def expert(self) -> FloatArray:
        """A scripted action `[A]` towards the goal."""
        raise NotImplementedError

    def nominal(self, actions: FloatArray) -> FloatArray:
        """Metres to the goal `[K, J]` after each of `actions [K, J, A]`, by textbook kinematics.

        It knows exactly where the goal is now, but neither wind, lag nor obstacles.
        """
        raise NotImplementedError

    # What robots share:

    def clear_m(self, origin: np.ndarray[Any, Any], angle: float) -> float:
        """Level metres from `origin` to the first thing at `angle` in the world, at most 10."""
        ray = np.array([np.cos(angle), np.sin(angle), 0.0])
        hit = np.zeros(1, np.int32)
        far = mujoco.mj_ray(self.model, self.data, origin, ray, None, 1, 1, hit)
        return float(SEEN_AHEAD_M if far < 0 else min(far, SEEN_AHEAD_M))

    @staticmethod
    def unicycle(
        goal: np.ndarray[Any, Any], ahead: FloatArray, left: FloatArray, spin: FloatArray
    ) -> FloatArray:
        """Distances `[K, J]` to `goal` (ahead, left) of a body at these speeds `[K, J]` a step."""
        yaw = np.cumsum(spin, axis=1) * STEP_S - spin * STEP_S / 2
        x = np.cumsum(np.cos(yaw) * ahead - np.sin(yaw) * left, axis=1) * STEP_S
        y = np.cumsum(np.sin(yaw) * ahead + np.cos(yaw) * left, axis=1) * STEP_S
        return np.asarray(np.hypot(goal[0] - x, goal[1] - y), np.float32)


def softened(distance_m: float, bearing_rad: float, *, far_m: float) -> tuple[float, float]:
    """A goal ahead and to the left, its distance as `far_m` log(1 + distance / far_m).

    Near the goal a metre is a metre; far from it, where a camera tells it less well, it is less.
    """
    soft = far_m * float(np.log1p(distance_m / far_m))
    return soft * float(np.cos(bearing_rad)), soft * float(np.sin(bearing_rad))


def gaps(
    place: np.ndarray[Any, Any], heading: float, trunks: Trunks, *, hull_m: float, far_m: float
) -> tuple[float, float, float]:
    """Metres between the hull and the next trunk: on its way ahead, to the left, to the right.

    At most `far_m`, at least 0. A trunk beside the way counts as farther, the farther beside it
    is; to the sides count those within a radian of the heading: what a camera sees, and a little
    more.
    """
    ahead, left, right = [far_m], [far_m], [far_m]
    for x, y, radius in trunks:
        apart = x - float(place[0]), y - float(place[1])
        way = (np.arctan2(apart[1], apart[0]) - heading + np.pi) % (2 * np.pi) - np.pi
        if abs(way) < 1.0:
            far = float(np.hypot(*apart))
            beside = abs(far * np.sin(way)) - radius - hull_m - 0.2
            ahead.append(far * float(np.cos(way)) - radius - hull_m + 4 * max(0.0, beside))
            (left if way > 0 else right).append(far - radius - hull_m)
    return max(0.0, min(ahead)), max(0.0, min(left)), max(0.0, min(right))
