"""`jepa-edge replay`: flies a log again and compares every latent, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from jepa_edge.bundle import MANIFEST, Bundle, file_sha256, opened
from jepa_edge.contract import CheckFailedError, FloatArray, InputError
from jepa_edge.front import print_json, run_app, stderr
from jepa_edge.runtimes.flight import Flight, Header, LoggedLatents, header_of, unpacked
from jepa_edge.runtimes.gate import GatedStream
from jepa_edge.runtimes.loop import Streaming
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.stream import Stream

app = typer.Typer(add_completion=False)


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """How a flight went the second time."""

    log: str
    bundle: str
    precision: str
    steps: int
    compared: int
    identical: int
    largest_difference: float
    first_different_step: int | None


@app.command()
def replay(
    log: Annotated[Path, typer.Argument(help="What `jepa-edge run --log` wrote.")],
    bundle: Annotated[Path, typer.Option(help="The bundle that flew.")],
    precision: Annotated[
        str | None, typer.Option(help="Another precision than flew: how far would it have been?")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="The largest difference of a latent that still passes.")
    ] = 0.0,
    json: Annotated[bool, typer.Option("--json", help="The account as one JSON object.")] = False,
) -> None:
    """Fly a log again on the bundle that flew, and compare every latent, bit for bit.

    Exit code 1: a latent differs by more than --tolerance.
    Example: jepa-edge replay flight.mcap --bundle dist/nano-x86-cpu.jepa
    """
    done = replayed(log, bundle, precision)
    if json:
        print_json(done)
    stderr.print(
        f"{done.steps} steps, {done.identical} of {done.compared} latents identical, largest "
        f"difference {done.largest_difference:g}"
    )
    if done.largest_difference > tolerance:
        raise CheckFailedError(
            f"step {done.first_different_step} gives other latents than it gave in flight: another "
            "engine version, number of threads or machine rounds in another order; "
            "--tolerance 1e-4 accepts that"
        )


def replayed(log: Path, path: Path, precision: str | None) -> Replayed:
    """Drives a stream over the steps of a log, as the loop did.

    Raises `InputError` when the log is none, is empty, or another bundle flew.
    """
    header = header_of(log)
    with opened(path) as bundle:
        if digest(bundle) != header.digest:
            raise InputError(
                f"{log} was flown by {header.bundle} ({header.digest[:12]}), not by this "
                f"{bundle.manifest.name} ({digest(bundle)[:12]})"
            )
        stream = Stream(
            bundle, precision or header.precision, threads=header.threads, clips=header.clip_mode
        )
        gated = GatedStream(stream, header.change_gate) if header.change_gate else stream
        compared = _Compared()
        steps = 0
        for step, flown in Flight(log, bundle.manifest.senses).steps():
            steps += 1
            if flown.state == "seen":
                stream.see(step)
            else:
                _advance(gated, step, flown, compared)
    if steps == 0:
        raise InputError(f"{log} holds no step")
    return compared.account(log, header, precision or header.precision, steps)


def digest(bundle: Bundle) -> str:
    """The SHA-256 of the bundle's manifest, which has those of all its files."""
    return file_sha256(bundle.folder / MANIFEST)


def _advance(stream: Streaming, step: StepData, flown: LoggedLatents, compared: _Compared) -> None:
    if step.dropped:
        stream.reset()
    if flown.state == "hold":
        stream.reset()  # the loop forgot, whatever it was that it did not trust
        return
    encoded = stream.encode(step)
    future = stream.predict() if encoded else None
    compared.add(step.index, unpacked(flown.pooled), encoded[1] if encoded else None)
    compared.add(step.index, unpacked(flown.future), future)


class _Compared:
    """Differences, counted."""

    def __init__(self) -> None:
        self.compared = self.identical = 0
        self.largest = 0.0
        self.first: int | None = None

    def add(self, index: int, flown: FloatArray | None, again: FloatArray | None) -> None:
        """Compares one array; one that is missing differs without limit."""
        if flown is None and again is None:
            return
        self.compared += 1
        if flown is None or again is None or flown.shape != again.shape:
            difference = float("inf")
        else:
            difference = float(np.abs(flown - again).max(initial=0.0))
        if difference == 0:
            self.identical += 1
        elif self.first is None:
            self.first = index
        self.largest = max(self.largest, difference)

    def account(self, log: Path, header: Header, precision: str, steps: int) -> Replayed:
        """What it came to."""
        return Replayed(
            log=str(log),
            bundle=header.bundle,
            precision=precision,
            steps=steps,
            compared=self.compared,
            identical=self.identical,
            largest_difference=self.largest,
            first_different_step=self.first,
        )


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
