"""Before the first setpoint: would the autopilot save itself if we fell silent?

Measured on the real ones in simulation: with its defaults PX4 leaves OFFBOARD 1 to 1.8 s after the
last setpoint and drifts 4.8 m; ArduCopter flies on for GUID_TIMEOUT, 3 s by default, and 12 m.
"""

from __future__ import annotations

from typing import NamedTuple

LONGEST_SILENCE_S = 1.0


class Rule(NamedTuple):
    """A parameter, its legal values, and why. Without `allowed`, it is ``0 < value <= most``."""

    parameter: str
    why: str
    most: float = LONGEST_SILENCE_S
    allowed: tuple[int, ...] = ()

    def holds(self, value: float) -> bool:
        """Whether `value` is safe; NaN is not."""
        return value in self.allowed if self.allowed else 0 < value <= self.most

    def told(self) -> str:
        """The legal values, for a person."""
        if self.allowed:
            return "one of " + ", ".join(map(str, self.allowed))
        return f"above 0 and at most {self.most:g}"


RULES = {
    "px4": (
        Rule("COM_OF_LOSS_T", "seconds that PX4 flies on without setpoints"),
        Rule(
            "COM_OBL_RC_ACT",
            "what PX4 does then: 0 position, 3 return, 4 land, 5 hold; others lose the vehicle "
            "or need a pilot's hands",
            allowed=(0, 3, 4, 5),
        ),
    ),
    "ardupilot": (Rule("GUID_TIMEOUT", "seconds that ArduPilot flies on without setpoints"),),
}


def parameters_of(autopilot: str) -> list[str]:
    """The names of the parameters that matter on `autopilot`."""
    return [rule.parameter for rule in RULES.get(autopilot, ())]


def unsafe(autopilot: str, parameters: dict[str, float]) -> list[str]:
    """What of `parameters` makes it unsafe to steer this autopilot, a sentence each."""
    if autopilot not in RULES:
        return [f"{autopilot} is not known here; PX4 and ArduPilot are"]
    found = []
    for rule in RULES[autopilot]:
        value = parameters.get(rule.parameter)
        if value is None:
            found.append(f"{rule.parameter} ({rule.why}) could not be read back")
        elif not rule.holds(value):
            found.append(f"{rule.parameter} is {value:g} ({rule.why}); set it to {rule.told()}")
    return found
