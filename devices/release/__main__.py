"""The commands that make and sign releases."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from jepa_edge.front import print_json, progress_bar, run_app, stderr

if TYPE_CHECKING:
    from jepa_edge.devices.release.repository import Repository

app = typer.Typer(add_completion=False)
keys_app = typer.Typer(add_completion=False, help="Who may sign releases.")
app.add_typer(keys_app, name="keys")

RepositoryPath = Annotated[
    Path | None, typer.Option("--repository", help="Signed metadata. Default: your data folder.")
]
KeyPath = Annotated[
    Path | None, typer.Option("--keys", help="Signing keys. Default: your configuration folder.")
]
RootKeyPath = Annotated[
    Path | None, typer.Option("--root-keys", help="Root keys, on a stick perhaps. Default: --keys.")
]


@app.command()
def release(
    bundle: Annotated[Path, typer.Option(help="What `jepa-edge export` wrote.")],
    device: Device,
    version: Annotated[str, typer.Option("--release-version", help="Numbers and dots.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("dist/jepa.release"),
    system: System = None,
    precision: Precision = None,
    camera: Camera = "/dev/video0",
    mic: Mic = None,
    controller: Controller = "none",
    run_flags: RunFlags = "",
    autopilot: Autopilot = None,
    min_battery: MinBattery = 30,
    trial_s: Trial = 180.0,
    python: Annotated[str | None, typer.Option(help="Default: the device profile's.")] = None,
    root: Root = "/opt/jepa-edge",
    lock: Lock = None,
    json: Json = False,
) -> None:
    """Build a release: bundle, wheels, configuration and unit in one reproducible file.

    Example: jepa-edge release --bundle b.jepa --device raspberry-pi-5 --release-version 1
    """
    from jepa_edge.devices.release.build import ReleaseConfig, build_to_file

    config = ReleaseConfig(
        bundle=bundle,
        device=device,
        version=version,
        system=system,
        precision=precision,
        camera=camera,
        mic=mic,
        controller=controller,
        run_flags=tuple(shlex.split(run_flags)),
        autopilot=autopilot,
        min_battery_pct=min_battery,
        healthy_within_s=trial_s,
        python=python,
        root=root,
        lock=lock,
    )
    with progress_bar("release") as progress:
        built = build_to_file(config, out, progress)
    if json:
        print_json(built)
    else:
        stderr.print(f"{built.file}: release {built.release}, {built.bytes} bytes")


@app.command()
def publish(
    release: Annotated[Path, typer.Argument(help="What `jepa-edge release` wrote.")],
    repository: RepositoryPath = None,
    keys: KeyPath = None,
) -> None:
    """Sign a release, so that devices take it; also dates the repository anew.

    Example: jepa-edge publish dist/jepa.release --keys /secure/keys
    """
    from jepa_edge.devices.release.build import open_release

    with open_release(release) as built:
        signed = _repository(repository, keys, None)
        signed.publish(built.name, built.manifest)
    stderr.print(f"signed {built.name}")


@keys_app.command()
def init(
    repository: RepositoryPath = None,
    keys: KeyPath = None,
    root_keys: RootKeyPath = None,
    count: Annotated[int, typer.Option("--root-count", help="How many root keys to make.")] = 1,
    threshold: Annotated[
        int, typer.Option("--root-threshold", help="How many of them must sign a change of keys.")
    ] = 1,
) -> None:
    """Make signing keys and an empty repository. JEPA_EDGE_KEY_PASSPHRASE locks the key files.

    Example: jepa-edge keys init --root-keys /media/stick --root-count 3 --root-threshold 2
    """
    signed = _repository(repository, keys, root_keys)
    signed.create(root_keys=count, root_threshold=threshold)
    stderr.print(f"keys in {signed.keys.online} and {signed.keys.root}: take the root keys offline")


@keys_app.command()
def rotate(
    role: Annotated[str, typer.Argument(help="root, targets, snapshot or timestamp.")],
    repository: RepositoryPath = None,
    keys: KeyPath = None,
    root_keys: RootKeyPath = None,
) -> None:
    """Replace the keys of a role; every device follows at its next flash.

    Example: jepa-edge keys rotate timestamp --root-keys /media/stick
    """
    from jepa_edge.devices.release.repository import role_from

    _repository(repository, keys, root_keys).rotate(role_from(role))
    stderr.print(f"new {role} keys; the old ones no longer count")


@keys_app.command()
def withdraw(
    name: Annotated[str, typer.Argument(help="A signed release, as `keys list` names it.")],
    repository: RepositoryPath = None,
    keys: KeyPath = None,
) -> None:
    """Take a signed release back, so that no device installs it any more.

    Example: jepa-edge keys withdraw nano-generic-onnx/raspberry-pi-5/1.json
    """
    _repository(repository, keys, None).withdraw(name)


@keys_app.command("list")
def list_signed(repository: RepositoryPath = None, json: Json = False) -> None:
    """List the signed releases.

    Example: jepa-edge keys list
    """
    names = _repository(repository, None, None).names()
    if json:
        print_json({"releases": names})
    else:
        typer.echo("\n".join(names))


def _repository(folder: Path | None, keys: Path | None, root_keys: Path | None) -> Repository:
    from jepa_edge.devices.release.repository import repository_at

    return repository_at(folder, keys, root_keys)


if __name__ == "__main__":
    run_app(app)
