"""An arm on a table that reaches for a cube and pushes it, seen by one camera."""

from __future__ import annotations

from typing import Any

import msgspec
import mujoco
import numpy as np

from jepa_edge.contract import FloatArray
from jepa_edge.worlds.sound import Impacts, Tone, per_sample
from jepa_edge.worlds.world import AT_REST, SAMPLES, STEP_S, SUBSTEPS, Observation, World

REACH_M = 0.12
"""How far the hand moves in one step at full action."""
JOINTS = 4
CUBE_M = 0.045
"""Half an edge."""


class _Look(msgspec.Struct, frozen=True, kw_only=True):
    """Pieces of MJCF that a level changes."""

    assets: str
    light: str
    table: str
    things: str
    camera: str


_LAB = _Look(assets="", light="0.7 0.7 0.7", table="", things="", camera="1.2 0 0.75")


def _spaced(numbers: np.ndarray[Any, Any]) -> str:
    return " ".join(f"{number:.3f}" for number in numbers)


class Reach(World):
    """Actions: hand velocity along x, y, z (0.6 m/s), and the wrist's pitch rate.

    Levels: ``plain`` is one lab; ``varied`` has any light, colours and patterns, a camera that was
    put up by hand, and things on the table that are not the cube.
    """

    name = "reach"
    levels = ("plain", "varied")
    camera = "front"
    action_names = ("x", "y", "z", "wrist")
    state_names = (
        "base_rad",
        "shoulder_rad",
        "elbow_rad",
        "wrist_rad",
        "hand_x_m",
        "hand_y_m",
        "hand_z_m",
        "cube_x_m",
        "cube_y_m",
        "cube_z_m",
        "hand_cube_m",
        "contact_n",
        "joint_speed_rad_s",
    )

    def scene(self) -> str:
        """A grey table, an arm, a coloured cube: light, shades and places vary as in one lab."""
        draw = self.np_random.uniform
        table, arm = np.full(3, draw(0.42, 0.56)), np.full(3, draw(0.6, 0.85))
        hue = np.roll([1.0, draw(0.0, 0.5), draw(0.0, 0.25)], int(self.np_random.integers(3)))
        angle, far = draw(-0.8, 0.8), draw(0.35, 0.6)
        x, y = far * np.cos(angle), far * np.sin(angle)

        look = self._varied() if self.level == "varied" else _LAB

        def colour(rgb: Any) -> str:  # noqa: ANN401
            return f"{rgb[0]:.2f} {rgb[1]:.2f} {rgb[2]:.2f} 1"

        return f"""<mujoco><visual><quality shadowsize="0"/></visual>
        <option integrator="implicitfast"/>{look.assets}
        <worldbody><light pos="{draw(-1, 1):.2f} {draw(-1, 1):.2f} 2.5"
          dir="0 0 -1" diffuse="{look.light}" ambient="0.35 0.35 0.35"/>
        <geom name="table" type="box" size="0.8 0.8 0.02" pos="0.3 0 -0.02"
          rgba="{colour(table)}" {look.table}/>{look.things}
        <camera name="front" pos="{look.camera}" xyaxes="0 1 0 -0.6 0 0.8" fovy="56"/>
        <body name="base" pos="0 0 0.05"><geom type="cylinder" size="0.07 0.05"
            rgba="0.2 0.2 0.2 1" contype="0" conaffinity="0"/>
          <joint name="base" axis="0 0 1" damping="2"/>
          <body name="upper" pos="0 0 0.08"><joint name="shoulder" axis="0 1 0" damping="2"/>
            <geom type="capsule" fromto="0 0 0 0 0 0.35" size="0.035" rgba="{colour(arm)}"
              contype="0" conaffinity="0"/>
            <body name="fore" pos="0 0 0.35"><joint name="elbow" axis="0 1 0" damping="2"/>
              <geom type="capsule" fromto="0 0 0 0 0 0.32" size="0.028"
                rgba="{colour(arm * 0.8)}" contype="0" conaffinity="0"/>
              <body name="wrist" pos="0 0 0.32"><joint name="wrist" axis="0 1 0" damping="1"/>
                <geom name="hand" type="capsule" fromto="0 0 0 0 0 0.08" size="0.024"
                  rgba="0.95 0.75 0.1 1"/>
                <site name="tip" pos="0 0 0.1"/></body></body></body></body>
        <body name="cube" pos="{x:.3f} {y:.3f} {CUBE_M}"><freejoint/>
          <geom name="cube" type="box" size="{CUBE_M} {CUBE_M} {CUBE_M}" mass="0.15"
            friction="0.5 0.01 0.001" rgba="{colour(hue)}"/></body></worldbody>
        <actuator><position joint="base" kp="60"/><position joint="shoulder" kp="90"/>
          <position joint="elbow" kp="60"/><position joint="wrist" kp="20"/></actuator></mujoco>"""

    def _varied(self) -> _Look:
        """Any light, patterns, a shaken camera, and flat things that are not the cube."""
        draw, kind = self.np_random.uniform, ("checker", "gradient", "flat")
        pattern = kind[int(self.np_random.integers(3))]
        one, two, light = (_spaced(draw(low, 1.0, 3)) for low in (0.2, 0.2, 0.45))
        things = "".join(
            f'<geom type="{("box", "cylinder")[int(self.np_random.integers(2))]}" '
            f'size="{draw(0.02, 0.07):.3f} {draw(0.02, 0.07):.3f} 0.004" '
            f'pos="{draw(0.0, 0.9):.3f} {draw(-0.6, 0.6):.3f} 0.004" '
            f'rgba="{_spaced(draw(0, 1, 3))} 1" contype="0" conaffinity="0"/>'
            for _ in range(5)
        )
        camera = np.array((1.2, 0.0, 0.75)) + draw(-0.03, 0.03, 3)
        return _Look(
            assets=f'<asset><texture name="top" type="2d" builtin="{pattern}" width="64" '
            f'height="64" rgb1="{one}" rgb2="{two}"/><material name="top" texture="top" '
            f'texrepeat="{draw(1, 8):.1f} {draw(1, 8):.1f}"/></asset>',
            light=light,
            table='material="top"',
            things=things,
            camera=_spaced(camera),
        )

    def begin(self) -> None:
        """The arm half folded over the table."""
        start = (self.np_random.uniform(-0.6, 0.6), 0.3, 1.7, 0.7)
        if self.roams:
            start = tuple(self.np_random.uniform((-1.0, -0.1, 0.9, -0.3), (1.0, 1.0, 2.2, 1.2)))
        self.data.qpos[:JOINTS] = start
        self.targets = np.array(start)
        self.servos = [Tone((0.6, 0.25, 0.15)) for _ in range(JOINTS)]
        self.knocks = Impacts((640.0, 1480.0, 2750.0), 0.03)
        self.collisions, self.touched, self.force = 0, False, 0.0
        self.tip = self.model.site("tip").id
        self.pair = {self.model.geom("hand").id, self.model.geom("cube").id}
        mujoco.mj_forward(self.model, self.data)
        self.distance = self._distance()
        self.progress = 0.0

    def place(self) -> np.ndarray[Any, Any]:
        """Of the hand."""
        return np.asarray(self.data.site_xpos[self.tip])

    def demonstrate(self, seed: int, steps: int) -> list[Observation] | None:
        """The script's way to the cube, and at rest there."""
        first, _ = self.reset(seed=seed)
        shown = [first]
        for _ in range(steps):
            seen, _, finished, *_ = self.step(self.expert())
            shown.append(seen)
            if finished:
                return [*shown, *(self.step(self.rest())[0] for _ in range(AT_REST))]
        return None

    def begin_step(self) -> None:
        """Empty records of what will sound."""
        self.speeds: list[np.ndarray[Any, Any]] = []
        self.strikes: list[tuple[int, float]] = []
        self.peak_n = 0.0

    def drive(self, action: FloatArray) -> None:
        """Damped least squares from hand to joint velocity (Buss 2004), held in reach."""
        jacobian = np.zeros((3, self.model.nv))
        mujoco.mj_jacSite(self.model, self.data, jacobian, None, self.tip)
        jac = jacobian[:, : JOINTS - 1]
        wanted = np.asarray(action[:3], np.float64) * REACH_M / STEP_S
        if self.data.site_xpos[self.tip][2] < 0.02:
            wanted[2] = max(wanted[2], 0.05)
        joint = jac.T @ np.linalg.solve(jac @ jac.T + 0.004 * np.eye(3), wanted)
        rate = np.append(np.clip(joint, -2.5, 2.5), 1.5 * float(action[3]))
        moved = self.targets + rate * self.model.opt.timestep
        lag = np.clip(moved - self.data.qpos[:JOINTS], -0.25, 0.25)
        bounds = (-1.2, -0.6, 0.2, -1.5), (1.2, 1.6, 2.6, 1.8)
        self.targets = np.clip(self.data.qpos[:JOINTS] + lag, *bounds)
        self.data.ctrl[:] = self.targets

    def listen(self, substep: int) -> None:
        """Joint speeds; a new touch of the cube knocks by its force."""
        self.speeds.append(np.abs(self.data.qvel[:JOINTS]).copy())
        force = 0.0
        for index in range(self.data.ncon):
            contact = self.data.contact[index]
            if {int(contact.geom1), int(contact.geom2)} == self.pair:
                wrench = np.zeros(6)
                mujoco.mj_contactForce(self.model, self.data, index, wrench)
                force += float(np.linalg.norm(wrench[:3]))
        if force > 0 and self.force == 0:
            self.collisions += 1
            self.strikes.append((substep * SAMPLES // SUBSTEPS, min(0.6, 0.15 + 0.03 * force)))
        self.force = force
        self.peak_n = max(self.peak_n, force)
        self.touched = self.touched or force > 0

    def sound(self) -> FloatArray:
        """Whining servos, and knocks on the cube."""
        speeds = np.array(self.speeds, np.float32)
        out = np.zeros(SAMPLES, np.float32)
        for index, servo in enumerate(self.servos):
            fast = per_sample(speeds[:, index], SAMPLES)
            pitch = np.float32(260 + 70 * index) + np.float32(280) * fast
            out += servo.render(pitch, np.float32(0.06) * np.minimum(fast, 1.5))
        return out + self.knocks.render(self.strikes, SAMPLES)

    def state(self) -> list[float]:
        """Joint angles, hand and cube places, and the contact between them."""
        before, self.distance = self.distance, self._distance()
        self.progress = before - self.distance
        return [
            *map(float, self.data.qpos[:JOINTS]),
            *map(float, self.data.site_xpos[self.tip]),
            *map(float, self.data.qpos[JOINTS : JOINTS + 3]),
            self.distance,
            min(self.peak_n, 20.0),
            float(np.mean([speed.sum() for speed in self.speeds])),
        ]

    def reward(self) -> float:
        """Metres come closer to the cube."""
        return self.progress

    def finished(self) -> bool:
        """The hand has touched the cube."""
        return self.touched

    def info(self) -> dict[str, Any]:
        """Success, and touches so far."""
        return {"success": self.touched, "collisions": self.collisions}

    def expert(self) -> FloatArray:
        """Straight to the cube, from a little above."""
        way = self.data.qpos[JOINTS : JOINTS + 3] - self.data.site_xpos[self.tip]
        flat = float(np.hypot(way[0], way[1]))
        lift = min(0.1, flat / 2) if flat > 0.06 else 0.0
        goal = (way + np.array([0.0, 0.0, lift])) / REACH_M
        size = max(1.0, float(np.abs(goal).max()))
        return np.append(goal / size, 0.0).astype(np.float32)

    def nominal(self, actions: FloatArray) -> FloatArray:
        """A hand that moves at once as it is told."""
        way = self.data.qpos[JOINTS : JOINTS + 3] - self.data.site_xpos[self.tip]
        moved = REACH_M * np.cumsum(actions[..., :3], axis=1)
        return np.asarray(np.linalg.norm(way - moved, axis=2), np.float32)

    def _distance(self) -> float:
        way = self.data.qpos[JOINTS : JOINTS + 3] - self.data.site_xpos[self.tip]
        return float(np.linalg.norm(way))
