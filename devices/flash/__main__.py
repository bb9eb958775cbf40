"""The commands that reach devices over SSH."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from jepa_edge.devices.release.options import (
    Autopilot,
    Camera,
    Controller,
    Device,
    Json,
    Lock,
    Mic,
    MinBattery,
    Precision,
    Root,
    RunFlags,
    System,
    Trial,
)
from jepa_edge.front import print_json, run_app, stderr

app = typer.Typer(add_completion=False)

Host = Annotated[str, typer.Option("--host", help="[user@]name[:port] or a ~/.ssh/config name.")]
Hosts = Annotated[
    list[str], typer.Option("--host", help="[user@]name[:port] or a ~/.ssh/config name; repeat it.")
]
Force = Annotated[
    bool, typer.Option("--ignore-autopilot", help="Do not ask whether the vehicle is armed.")
]


@app.command()
def flash(
    host: Hosts,
    device: Device,
    bundle: Annotated[
        Path | None, typer.Option(help="A bundle: its release is built and signed on the way.")
    ] = None,
    release: Annotated[Path | None, typer.Option(help="Or what `jepa-edge release` wrote.")] = None,
    version: Annotated[
        str | None, typer.Option("--release-version", help="Default: one more than the last.")
    ] = None,
    system: System = None,
    precision: Precision = None,
    camera: Camera = "/dev/video0",
    mic: Mic = None,
    controller: Controller = "none",
    run_flags: RunFlags = "",
    autopilot: Autopilot = None,
    min_battery: MinBattery = 30,
    trial_s: Trial = 180.0,
    lock: Lock = None,
    repository: Annotated[Path | None, typer.Option(help="Signed metadata.")] = None,
    keys: Annotated[Path | None, typer.Option(help="Signing keys.")] = None,
    root: Root = "/opt/jepa-edge",
    limit_kb_s: Annotated[float, typer.Option(help="Upload no faster; 0 is no limit.")] = 0.0,
    canary: Annotated[int, typer.Option(help="So many hosts go first, one by one.")] = 1,
    parallel: Annotated[int, typer.Option(help="Then so many at a time.")] = 8,
    max_failures: Annotated[int, typer.Option(help="Stop when more hosts have failed.")] = 0,
    allow_downgrade: Annotated[bool, typer.Option("--allow-downgrade")] = False,
    ignore_autopilot: Force = False,
    json: Json = False,
) -> None:
    """Put a bundle on a device and run it there; back to the old one if it is not healthy.

    Example: jepa-edge flash --bundle dist/nano-generic-onnx.jepa --device drone --host pi@10.0.0.7
    """
    from jepa_edge.devices.flash.command import FlashRequest, flash_all
    from jepa_edge.devices.flash.fleet import FleetConfig
    from jepa_edge.devices.flash.pipeline import FlashConfig
    from jepa_edge.devices.release.build import ReleaseConfig

    build = (
        None
        if bundle is None
        else ReleaseConfig(
            bundle=bundle,
            device=device,
            version=version or "",
            system=system,
            precision=precision,
            camera=camera,
            mic=mic,
            controller=controller,
            run_flags=tuple(shlex.split(run_flags)),
            autopilot=autopilot,
            min_battery_pct=min_battery,
            healthy_within_s=trial_s,
            lock=lock,
            root=root,
        )
    )
    way = FlashConfig(
        device=device,
        root=root,
        limit_kb_s=limit_kb_s,
        force=ignore_autopilot,
        downgrade=allow_downgrade,
    )
    request = FlashRequest(
        hosts=tuple(host),
        build=build,
        packed=release,
        repository=repository,
        keys=keys,
        way=way,
        fleet=FleetConfig(canary=canary, parallel=parallel, max_failures=max_failures),
    )
    done = flash_all(request)
    if json:
        print_json({"hosts": done})
    for one in done:
        stderr.print(f"{one.host}: {one.result}: {one.reason}", markup=False, highlight=False)
    if any(one.result != "running" for one in done):
        raise typer.Exit(1)


@app.command()
def rollback(
    host: Host, root: Root = "/opt/jepa-edge", ignore_autopilot: Force = False, json: Json = False
) -> None:
    """Go back to the release before, within seconds.

    Example: jepa-edge rollback --host pi@10.0.0.7
    """
    from jepa_edge.devices.flash.pipeline import FlashConfig, roll_back

    def say(_host: str, what: str, _done: int, _total: int) -> None:
        stderr.print(what, markup=False, highlight=False)

    config = FlashConfig(device="", root=root, force=ignore_autopilot)
    done = asyncio.run(roll_back(host, config, say))
    _show(done, json=json)


@app.command()
def status(host: Host, root: Root = "/opt/jepa-edge", json: Json = False) -> None:
    """Show what runs on a device, and how well.

    Example: jepa-edge status --host pi@10.0.0.7
    """
    from jepa_edge.devices.flash.pipeline import status_of

    _show(asyncio.run(status_of(host, root)), json=json)


@app.command()
def logs(
    host: Host,
    lines: Annotated[int, typer.Option("-n", "--lines", help="How many of the last lines.")] = 100,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new ones.")] = False,
    root: Root = "/opt/jepa-edge",
) -> None:
    """Show the log of the service on a device.

    Example: jepa-edge logs --host pi@10.0.0.7 -f
    """
    from jepa_edge.devices.flash.ssh import connected

    async def show() -> None:
        async with connected(host, root) as device:
            async for line in device.logs(lines=lines, follow=follow):
                typer.echo(line)

    asyncio.run(show())


@app.command("list")
def list_hosts(json: Json = False) -> None:
    """List every device that was flashed from here, and what it runs.

    Example: jepa-edge list
    """
    from rich.console import Console
    from rich.table import Table

    from jepa_edge.devices.flash.registry import entries

    found = entries()
    if json:
        print_json({"hosts": found})
        return
    table = Table("host", "device", "release", "state", "since")
    for one in found:
        table.add_row(one.host, one.device, f"{one.name} {one.version}", one.result, one.at)
    Console().print(table)


def _show(status: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(status)
        return
    current, health = status["current"], status["health"]
    if current is None:
        typer.echo("nothing is installed")
        return
    typer.echo(f"{current['name']} {current['version']} (release {current['release']})")
    typer.echo(f"service: {status['service'].get('ActiveState', 'unknown')}")
    if health:
        typer.echo(
            f"steps: {health['steps']}, {health['holds']} holds, {health['dropped']} dropped, "
            f"latency p99 {health['latency_ms_p99']} ms, now {health['state']} {health['reason']}"
        )
    if outcome := status["state"]["outcome"]:
        typer.echo(
            f"last change: {outcome['result']} in {outcome['seconds']} s: {outcome['reason']}"
        )


if __name__ == "__main__":
    run_app(app)
