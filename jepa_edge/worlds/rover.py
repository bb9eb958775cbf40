"""A ground rover that drives across a yard to a blue barrel, seen from its own camera."""

from __future__ import annotations

from typing import Any

import numpy as np

from jepa_edge.contract import FloatArray
from jepa_edge.worlds.sound import Impacts, Tone, Wind, per_sample
from jepa_edge.worlds.world import SAMPLES, SUBSTEPS, Trunks, World, gaps, softened

TOP_SPEED_M_S = 1.5
TOP_TURN_RAD_S = 1.5
GOAL_M = 7.0
YARD_M = 6.0
REACHED_M, SHOWN_M = 1.0, 0.85
"""It is there at the one; a picture of the goal is taken at the other: the camera is in front."""
HULL_M, SOFT_M, GAP_M = 0.2, 2.0, 2.0
CRATES = {"open": 4, "yard": 12, "slippery": 12}


class Rover(World):
    """Actions: drive (1.5 m/s) and turn (1.5 rad/s).

    Levels: ``open`` has few crates, ``yard`` many; on ``slippery`` ground the wheels grip late, and
    colours and light are any.
    """

    name = "rover"
    levels = tuple(CRATES)
    usual = "yard"
    camera = "mast"
    action_names = ("drive", "turn")
    state_names = (
        "forward_m_s",
        "left_m_s",
        "yaw_rate_rad_s",
        "clearance_m",
        "clear_left_m",
        "clear_right_m",
        "goal_forward_m",
        "goal_left_m",
        "goal_distance_m",
        "bump_n",
        "goal_ahead_soft_m",
        "goal_aside_soft_m",
        "gap_ahead_m",
        "gap_left_m",
        "gap_right_m",
    )

    def scene(self) -> str:
        """A new yard: crates anywhere, a barrel at the far end."""
        draw, varied = self.np_random.uniform, self.level == "slippery"
        self.crates: Trunks = []
        crates = ""
        while len(self.crates) < CRATES[self.level]:
            x, y = draw(1.2, GOAL_M + 1.5), draw(-YARD_M / 2, YARD_M / 2)
            if np.hypot(x - GOAL_M, y) < 1.2:
                continue
            wide, high, shade = draw(0.15, 0.3), draw(0.2, 0.45), draw(0.6, 1.1)
            self.crates.append((x, y, 1.2 * wide))
            rgb = draw(0, 1, 3) * (1, 0.8, 0.4) if varied else shade * np.array((0.6, 0.45, 0.25))
            crates += (
                f'<geom type="box" size="{wide:.3f} {wide:.3f} {high:.3f}" '
                f'pos="{x:.3f} {y:.3f} {high:.3f}" euler="0 0 {draw(0, 90):.1f}" '
                f'rgba="{rgb[0]:.2f} {rgb[1]:.2f} {rgb[2]:.2f} 1"/>'
            )
        light, ground = draw(0.6, 0.8), np.full(3, 0.5) + draw(-0.08, 0.08)
        if varied:
            light, ground = draw(0.35, 1.0), draw(0.15, 0.7, 3)
        one, two = (" ".join(f"{v:.2f}" for v in ground * share) for share in (1.0, 0.8))
        return f"""<mujoco><visual><quality shadowsize="0"/></visual>
        <asset><texture name="sky" type="skybox" builtin="gradient" width="64" height="64"
          rgb1="0.55 0.7 0.95" rgb2="0.85 0.88 0.9"/>
          <texture name="soil" type="2d" builtin="checker" width="64" height="64"
          rgb1="{one}" rgb2="{two}"/>
          <material name="soil" texture="soil" texrepeat="30 30"/></asset>
        <worldbody><light pos="0 0 9" dir="0.2 0.1 -1" directional="true"
          diffuse="{light:.2f} {light:.2f} {light:.2f}" ambient="0.3 0.3 0.3"/>
        <geom type="plane" size="30 30 0.1" material="soil" contype="0" conaffinity="0"/>{crates}
        <geom name="goal" type="cylinder" size="0.3 0.5" pos="{GOAL_M} 0 0.5" rgba="0.1 0.2 1 1"
          contype="0" conaffinity="0"/>
        <body name="rover" pos="0 0 0.15">
          <joint name="x" type="slide" axis="1 0 0"/><joint name="y" type="slide" axis="0 1 0"/>
          <joint name="yaw" type="hinge" axis="0 0 1"/>
          <geom name="hull" type="box" size="0.2 0.16 0.08" mass="8" rgba="0.2 0.2 0.2 1"/>
          <camera name="mast" pos="0.22 0 0.3" xyaxes="0 -1 0 0.15 0 1" fovy="75"/>
        </body></worldbody></mujoco>"""

    def begin(self) -> None:
        """At the near end, looking about where the barrel is."""
        draw = self.np_random.uniform
        self.motor, self.knocks = Tone((0.6, 0.3, 0.1)), Impacts((90.0, 210.0, 480.0), 0.08)
        self.gravel = Wind(np.random.default_rng(int(self.np_random.integers(2**31))))
        self.grip = 2.0 if self.level == "slippery" else 6.0
        self.data.qpos[:] = 0.0, draw(-1.5, 1.5), draw(-0.5, 0.5)
        if self.roams:
            self._begin_anywhere()
        if self.shows_goal:
            self.data.qpos[:] = GOAL_M - SHOWN_M, 0.0, 0.0
        self.collisions, self.touching, self.bump_n = 0, False, 0.0
        self.distance = float(np.hypot(*self._goal()))
        self.progress = 0.0

    def place(self) -> np.ndarray[Any, Any]:
        """Of the hull, on the ground."""
        return np.asarray(self.data.qpos[:2])

    def begin_step(self) -> None:
        """Empty records of what will sound."""
        self.rolled: list[float] = []
        self.strikes: list[tuple[int, float]] = []
        self.bump_n = 0.0

    def drive(self, action: FloatArray) -> None:
        """Wheels that pull towards the wanted speed as far as they grip, and never sideways."""
        yaw = self.data.qpos[2]
        ahead, left = np.array((np.cos(yaw), np.sin(yaw))), np.array((-np.sin(yaw), np.cos(yaw)))
        velocity = self.data.qvel[:2]
        lack = float(action[0]) * TOP_SPEED_M_S - velocity @ ahead
        pull = np.clip(self.grip * lack, -4, 4) * ahead - self.grip * (velocity @ left) * left
        self.data.qfrc_applied[:2] = 8.0 * pull
        inertia = self.model.body_inertia[1][2]
        spin = float(action[1]) * TOP_TURN_RAD_S - self.data.qvel[2]
        self.data.qfrc_applied[2] = inertia * 1.5 * self.grip * spin

    def listen(self, substep: int) -> None:
        """How fast the wheels turn; a new contact knocks."""
        self.rolled.append(float(np.hypot(*self.data.qvel[:2]) + 0.3 * abs(self.data.qvel[2])))
        touching = self.data.ncon > 0
        if touching and not self.touching:
            self.collisions += 1
            hit = float(np.hypot(*self.data.qvel[:2]))
            self.strikes.append((substep * SAMPLES // SUBSTEPS, min(0.5, 0.1 + 0.3 * hit)))
        self.bump_n = max(self.bump_n, float(np.abs(self.data.qfrc_constraint[:2]).max()))
        self.touching = touching

    def sound(self) -> FloatArray:
        """The motor's hum, gravel under the wheels, and knocks."""
        speed = per_sample(np.array(self.rolled, np.float32), SAMPLES)
        out = self.motor.render(60 + 120 * speed, np.float32(0.04) + np.float32(0.06) * speed)
        out = out + self.gravel.render(np.float32(0.1) * speed)
        return out + self.knocks.render(self.strikes, SAMPLES)

    def state(self) -> list[float]:
        """Body-frame motion, what is ahead, and where the barrel is."""
        yaw, (vx, vy) = self.data.qpos[2], self.data.qvel[:2]
        ahead, left = self._goal()
        before, self.distance = self.distance, float(np.hypot(ahead, left))
        self.progress = before - self.distance
        return [
            float(np.cos(yaw) * vx + np.sin(yaw) * vy),
            float(-np.sin(yaw) * vx + np.cos(yaw) * vy),
            float(self.data.qvel[2]),
            *(self._clearance(way) for way in (0.0, 0.4, -0.4)),
            ahead,
            left,
            self.distance,
            min(self.bump_n, 200.0),
            *softened(self.distance, float(np.arctan2(left, ahead)), far_m=SOFT_M),
            *gaps(self.data.qpos[:2], yaw, self.crates, hull_m=HULL_M, far_m=GAP_M),
        ]

    def reward(self) -> float:
        """Metres come closer, less a metre while touching anything."""
        return self.progress - float(self.touching)

    def finished(self) -> bool:
        """At the barrel."""
        return self.distance < REACHED_M

    def info(self) -> dict[str, Any]:
        """Whether it is at the barrel, and the bumps so far."""
        return {"success": self.distance < REACHED_M, "collisions": self.collisions}

    def expert(self) -> FloatArray:
        """Turns to the way near the barrel's bearing where the hull fits, and backs off crates."""
        ahead, left = self._goal()
        bearing = np.clip(np.arctan2(left, ahead), -1.5, 1.5)
        ways = np.linspace(-1.5, 1.5, 21)
        far = [min(self._clearance(float(way)), 2.0, self.distance) for way in ways]
        padded = np.pad(far, 2, mode="edge")
        fits = np.min([padded[i : i + len(ways)] for i in range(5)], axis=0)
        way = float(ways[int(np.argmax(fits - 0.5 * np.abs(ways - bearing)))])
        nearest = float(fits[6:15].min())
        drive = (nearest - 0.35) / 0.4 * max(0.0, np.cos(1.3 * way)) if nearest > 0.35 else -0.6
        return np.array(np.clip([drive, 1.5 * way], -1, 1), np.float32)

    def nominal(self, actions: FloatArray) -> FloatArray:
        """A unicycle that does at once what it is told, and no crates."""
        ahead, left = self._goal()
        spin, speed = TOP_TURN_RAD_S * actions[..., 1], TOP_SPEED_M_S * actions[..., 0]
        return self.unicycle(np.array((ahead, left)), speed, np.zeros_like(speed), spin)

    def _begin_anywhere(self) -> None:
        """Between the crates and rolling: a third near the barrel, a third before a crate."""
        draw = self.np_random.uniform
        while True:
            kind, aim = draw(), draw(-0.6, 0.6)
            x, y = draw(-0.5, GOAL_M), draw(-YARD_M / 2, YARD_M / 2)
            if kind < 1 / 3:
                far, way = np.exp(draw(np.log(0.5), np.log(3.0))), draw(-np.pi, np.pi)
                x, y = GOAL_M + far * np.cos(way), far * np.sin(way)
            elif kind < 2 / 3:
                x, y, _ = self.crates[int(draw(0, len(self.crates)))]
                far, way = draw(0.6, 1.6), np.arctan2(-y, GOAL_M - x) + draw(-0.8, 0.8)
                x, y = x - far * np.cos(way), y - far * np.sin(way)
            if all(np.hypot(x - cx, y - cy) > wide + 0.3 for cx, cy, wide in self.crates):
                break
        yaw, speed = float(np.arctan2(-y, GOAL_M - x) + aim), draw(-0.3, TOP_SPEED_M_S)
        self.data.qpos[:] = x, y, yaw
        self.data.qvel[:] = speed * np.cos(yaw), speed * np.sin(yaw), draw(-0.8, 0.8)

    def _goal(self) -> tuple[float, float]:
        """Metres to the barrel, ahead and to the left."""
        x, y, yaw = self.data.qpos[:3]
        dx, dy = GOAL_M - x, -y
        c, s = np.cos(yaw), np.sin(yaw)
        return float(c * dx + s * dy), float(-s * dx + c * dy)

    def _clearance(self, way: float) -> float:
        """Metres from the hull's middle to the first crate at `way` from the heading."""
        return self.clear_m(self.data.xpos[1].copy(), float(self.data.qpos[2]) + way)
