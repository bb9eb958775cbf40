"""What `--target` can name: one TOML profile each, under ``profiles/``."""

from __future__ import annotations

import difflib
from importlib import resources
from typing import Literal

import msgspec

from jepa_edge.bundle import EngineName
from jepa_edge.contract import InputError, WrongUseError

ALIASES = {"jetson": "jetson-orin-nano", "drone": "drone-companion"}


class System(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The operating system a release is built for; the pre-flight compares it with the device."""

    name: str
    machine: Literal["aarch64", "x86_64"]
    python: str
    glibc: str
    tensorrt: str | None = None


class Board(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The hardware, from the vendor's data sheet; None is unknown.

    `peak_tops` is dense, in tera-operations a second (a multiply-add is two), by precision.
    """

    soc: str
    gpu: str | None = None
    memory_gib: float
    bandwidth_gb_s: float
    peak_tops: dict[str, float]
    power_modes: list[str] = []
    camera: str = "/dev/video0"
    install_root: str = "/opt/jepa-edge"
    flash: str = "ssh"
    sources: list[str]


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A board or runtime that export can write for.

    `state` is honest: ``measured`` here, ``compiles`` (the real compiler took it, never run on the
    board), or ``planned``.
    """

    name: str
    title: str
    engine: EngineName
    precisions: list[str]
    default_precisions: list[str]
    state: Literal["measured", "compiles", "planned"]
    refused: dict[str, str] = {}
    notes: str = ""
    system: System | None = None
    other_systems: list[System] = []
    """Newer or older ones that the board can run, for releases that ask for one of them."""
    board: Board | None = None
    int8_attention_tokens: int = 0
    """The longest attention that the engine fuses in int8; 0 for any."""
    compiles_as: str = "SM86"
    """The architecture that the TensorRT-RTX compiler, which knows no Jetson, stands in with."""

    def legal(self, precision: str) -> None:
        """Raises `WrongUseError`, with the reason, unless the target can run `precision`."""
        if precision in self.precisions:
            return
        why = self.refused.get(precision, "")
        raise WrongUseError(
            f"{self.name} does not run {precision}{': ' + why if why else ''}; "
            f"it runs: {', '.join(self.precisions)}"
        )


def system_of(chosen: Target, name: str | None, python: str | None = None) -> System:
    """The system of `chosen` whose name begins with `name`, its own for None; with that `python`.

    Raises `WrongUseError` for a target that is not flashed, or has no such system.
    """
    if chosen.system is None:
        raise WrongUseError(f"{chosen.name} is not a device to flash; its profile has no [system]")
    known = [chosen.system, *chosen.other_systems]
    fitting = [one for one in known if one.name.lower().startswith((name or "").lower())]
    if not fitting:
        names = "; ".join(one.name for one in known)
        raise WrongUseError(f"{chosen.name} has no system {name!r}; known: {names}")
    return msgspec.structs.replace(fitting[0], python=python or fitting[0].python)


def target_names() -> list[str]:
    """Every target, sorted."""
    folder = resources.files("jepa_edge.devices") / "profiles"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def target(name: str) -> Target:
    """The target called `name` (or its alias). Raises `WrongUseError` if there is none."""
    chosen = ALIASES.get(name, name)
    known = target_names()
    if chosen not in known:
        close = difflib.get_close_matches(name, known + list(ALIASES), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise WrongUseError(
            f"unknown target {name!r}; {hint}known: {', '.join(known + list(ALIASES))}"
        )
    file = resources.files("jepa_edge.devices") / "profiles" / f"{chosen}.toml"
    try:
        return msgspec.toml.decode(file.read_bytes(), type=Target)
    except msgspec.MsgspecError as error:
        raise InputError(f"profile {chosen}.toml: {error}") from error
