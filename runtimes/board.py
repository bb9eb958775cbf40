"""How hot the board is and what it draws, as far as it tells; what it does not tell is None.

Read from sysfs: thermal zones and cooling devices (Documentation/driver-api/thermal), hwmon power
sensors (Documentation/hwmon/sysfs-interface), a Jetson's INA3221 rails, Intel's RAPL counter, a
Raspberry Pi's ``get_throttled``. Nothing is written, no extra library is needed.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

SYSFS = Path("/sys")
EVERY_S = 1.0
INPUT_RAILS = ("VDD_IN", "VIN_SYS_5V0", "POM_5V_IN", "VDD_GPU_SOC")
"""What a Jetson's rail for the whole module is called, by generation; the first there is counts."""
PI_THROTTLED = "devices/platform/soc/soc:firmware/get_throttled"
PI_NOW = 0xF
"""The low bits are now (under-voltage, capped, throttled, soft limit), the high ones since boot."""


class BoardState(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the board; None is unknown, 0 is a measurement."""

    temperature_c: float | None = None
    hottest: str = ""
    power_w: float | None = None
    throttled: bool | None = None


UNKNOWN = BoardState()


class Board:
    """Looks at most once in `EVERY_S`: a look is some file reads."""

    def __init__(self, sysfs: Path = SYSFS) -> None:
        self.sysfs = sysfs
        self._looked_s = -EVERY_S
        self._state = BoardState()
        self._energy: tuple[float, float] | None = None
        self._zones = sorted(sysfs.glob("class/thermal/thermal_zone*"))
        self._coolers = sorted(sysfs.glob("class/thermal/cooling_device*"))
        self._rails = _rails(sysfs)
        self._meters = sorted(sysfs.glob("class/hwmon/hwmon*/power1_input"))
        self._meters += sorted(sysfs.glob("class/hwmon/hwmon*/power1_average"))

    def state(self, now_s: float | None = None) -> BoardState:
        """The newest state."""
        now_s = time.monotonic() if now_s is None else now_s
        if now_s - self._looked_s >= EVERY_S:
            self._looked_s = now_s
            temperature_c, hottest = self._hottest()
            self._state = BoardState(
                temperature_c=temperature_c,
                hottest=hottest,
                power_w=self._power_w(now_s),
                throttled=self._throttled(),
            )
        return self._state

    def _hottest(self) -> tuple[float | None, str]:
        found = [(_number(zone / "temp"), zone) for zone in self._zones]
        known = [(milli, zone) for milli, zone in found if milli is not None]
        if not known:
            return None, ""
        milli, zone = max(known, key=lambda pair: pair[0])
        return round(milli / 1e3, 1), _text(zone / "type") or zone.name

    def _power_w(self, now_s: float) -> float | None:
        if self._rails is not None:
            milli_volt, milli_ampere = (_number(path) for path in self._rails)
            if milli_volt is not None and milli_ampere is not None:
                return round(milli_volt * milli_ampere / 1e6, 3)
        for meter in self._meters:
            micro_watt = _number(meter)
            if micro_watt is not None:
                return round(micro_watt / 1e6, 3)
        return self._rapl_w(now_s)

    def _rapl_w(self, now_s: float) -> float | None:
        """The package's mean power since the last look; None at the first, and when it wrapped."""
        micro_joule = _number(self.sysfs / "class/powercap/intel-rapl:0/energy_uj")
        before, self._energy = self._energy, None
        if micro_joule is None:
            return None
        self._energy = (now_s, micro_joule)
        if before is None or micro_joule < before[1]:
            return None
        return round((micro_joule - before[1]) / 1e6 / (now_s - before[0]), 3)

    def _throttled(self) -> bool | None:
        told = _text(self.sysfs / PI_THROTTLED)
        if told:
            return bool(int(told, 16) & PI_NOW)
        processors = [c for c in self._coolers if "processor" in _text(c / "type").lower()]
        processors += [c for c in self._coolers if "cpufreq" in _text(c / "type").lower()]
        states = [_number(cooler / "cur_state") for cooler in processors]
        known = [state for state in states if state is not None]
        return any(state > 0 for state in known) if known else None


def _rails(sysfs: Path) -> tuple[Path, Path] | None:
    """Voltage and current of the rail that feeds a Jetson's whole module."""
    labels = {_text(path): path for path in sysfs.glob("class/hwmon/hwmon*/in*_label")}
    for name in INPUT_RAILS:
        if name in labels:
            path = labels[name]
            number = path.name.removeprefix("in").removesuffix("_label")
            return path.with_name(f"in{number}_input"), path.with_name(f"curr{number}_input")
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""  # a sensor that is asleep answers with an error


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None
