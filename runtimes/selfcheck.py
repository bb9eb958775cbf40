"""`python -m jepa_edge.runtimes.selfcheck`: a bundle against its own golden outputs, right here.

Run on the board before a release may start: a correct graph has become a wrong engine before
(NVIDIA/TensorRT issues 4723 and 4742).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from jepa_edge.bundle import Bundle, OutputParity, opened
from jepa_edge.contract import CheckFailedError, Feed, Tensors
from jepa_edge.front import print_json, run_app
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.parity import missed, parity_of

app = typer.Typer(add_completion=False)


class SelfCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Parity of each graph on this machine; `compared` is false where nothing golden is shipped."""

    compared: bool
    precision: str
    parity: dict[str, dict[str, OutputParity]] = {}


def self_check(bundle: Bundle, precision: str | None = None) -> SelfCheck:
    """Runs every graph of `precision` on its golden inputs, in the engine of this machine.

    Raises `CheckFailedError` when an output misses the floors of the precision.
    """
    chosen = precision or bundle.manifest.default_precision
    found: dict[str, dict[str, OutputParity]] = {}
    wrong = []
    golden = _golden(bundle)
    for graph in bundle.manifest.precision(chosen).graphs:
        feed = _feed(graph, golden)
        if feed is not None:
            found[graph] = parity_of(open_engine(bundle, graph, chosen), [feed])
            wrong += [f"{graph} {line}" for line in missed(found[graph], chosen)]
    if wrong:
        raise CheckFailedError(
            f"on this machine {bundle.manifest.name} {chosen} is not the model that was exported: "
            + "; ".join(wrong)
        )
    return SelfCheck(compared=bool(found), precision=chosen, parity=found)


def _golden(bundle: Bundle) -> Tensors:
    if bundle.manifest.golden is None:
        return {}
    with np.load(bundle.path(bundle.manifest.golden), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _feed(graph: str, golden: Tensors) -> Feed | None:
    def part(kind: str) -> Tensors:
        start = f"{graph}/{kind}/"
        return {n.removeprefix(start): a for n, a in golden.items() if n.startswith(start)}

    inputs, outputs = part("in"), part("out")
    return Feed(clip="golden", inputs=inputs, outputs=outputs) if inputs else None


@app.command()
def selfcheck(
    bundle: Annotated[Path, typer.Option(help="What `jepa-edge export` wrote.")],
    precision: Annotated[str | None, typer.Option(help="One of the bundle's precisions.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Compare a bundle with its golden outputs on this machine; exit code 1 when it differs.

    Example: python -m jepa_edge.runtimes.selfcheck --bundle dist/nano-generic-onnx.jepa
    """
    with opened(bundle) as opened_bundle:
        done = self_check(opened_bundle, precision)
    if json:
        print_json(done)
        return
    for graph, outputs in done.parity.items():
        for name, parity in outputs.items():
            typer.echo(f"{graph} {name}: mean cosine {parity.cosine_mean:.6f}")
    if not done.compared:
        typer.echo("the bundle has no golden outputs; only its hashes were checked")


if __name__ == "__main__":
    run_app(app)
