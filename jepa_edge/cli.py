"""`jepa-edge <verb>`: one command over all rooms; only the room that is asked for is imported."""

from __future__ import annotations

import difflib
import sys
from importlib import import_module
from typing import NamedTuple, NoReturn

from jepa_edge import __version__


class Verb(NamedTuple):
    """The module whose `app` serves a verb, its line in the help, its command in a larger app."""

    module: str
    help: str
    command: str = ""


FLASH, RELEASE = "jepa_edge.devices.flash.__main__", "jepa_edge.devices.release.__main__"
VERBS = {
    "record": Verb("jepa_edge.worlds.__main__", "record a simulated robot as training clips"),
    "train": Verb("jepa_edge.train.__main__", "train a JEPA on recorded clips"),
    "export": Verb("jepa_edge.export.__main__", "make a bundle for a target from a checkpoint"),
    "quantize": Verb("jepa_edge.quantize.__main__", "add a smaller precision to a bundle"),
    "build": Verb("jepa_edge.runtimes.build", "build and judge TensorRT plans on the board"),
    "run": Verb("jepa_edge.runtimes.__main__", "run a bundle on a camera, a microphone or a file"),
    "serve": Verb("jepa_edge.runtimes.serve.__main__", "serve a bundle to robots over a network"),
    "replay": Verb("jepa_edge.runtimes.replay", "fly a log again and compare every latent"),
    "bench": Verb("jepa_edge.bench.__main__", "measure speed, accuracy and what latents know"),
    "evaluate": Verb("jepa_edge.bench.evaluate", "let precisions steer a simulated robot"),
    "viewer": Verb("jepa_edge.export.viewer", "train a decoder that shows latents as pictures"),
    "devices": Verb("jepa_edge.devices.__main__", "list the targets and their honest state"),
    "release": Verb(RELEASE, "pack a bundle and all it needs on a device into one file", "release"),
    "publish": Verb(RELEASE, "sign a release, so that devices take it", "publish"),
    "keys": Verb(RELEASE, "make, rotate and list signing keys", "keys"),
    "flash": Verb(FLASH, "put a bundle on devices over SSH; back again if unhealthy", "flash"),
    "rollback": Verb(FLASH, "take a device back to the release before", "rollback"),
    "status": Verb(FLASH, "show what runs on a device, and how well", "status"),
    "logs": Verb(FLASH, "show the log of a device", "logs"),
    "list": Verb(FLASH, "list the devices flashed from here", "list"),
    "inspect": Verb("jepa_edge.inspection", "show, verify, pack or unpack a bundle"),
}


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs `jepa-edge` and ends the process: 0 done, 1 a check failed, 2 wrong use or bad input."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        sys.exit(0)
    verb, rest = given[0], given[1:]
    if verb == "--version":
        sys.stdout.write(f"jepa-edge {__version__}\n")
        sys.exit(0)
    if verb not in VERBS:
        sys.stderr.write(_unknown(verb))
        sys.exit(2)
    from jepa_edge.front import run_app

    app, command = import_module(VERBS[verb].module).app, VERBS[verb].command
    if command:
        run_app(app, [command, *rest], name="jepa-edge")
    run_app(app, rest, name=f"jepa-edge {verb}")


def _help() -> str:
    """Plain text: typer and rich take longer to import than a look at the verbs should last."""
    width = max(map(len, VERBS)) + 2
    lines = [f"  {name:<{width}}{verb.help}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: jepa-edge <verb> [flags]",
            "",
            "Export, quantize and run JEPA world models on edge devices.",
            "",
            *lines,
            "",
            "jepa-edge <verb> --help shows the flags, an example and every default.",
            "",
        ]
    )


def _unknown(verb: str) -> str:
    close = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"error: unknown verb {verb!r}{hint}\nknown: {', '.join(VERBS)}\n"
