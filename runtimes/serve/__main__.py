"""`python -m jepa_edge.runtimes.serve`: serves a bundle to many robots."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from jepa_edge.front import print_json, run_app, stderr

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    bundle: Annotated[Path, typer.Option(help="What `jepa-edge export` wrote.")],
    precision: Annotated[str | None, typer.Option(help="One of the bundle's precisions.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port for gRPC; 0 takes a free one.")] = 8001,
    http_port: Annotated[
        int, typer.Option(help="Port for REST and /metrics; 0 takes a free one, -1 is off.")
    ] = 8000,
    token_key: Annotated[
        Path | None,
        typer.Option(
            help="Key file; callers need a token made with it (jepa_edge.runtimes.serve.tokens)."
        ),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without token and TLS.")
    ] = False,
    batch: Annotated[int, typer.Option(help="Calls computed together, at the most.", min=1)] = 8,
    batch_wait_ms: Annotated[
        float, typer.Option(help="How long the first call of a batch waits for others.")
    ] = 2.0,
    parallel: Annotated[int, typer.Option(help="Engines of each graph.", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="Threads of each engine; 0: its choice.")] = 0,
    sessions: Annotated[int, typer.Option(help="Robots at the most.", min=1)] = 256,
    idle_s: Annotated[float, typer.Option(help="A robot not heard of for so long is gone.")] = 120,
    most_mib: Annotated[int, typer.Option(help="Largest request, MiB.", min=1)] = 16,
    json: Annotated[
        bool, typer.Option("--json", help="Print the ports as one JSON object when ready.")
    ] = False,
) -> None:
    """Serve a bundle over the Open Inference Protocol v2: gRPC and REST, sessions, batches.

    Example: jepa-edge serve --bundle dist/nano-x86-cpu.jepa --port 8001
    """
    import asyncio

    from jepa_edge.bundle import opened
    from jepa_edge.runtimes.serve.batching import BatchConfig
    from jepa_edge.runtimes.serve.endpoint import Endpoint
    from jepa_edge.runtimes.serve.service import Service, ServiceConfig
    from jepa_edge.runtimes.serve.sessions import SessionConfig
    from jepa_edge.runtimes.serve.tokens import Guard

    endpoint = Endpoint(
        host=host,
        port=port,
        http_port=None if http_port < 0 else http_port,
        token_key=token_key,
        tls_cert=tls_cert,
        tls_key=tls_key,
        most_bytes=most_mib << 20,
        insecure=insecure,
    )
    Guard(endpoint.token_key)
    batching = BatchConfig(most=batch, wait_ms=batch_wait_ms, parallel=parallel, threads=threads)

    with opened(bundle) as found:
        found.manifest.precision(precision)
        from jepa_edge.runtimes.serve import models  # noqa: F401  (names the extra if missing)
        from jepa_edge.runtimes.serve.metrics import observe
        from jepa_edge.runtimes.serve.server import Ports, Server

        def told(ports: Ports) -> None:
            web = "" if ports.http is None else f", REST on {host}:{ports.http}"
            stderr.print(f"serving {found.manifest.name}: gRPC on {host}:{ports.grpc}{web}")
            if json:
                print_json(ports)
                sys.stdout.flush()

        limits = SessionConfig(most=sessions, idle_s=idle_s)
        config = ServiceConfig(batch=batching, sessions=limits)
        service = Service(found, precision, config, observe)
        asyncio.run(Server(service, endpoint).run(told))


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
