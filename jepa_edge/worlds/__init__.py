"""Simulated robots that see, hear and act: they record clips and can be controlled."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # mujoco reads it when it is imported
