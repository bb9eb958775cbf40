"""The power of a drone is cut at random moments of a flash; what is on its disk then must run."""

import random
import threading
import time

from jepa_edge.contract import JepaEdgeError
from tests.devices.drone import Machine
from tests.devices.flashing import Bench
from tests.devices.little_release import little_release

SOMEWHAT_LONGER = 1.1
"""Cuts come until a little after an undisturbed flash has ended (as OSTree's tests do)."""


class PowerBench:
    """A machine that runs release 1, and how long a flash of it takes undisturbed."""

    def __init__(self, folder, home):
        self.drone = Machine(folder / "drone", home)
        self.bench = Bench(folder, self.drone, little_release(folder / "base"))
        begun = time.monotonic()
        self.bench.running = self.new()
        assert self.bench.flash(self.bench.running).result == "running"
        self.flash_s = time.monotonic() - begun

    def new(self):
        return self.bench.release()

    def cut(self, at_s):
        """One cut `at_s` seconds into a flash; what was found, as a row of the table.

        After the boot the device comes to rest on the old or the new release, whole, verified and
        running; the same flash again always ends on the new one.
        """
        old, new, told = self.bench.running, self.new(), ["connecting"]
        timer = threading.Timer(at_s, self.drone.power_off)
        timer.start()
        outcome = "cut"
        try:
            outcome = self.bench.flash(new, lambda _h, what, _d, _t: told.append(what), retries=0)
        except JepaEdgeError:
            timer.join(10.0)
            if timer.is_alive():
                raise  # not for want of power
        timer.join()
        begun = time.monotonic()
        self.drone.start()
        boot_s = time.monotonic() - begun
        status = self.bench.assert_runs(old, new, within_s=120)
        rest_s = time.monotonic() - begun
        ends = "new" if status["current"]["release"] == new.id else "old"
        assert self.bench.flash(new).result == "running"
        self.bench.assert_runs(new, within_s=120)
        self.bench.running = new
        return {
            "cut_at_s": round(at_s, 2),
            "while": told[-1] if outcome == "cut" else "afterwards",
            "ends_on": ends,
            "boot_s": round(boot_s, 1),
            "at_rest_s": round(rest_s, 1),
        }

    def cuts(self, count, seed=0, first=0):
        """Cuts `first` to `count`, at moments spread evenly, each in its own part of the flash."""
        draw = random.Random(seed)
        moments = [(index + draw.random()) / count * SOMEWHAT_LONGER for index in range(count)]
        for moment in moments[first:]:
            yield self.cut(moment * self.flash_s)
