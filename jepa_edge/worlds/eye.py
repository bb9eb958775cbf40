"""A robot's camera, drawn in software."""

from __future__ import annotations

import threading
from typing import Any

import mujoco
import numpy as np

_OF_THREAD = threading.local()


class Eye:
    """Draws one model from one of its cameras, at `size` by `size` pixels; close it.

    In Mesa's software OpenGL a frame takes about a third of `mujoco.Renderer`'s time: edges are
    smooth because twice the size is drawn and averaged, not by multisampling, and all eyes of a
    thread share an OpenGL context, so that shaders are compiled once.
    """

    def __init__(self, model: mujoco.MjModel, camera: str, size: int, *, fog: bool) -> None:
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = 2 * size
        self._context, self._thread = _context(), threading.get_ident()
        self._drawn = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._drawn)
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 100)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_FOG] = fog
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = model.camera(camera).id
        self._option, self._frame = mujoco.MjvOption(), mujoco.MjrRect(0, 0, 2 * size, 2 * size)
        self._model, self._size = model, size

    def see(self, data: mujoco.MjData) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The view now, `[H, W, 3]` uint8."""
        self._context.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._camera, everything, self._scene
        )
        mujoco.mjr_render(self._frame, self._scene, self._drawn)
        pixels = np.empty((2 * self._size, 2 * self._size, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._frame, self._drawn)
        wide = pixels[::-1].astype(np.uint16)
        rows = wide[::2] + wide[1::2]
        return ((rows[:, ::2] + rows[:, 1::2] + 2) // 4).astype(np.uint8)

    def close(self) -> None:
        """Frees what the model took; the context stays.

        Another thread cannot: there it goes with the context, when the thread that drew ends.
        """
        if threading.get_ident() == self._thread:
            self._context.make_current()
            self._drawn.free()


def _context() -> mujoco.GLContext:
    if not hasattr(_OF_THREAD, "context"):
        _OF_THREAD.context = mujoco.GLContext(1, 1)
    _OF_THREAD.context.make_current()
    return _OF_THREAD.context
