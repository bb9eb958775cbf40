"""Simulated robots that see, hear and act: they record clips and can be controlled."""

import ctypes
import os


def _renderer() -> str:
    """The first software OpenGL that loads here; MuJoCo reads the name when it is imported."""
    for name, library in (("egl", "libEGL.so.1"), ("osmesa", "libOSMesa.so.8")):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return name
    return "egl"  # world.py then says what to install


os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's threads cost more than these frames take
if "MUJOCO_GL" not in os.environ:
    os.environ["MUJOCO_GL"] = _renderer()
