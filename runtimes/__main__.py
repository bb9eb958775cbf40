"""`python -m jepa_edge.runtimes`: runs a bundle on a camera and a microphone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from jepa_edge.front import print_json, run_app, stderr

if TYPE_CHECKING:
    from jepa_edge.runtimes.remote.wire import Uplink

app = typer.Typer(add_completion=False)


@app.command()
def run(
    bundle: Annotated[Path, typer.Option(help="What `jepa-edge export` wrote.")],
    camera: Annotated[
        str,
        typer.Option(
            help="A media file, a folder of pictures, /dev/video0 (or "
            "/dev/video0?video_size=640x480&framerate=30&input_format=mjpeg), rtsp://…, "
            "gst:PIPELINE, picamera2:0; none if the model only hears."
        ),
    ],
    mic: Annotated[
        str | None,
        typer.Option(
            help="A media file, alsa:hw:0 (or alsa:hw:0?channels=1&sample_rate=16000), "
            "sounddevice:NAME, rtsp://…; none is silence. Default: the camera's."
        ),
    ] = None,
    controller: Annotated[
        str,
        typer.Option(
            help="Who gets the predictions: stdout, file:PATH, none; an autopilot, "
            "mavlink:udp:0.0.0.0:14540 or mavlink:serial:/dev/ttyTHS1:921600; ROS 2 topics, "
            "ros2:PREFIX; other processes, shm:NAME or unix:PATH; gym, with --camera gym:forest."
        ),
    ] = "stdout",
    arm: Annotated[
        bool,
        typer.Option(
            "--arm",
            help="Let the controller move things. It never arms motors nor changes the mode: "
            "the pilot does. Without it, a vehicle is checked and listened to, and sent nothing.",
        ),
    ] = False,
    vehicle: Annotated[
        Path | None,
        typer.Option(help="TOML: what the vehicle's actions mean, envelope, fence, signing key."),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="One of the bundle's precisions.")] = None,
    goal: Annotated[
        str | None,
        typer.Option(
            help="A media file or builtin: clip whose end is wanted: ticks tell how far the future "
            "is from it, and the action to get there if the bundle can plan."
        ),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Play a file without waiting for its real rate.")
    ] = False,
    repeat: Annotated[
        bool, typer.Option("--repeat", help="Begin a file again when it ends.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Stop after so many steps; 0 is the whole file.")] = 0,
    threads: Annotated[int, typer.Option(help="Engine threads; 0 lets the engine choose.")] = 0,
    age_limit_ms: Annotated[
        float, typer.Option(help="Older data is not acted on: the controller gets a hold.")
    ] = 1000.0,
    frozen_after_s: Annotated[
        float | None,
        typer.Option(
            help="A picture the same to the last bit for so long is a dead camera; 0: "
            "never. Default: 0.4 for live cameras, 0 for files."
        ),
    ] = None,
    silent_after_s: Annotated[
        float | None,
        typer.Option(help="The same for digital silence. Default: 1 for live microphones."),
    ] = None,
    stall_ms: Annotated[
        float,
        typer.Option(
            help="No frame, or no sound, from a live device for so long is a hold, though its step "
            "is not over (longer where it comes in bursts); 0: wait for the step."
        ),
    ] = 150.0,
    engine: Annotated[
        str,
        typer.Option(help="local, grpc://HOST:PORT (jepa-edge serve), or hybrid:grpc://HOST:PORT."),
    ] = "local",
    deadline_ms: Annotated[
        float, typer.Option(help="A server's answer that takes longer is thrown away.")
    ] = 150.0,
    uplink: Annotated[
        str,
        typer.Option(
            help="What goes to a server: frames as jpeg or raw, or, encoded on board, the latents "
            "to plan from: pooled (fp32) or int8."
        ),
    ] = "jpeg",
    hedge_ms: Annotated[
        float, typer.Option(help="Ask a second time after so long; 0 never does.")
    ] = 0.0,
    token_file: Annotated[Path | None, typer.Option(help="The server's token for us.")] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Certificates to trust, PEM (grpcs://).")
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            help="auto: each step once, if the model is causal; bidirectional ones encode the last "
            "window anew at each step (windows overlap). clip: that for all."
        ),
    ] = "auto",
    degrade: Annotated[
        bool,
        typer.Option(
            "--degrade",
            help="While the board is late or too hot, run a cheaper precision of the bundle, and "
            "encode fewer steps (models that encode their window anew); what is better comes back "
            "when there is time to spare.",
        ),
    ] = False,
    change_gate: Annotated[
        float,
        typer.Option(
            help="Do not encode a step in which less than this moved since the last encoded one "
            "(standard deviations of the input, in the part of the picture or the pitch that "
            "changed most; try 0.05); 0: encode all."
        ),
    ] = 0.0,
    log: Annotated[
        Path | None,
        typer.Option(help="Write an MCAP flight log here, for `jepa-edge replay` and Foxglove."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Serve Prometheus metrics at HOST:PORT, or at this port of loopback."),
    ] = None,
    view: Annotated[
        str | None,
        typer.Option(
            help="Show all of it in Rerun: FILE.rrd to open later, a port to serve on (to anyone "
            "who reaches this machine), or rerun+http://HOST:PORT/proxy, a viewer that listens."
        ),
    ] = None,
    viewer: Annotated[
        Path | None,
        typer.Option(
            help="With --view: show latents and predictions as pictures, decoded by what "
            "`jepa-edge viewer` wrote. To look at only: nothing acts on them."
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="The account as one JSON object, and no predictions."),
    ] = False,
) -> None:
    """Run a bundle on a camera and a microphone: latents predicted at every step.

    Example: jepa-edge run --bundle dist/nano-x86-cpu.jepa --camera clip.mp4 --controller stdout
    """
    from jepa_edge.runtimes.paths import Far
    from jepa_edge.runtimes.pipeline import RunConfig
    from jepa_edge.runtimes.pipeline import run as start

    far = Far(
        engine=engine,
        deadline_ms=deadline_ms,
        uplink=cast("Uplink", uplink),
        hedge_ms=hedge_ms or None,
        token_file=token_file,
        ca_file=ca_file,
    )
    config = RunConfig(
        far=far,
        bundle=bundle,
        camera=camera,
        mic=mic or camera,
        controller="none" if json else controller,
        precision=precision,
        goal=goal,
        fast=fast,
        repeat=repeat,
        steps=steps,
        threads=threads,
        mode=mode,
        log=log,
        metrics=metrics,
        view=view,
        viewer=viewer,
        age_limit_ms=age_limit_ms,
        armed=arm,
        vehicle=vehicle,
        frozen_after_s=frozen_after_s,
        silent_after_s=silent_after_s,
        stall_ms=stall_ms,
        change_gate=change_gate,
        degrade=degrade,
    )
    done = start(config)
    if json:
        print_json(done)
    times = (
        f"; latency p50 {done.latency_ms_p50} ms, p99 {done.latency_ms_p99} ms; data age p50 "
        f"{done.age_ms_p50} ms, p99 {done.age_ms_p99} ms"
    )
    stderr.print(
        f"{done.steps} steps, {done.dropped} dropped, {done.holds} holds"
        f"{f', {done.skipped} not encoded: nothing moved' if change_gate else ''}"
        f"{'' if done.latency_ms_p50 is None else times}"
    )


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
