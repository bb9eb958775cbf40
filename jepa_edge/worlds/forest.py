"""A quadrotor that flies through a forest to a red beacon, seen from its own camera."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from jepa_edge.contract import FloatArray
from jepa_edge.worlds.sound import HOVER_HZ, Impacts, Tone, Wind, per_sample
from jepa_edge.worlds.world import SAMPLES, SUBSTEPS, Trunks, World, gaps, softened

MASS_KG = 1.0
GRAVITY = 9.81
ARM_M = 0.18
TOP_SPEED_M_S = 3.0
FIELD_M = 14.0
GOAL_M = 16.0
REACHED_M, SHOWN_M = 1.5, 1.2
"""It is there at the one; a picture of the goal is taken at the other, where it fills the view."""
SIREN_HZ, SHRILL_HZ, SIREN_GAIN = 900.0, 3200.0, 0.8
EAR_RAD = 1.0
"""Where the microphone's opening looks, to the left of the heading: what is shrill is heard there
best, as by an owl's uneven ears, so that one microphone tells left from right."""
SOUND_M_S = 343.0
CRASH_M_S = 2.5
"""A faster knock ends the flight."""
SOFT_M = 4.0
"""A goal farther than this counts by the logarithm of its distance."""
HULL_M = 0.22
GAP_M = 4.0
"""Trees farther than this are no matter yet."""


class _Level(msgspec.Struct, frozen=True, kw_only=True):
    """One difficulty. In fog nothing farther than `sight_m` is seen, and the beacon has a siren."""

    trees: int
    wind: float = 1.0
    varied: bool = False
    sight_m: float = 0.0


LEVELS = {
    "glade": _Level(trees=10, wind=0.5),
    "grove": _Level(trees=24),
    "forest": _Level(trees=45),
    "storm": _Level(trees=45, wind=2.5, varied=True),
    "fog": _Level(trees=10, wind=0.5, sight_m=4.0),
}


class Forest(World):
    """Actions: forward, left and up velocity (3 m/s), and yaw rate (1.2 rad/s).

    Levels: ``glade``, ``grove`` and ``forest`` have more and more trees, ``storm`` has strong wind
    and any textures and light besides; in ``fog`` the beacon is heard before it is seen.
    """

    name = "forest"
    levels = tuple(LEVELS)
    usual = "forest"
    camera = "eye"
    action_names = ("forward", "left", "up", "yaw_rate")
    state_names = (
        "altitude_m",
        "forward_m_s",
        "left_m_s",
        "up_m_s",
        "yaw_rate_rad_s",
        "roll_rad",
        "pitch_rad",
        "clearance_m",
        "goal_bearing_rad",
        "goal_distance_m",
        "thrust_n",
        "airspeed_m_s",
        "goal_forward_m",
        "goal_left_m",
        "clear_left_m",
        "clear_right_m",
        "goal_ahead_soft_m",
        "goal_aside_soft_m",
        "gap_ahead_m",
        "gap_left_m",
        "gap_right_m",
    )

    def scene(self) -> str:
        """A new forest: trees anywhere, and ground, sky and light in shades of one season."""
        draw = self.np_random.uniform
        trees: list[str] = []
        self.trees: Trunks = []
        while len(trees) < LEVELS[self.level].trees:
            x, y = draw(2.0, GOAL_M + 4.0), draw(-FIELD_M / 2, FIELD_M / 2)
            if np.hypot(x - GOAL_M, y) < 1.5:
                continue
            shade, radius = draw(0.5, 1.3), draw(0.12, 0.35)
            self.trees.append((x, y, radius))
            trunk = f"{0.36 * shade:.3f} {0.24 * shade:.3f} {0.14 * shade:.3f} 1"
            crown = f"{0.1 * shade:.3f} {draw(0.3, 0.6):.3f} {0.12 * shade:.3f} 1"
            trees.append(
                f'<geom type="cylinder" size="{radius:.3f} 2.5" pos="{x:.3f} {y:.3f} 2.5" '
                f'rgba="{trunk}"/><geom type="sphere" size="{radius * 3.2:.3f}" '
                f'pos="{x:.3f} {y:.3f} {draw(4.2, 5.2):.3f}" rgba="{crown}" contype="0" '
                'conaffinity="0"/>'
            )
        light, ground = draw(0.6, 0.8), np.array([0.36, 0.4, 0.3]) + draw(-0.05, 0.05, 3)
        sky = f"{draw(0.5, 0.6):.2f} {draw(0.65, 0.75):.2f} 0.95"
        haze, slant, tiles = "0.85 0.88 0.9", "0.3 0.2 -1", 20
        if LEVELS[self.level].varied:
            light, ground, tiles = draw(0.3, 1.0), draw(0.1, 0.6, 3), int(draw(3, 60))
            sky = " ".join(f"{share:.2f}" for share in draw(0.2, 1.0, 3))
            slant = f"{draw(-1, 1):.2f} {draw(-1, 1):.2f} -1"
        if LEVELS[self.level].sight_m:
            sky = haze
        return f"""<mujoco><visual><quality shadowsize="0" numslices="16" numstacks="8"/>
          <map zfar="60"/><rgba fog="{haze} 1"/></visual>
        <asset><texture name="sky" type="skybox" builtin="gradient" width="64" height="64"
          rgb1="{sky}" rgb2="{haze}"/>
          <texture name="soil" type="2d" builtin="checker" width="64" height="64"
          rgb1="{ground[0]:.2f} {ground[1]:.2f} {ground[2] / 2:.2f}"
          rgb2="{ground[0] * 0.7:.2f} {ground[1] * 0.8:.2f} {ground[2] / 3:.2f}"/>
          <material name="soil" texture="soil" texrepeat="{tiles} {tiles}"/></asset>
        <worldbody><light pos="0 0 20" dir="{slant}" directional="true"
          diffuse="{light:.2f} {light:.2f} {light:.2f}" ambient="0.3 0.3 0.3"/>
        <geom type="plane" size="60 60 0.1" material="soil"/>{"".join(trees)}
        <geom name="goal" type="sphere" size="0.6" pos="{GOAL_M} 0 1.6" rgba="1 0.1 0.1 1"
          contype="0" conaffinity="0"/>
        <geom type="cylinder" size="0.12 0.8" pos="{GOAL_M} 0 0.8" rgba="1 0.8 0.1 1"
          contype="0" conaffinity="0"/>
        <body name="drone" pos="0 {draw(-2, 2):.3f} {draw(1.2, 2.0):.3f}"><freejoint/>
          <inertial pos="0 0 0" mass="{MASS_KG}" diaginertia="0.01 0.01 0.018"/>
          <geom name="hull" type="cylinder" size="0.22 0.05" rgba="0.2 0.2 0.2 1" mass="0"/>
          <camera name="eye" pos="0.24 0 0.03" xyaxes="0 -1 0 0.12 0 1" fovy="80"/>
        </body></worldbody></mujoco>"""

    def begin(self) -> None:
        """Rotors at rest, a wind from somewhere."""
        self.rotors = [Tone((0.5, 0.3, 0.2, 0.1)) for _ in range(4)]
        self.wind_sound = Wind(np.random.default_rng(int(self.np_random.integers(2**31))))
        self.knocks = Impacts((180.0, 420.0, 950.0), 0.05)
        level = LEVELS[self.level]
        self.siren, self.shrill, self.fog_m = Tone((0.7,)), Tone((0.7,)), level.sight_m
        self.wind = level.wind * self.np_random.uniform(-1.0, 1.0, 3) * (1.0, 1.0, 0.3)
        self.gust = np.zeros(3)
        self.thrusts = np.full(4, MASS_KG * GRAVITY / 4)
        self.heading = float(self.np_random.uniform(-0.4, 0.4))
        if self.roams:
            self._begin_anywhere()
        if self.shows_goal:
            self.data.qpos[:3] = GOAL_M - SHOWN_M, 0.0, 1.6
            self.heading = 0.0
        self.data.qpos[3:7] = (np.cos(self.heading / 2), 0, 0, np.sin(self.heading / 2))
        self.collisions, self.touching, self.crashed = 0, False, False
        self.distance = self._goal()[1]
        self.progress = 0.0

    def _begin_anywhere(self) -> None:
        """Between the trees, flying, looking about where the beacon is: what decides is near.

        A third begins near the beacon, a third before a tree, a third anywhere.
        """
        draw = self.np_random.uniform
        while True:
            kind, aim = draw(), draw(-0.6, 0.6)
            if kind < 1 / 3:
                far, way = np.exp(draw(np.log(0.9), np.log(5.0))), draw(-np.pi, np.pi)
                x, y = GOAL_M + far * np.cos(way), far * np.sin(way)
            else:
                x, y = draw(-1.0, GOAL_M + 1.0), draw(-FIELD_M / 2, FIELD_M / 2)
            if kind > 2 / 3:
                x, y, _ = self.trees[int(draw(0, len(self.trees)))]
                way = np.arctan2(-y, GOAL_M - x) + draw(-0.8, 0.8)
                far = draw(0.7, 3.0)
                x, y = x - far * np.cos(way), y - far * np.sin(way)
            if all(np.hypot(x - tx, y - ty) > radius + 0.4 for tx, ty, radius in self.trees):
                break
        self.data.qpos[:3] = x, y, draw(0.8, 3.0)
        self.heading = float(np.arctan2(-y, GOAL_M - x) + aim)
        ahead, left, up = draw((-0.5, -1.2, -0.8), (3.0, 1.2, 0.8))
        c, s = np.cos(self.heading), np.sin(self.heading)
        self.data.qvel[:3] = c * ahead - s * left, s * ahead + c * left, up

    def place(self) -> np.ndarray[Any, Any]:
        """Of the hull."""
        return np.asarray(self.data.qpos[:3])

    def begin_step(self) -> None:
        """A new gust, and empty records of what will sound."""
        self.gust = 0.8 * self.gust + self._gustiness() * self.np_random.standard_normal(3)
        self.heard: list[np.ndarray[Any, Any]] = []
        self.air: list[float] = []
        self.sirens: list[tuple[float, float, float]] = []
        self.strikes: list[tuple[int, float]] = []

    def _gustiness(self) -> FloatArray:
        return np.array((0.5, 0.5, 0.2), np.float32) * np.float32(LEVELS[self.level].wind)

    def drive(self, action: FloatArray) -> None:
        """Velocity control by thrust and tilt (Mellinger & Kumar 2011), and the wind's drag."""
        turn = self.data.xmat[1].reshape(3, 3)
        velocity, spin = self.data.qvel[:3], self.data.qvel[3:6]
        self.speed = float(np.linalg.norm(velocity))
        self.heading += 1.2 * float(action[3]) * self.model.opt.timestep
        c, s = np.cos(self.heading), np.sin(self.heading)
        forward, sideways, climb = np.asarray(action[:3], np.float64) * (1.0, 0.6, 0.5)
        wanted = np.array((c * forward - s * sideways, s * forward + c * sideways, climb))
        floor = max(0.0, 0.5 - self.data.qpos[2]) - max(0.0, self.data.qpos[2] - 3.5)
        lift = np.array([0.0, 0.0, GRAVITY + 8 * floor])
        pull = np.clip(2.5 * (TOP_SPEED_M_S * wanted - velocity), -5, 5) + lift
        up = pull / np.linalg.norm(pull)
        left = _cross(up, np.array((c, s, 0.0)))
        left /= np.linalg.norm(left)
        goal = np.stack((_cross(left, up), left, up), axis=1)
        error = goal.T @ turn - turn.T @ goal
        tilt = 0.5 * np.array([error[2, 1], error[0, 2], error[1, 0]])
        torque = -1.6 * tilt - 0.18 * spin
        thrust = float(np.clip(MASS_KG * pull @ turn[:, 2], 0.5, 25.0))
        roll, pitch, yaw = torque
        mix = np.array([-pitch + roll, pitch + roll, pitch - roll, -pitch - roll]) / (4 * ARM_M)
        self.thrusts = np.clip(thrust / 4 + mix + np.array([1, -1, 1, -1]) * yaw, 0.1, 8.0)
        breeze = self.wind + self.gust - velocity
        self.data.xfrc_applied[1, :3] = turn[:, 2] * thrust + 0.12 * breeze
        self.data.xfrc_applied[1, 3:] = turn @ torque
        self.speed_of_air = float(np.linalg.norm(breeze))

    def listen(self, substep: int) -> None:
        """Rotor thrusts and airspeed; a new contact knocks."""
        self.heard.append(self.thrusts.copy())
        self.air.append(self.speed_of_air)
        if self.fog_m:
            self.sirens.append(self._siren())
        touching = self.data.ncon > 0
        if touching and not self.touching:
            self.collisions += 1
            self.crashed = self.crashed or self.speed > CRASH_M_S
            hit = float(np.linalg.norm(self.data.qvel[:3]))
            self.strikes.append((substep * SAMPLES // SUBSTEPS, min(0.5, 0.2 * hit)))
        self.touching = touching

    def sound(self) -> FloatArray:
        """Four rotors, the wind in the microphone, and knocks."""
        thrusts = np.array(self.heard, np.float32)
        out = np.zeros(SAMPLES, np.float32)
        hover = MASS_KG * GRAVITY / 4
        for index, rotor in enumerate(self.rotors):
            share = per_sample(thrusts[:, index] / hover, SAMPLES)
            pitch = HOVER_HZ * (1 + 0.015 * index) * np.sqrt(share)
            out += rotor.render(pitch.astype(np.float32), np.float32(0.05) * share)
        air = np.square(np.array(self.air, np.float32))
        out += self.wind_sound.render((per_sample(air, SAMPLES) / 60).astype(np.float32))
        if self.sirens:
            doppler, low, high = (
                per_sample(part, SAMPLES) for part in np.array(self.sirens, np.float32).T
            )
            out += self.siren.render(np.float32(SIREN_HZ) * doppler, low)
            out += self.shrill.render(np.float32(SHRILL_HZ) * doppler, high)
        return out + self.knocks.render(self.strikes, SAMPLES)

    def _siren(self) -> tuple[float, float, float]:
        """The beacon's Doppler shift, and how loud its low and its shrill tone are heard.

        Each through a cardioid: the low one's looks ahead, the shrill one's to the left.
        """
        bearing, distance = self._goal()
        way = self.heading + bearing
        closing = float(np.cos(way) * self.data.qvel[0] + np.sin(way) * self.data.qvel[1])
        gain = SIREN_GAIN / max(distance, 0.5)
        low, high = (0.5 + 0.5 * np.cos(bearing - axis) for axis in (0.0, EAR_RAD))
        return 1 + closing / SOUND_M_S, float(gain * low), float(gain * high)

    def state(self) -> list[float]:
        """Body-frame motion, attitude, what is ahead, where the goal is, and the rotors' thrust."""
        turn = self.data.xmat[1].reshape(3, 3)
        c, s = np.cos(self.heading), np.sin(self.heading)
        vx, vy, vz = self.data.qvel[:3]
        bearing, self_distance = self._goal()
        before, self.distance = self.distance, self_distance
        self.progress = before - self_distance
        return [
            float(self.data.qpos[2]),
            float(c * vx + s * vy),
            float(-s * vx + c * vy),
            float(vz),
            float(self.data.qvel[5]),
            float(np.arctan2(turn[2, 1], turn[2, 2])),
            float(-np.arcsin(np.clip(turn[2, 0], -1, 1))),
            self._clearance(0.0),
            bearing,
            self_distance,
            float(np.mean([h.sum() for h in self.heard])),
            float(self.air[-1]),
            self_distance * float(np.cos(bearing)),
            self_distance * float(np.sin(bearing)),
            self._clearance(0.35),
            self._clearance(-0.35),
            *softened(self_distance, bearing, far_m=SOFT_M),
            *gaps(self.data.qpos[:2], self.heading, self.trees, hull_m=HULL_M, far_m=GAP_M),
        ]

    def reward(self) -> float:
        """Metres come closer, less a metre while touching anything."""
        return self.progress - float(self.touching)

    def finished(self) -> bool:
        """At the beacon, or crashed; the simulation goes on if it is stepped on."""
        return self._arrived() or self.crashed

    def info(self) -> dict[str, Any]:
        """Whether it is at the beacon, the collisions so far, and whether one was a crash."""
        return {
            "success": self._arrived(),
            "collisions": self.collisions,
            "crashed": self.crashed,
        }

    def expert(self) -> FloatArray:
        """Turns to the way near the goal's bearing where the hull fits, and slows before trees."""
        bearing = self._goal()[0]
        ways = np.linspace(-1.2, 1.2, 25)
        free = np.array([self._free(float(way)) for way in ways])
        way = float(ways[int(np.argmax(free - 1.5 * np.abs(ways - np.clip(bearing, -1.2, 1.2))))])
        ahead = min(self._free(0.0), self._free(way))
        climb = (1.6 - self.data.qpos[2]) / 1.5
        speed = np.clip(ahead / 3, 0.1, 1.0)
        wanted = [speed * np.cos(way), speed * np.sin(way) / 0.6, climb, 1.3 * way]
        return np.array(np.clip(wanted, -1, 1), np.float32)

    def _free(self, way: float) -> float:
        """Metres, at most 5, that the hull can go at `way` from its heading, with room beside."""
        x, y = self.data.qpos[:2]
        c, s = np.cos(self.heading + way), np.sin(self.heading + way)
        free = 5.0
        for tx, ty, radius in self.trees:
            along, beside = c * (tx - x) + s * (ty - y), abs(-s * (tx - x) + c * (ty - y))
            if along > 0 and beside < radius + HULL_M + 0.25:
                free = min(free, max(0.0, along - radius - HULL_M))
        return free

    def nominal(self, actions: FloatArray) -> FloatArray:
        """A body that flies at once as it is told, in still air, and no trees."""
        bearing, distance = self._goal()
        goal = distance * np.array((np.cos(bearing), np.sin(bearing)))
        ahead, left = (TOP_SPEED_M_S * s * actions[..., i] for i, s in ((0, 1.0), (1, 0.6)))
        return self.unicycle(goal, ahead, left, 1.2 * actions[..., 3])

    def _arrived(self) -> bool:
        return bool(self.distance < REACHED_M)

    def _goal(self) -> tuple[float, float]:
        x, y = self.data.qpos[:2]
        bearing = np.arctan2(-y, GOAL_M - x) - self.heading
        wrapped = (bearing + np.pi) % (2 * np.pi) - np.pi
        return float(wrapped), float(np.hypot(GOAL_M - x, y))

    def _clearance(self, way: float) -> float:
        """Metres to the first tree at `way` radians from the heading, at most 10."""
        return self.clear_m(self.data.qpos[:3].copy(), self.heading + way)


def _cross(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As `np.cross`, which takes ten times as long for one pair."""
    (ax, ay, az), (bx, by, bz) = a.tolist(), b.tolist()
    return np.array((ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx))
