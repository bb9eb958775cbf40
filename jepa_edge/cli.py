"""`jepa-edge <verb>`: one front door for all rooms, as `python -m jepa_edge.<room>` is for one."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import NamedTuple

from jepa_edge import __version__


class Verb(NamedTuple):
    """Where a verb lives, and what it does."""

    module: str
    help: str


VERBS = {
    "record": Verb("jepa_edge.worlds.__main__", "record a simulated robot as a dataset"),
    "train": Verb("jepa_edge.train.__main__", "train a JEPA on recorded clips"),
    "export": Verb("jepa_edge.export.__main__", "checkpoint -> bundle for a device, checked"),
    "run": Verb("jepa_edge.runtimes.__main__", "run a bundle on a camera and a microphone"),
    "bench": Verb("jepa_edge.bench.__main__", "compare a bundle's precisions, with a report"),
    "devices": Verb("jepa_edge.devices.__main__", "list what export can write for"),
}


def main() -> None:
    """Runs the verb on the command line."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        sys.exit(0)
    if arguments[0] == "--version":
        sys.stdout.write(f"jepa-edge {__version__}\n")
        sys.exit(0)
    name = arguments[0]
    if name not in VERBS:
        close = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        sys.stderr.write(f"error: unknown verb {name!r}{hint} Known: {', '.join(VERBS)}\n")
        sys.exit(2)
    from jepa_edge.front import run_app

    module = importlib.import_module(VERBS[name].module)
    run_app(module.app, arguments[1:], f"jepa-edge {name}")


def _help() -> str:
    lines = [f"  {name:<9} {verb.help}" for name, verb in VERBS.items()]
    return (
        "jepa-edge: export, quantize and run JEPA world models on edge devices\n\n"
        "usage: jepa-edge VERB [flags]      jepa-edge VERB --help\n\n" + "\n".join(lines) + "\n"
    )
