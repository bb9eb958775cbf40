"""The flags that make a release, the same for every command that builds one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Device = Annotated[str, typer.Option(help="One of `jepa-edge devices`, or drone, or jetson.")]
System = Annotated[
    str | None,
    typer.Option(
        help="Which of the device's systems, by the start of its name, such as 'JetPack 7.2' "
        "(`jepa-edge devices --json` lists them). Default: the first."
    ),
]
Precision = Annotated[str | None, typer.Option(help="Default: the bundle's.")]
Camera = Annotated[
    str, typer.Option(help="As `run` takes it there; a media file here is packed in.")
]
Mic = Annotated[str | None, typer.Option(help="As --camera. Default: its sound.")]
Controller = Annotated[str, typer.Option(help="As `run` takes it there.")]
Autopilot = Annotated[
    str | None,
    typer.Option(
        help="Where the device hears whether the vehicle is armed: udp:[HOST]:PORT, tcp:HOST:PORT, "
        "serial:DEVICE:BAUD, or none. An armed vehicle is never flashed. Default: the controller's "
        "own link, if that is MAVLink."
    ),
]
MinBattery = Annotated[
    int, typer.Option(help="Per cent; below it, an update is refused. 0: any will do.")
]
Trial = Annotated[
    float,
    typer.Option(help="Seconds a release has to prove itself; a slow device takes longer anyway."),
]
RunFlags = Annotated[
    str,
    typer.Option(
        help="More flags of `jepa-edge run`, in one string: '--goal goal.mp4 --threads 4'; a file "
        "here is packed in."
    ),
]
Lock = Annotated[Path | None, typer.Option(help="A requirements.lock: the same wheels, by hash.")]
Root = Annotated[str, typer.Option(help="Install root on the device.")]
