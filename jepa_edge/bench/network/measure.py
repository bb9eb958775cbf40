"""Paths over networks, measured on real processes: a server, a link, and the robot's own loop.

The robot is `jepa-edge run` on a clip at its real rate, so arrivals do not wait for answers (open
loop); its log is what is measured. Paths take turns within each round, in the opposite order in
every other round, each round with another seed of the link.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from jepa_edge.bench.network.facts import Costs, PathFacts, age_from
from jepa_edge.bench.network.profiles import profile
from jepa_edge.bench.network.proxy import proxied
from jepa_edge.bench.network.tun import hosts
from jepa_edge.contract import CheckFailedError, WrongUseError
from jepa_edge.runtimes.loop import Tick

PATHS = ("edge", "cloud", "hybrid")
WARM_UP = 10
"""Steps of each run that are not counted: connecting, warming."""

Progress = Callable[[str, int, int], None]


class PathConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to measure."""

    bundle: Path
    precision: str | None = None
    paths: tuple[str, ...] = PATHS
    networks: tuple[str, ...] = ("lan",)
    lab: str = "proxy"
    clip: str = ""
    rounds: int = 2
    steps: int = 60
    deadline_ms: float = 150.0
    budget_ms: float = 400.0
    threads: int = 0
    seed: int = 0
    costs: Costs = Costs()

    def __post_init__(self) -> None:
        """Raises `WrongUseError` for unknown paths, networks or laboratories."""
        for name in self.networks:
            profile(name)
        if unknown := set(self.paths) - set(PATHS):
            raise WrongUseError(f"unknown path {', '.join(unknown)}; known: {', '.join(PATHS)}")
        if self.lab not in ("proxy", "netns"):
            raise WrongUseError(f"unknown laboratory {self.lab!r}; known: proxy, netns")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One path over one network in one round."""

    path: str
    network: str
    ticks: list[Tick]
    bytes_up: int | None
    bytes_down: int | None


def measured(config: PathConfig, progress: Progress, step_s: float) -> list[PathFacts]:
    """Every path over every network. Raises `CheckFailedError` when a process fails."""
    runs: list[Run] = []
    total = config.rounds * len(config.networks) * len(config.paths)
    for number in range(config.rounds):
        order = config.paths if number % 2 == 0 else config.paths[::-1]
        for network in config.networks:
            for path in order:
                progress(f"{path} over {network}", len(runs), total)
                runs.append(_run(config, path, network, config.seed + number))
    progress("done", total, total)
    pairs = [(path, network) for network in config.networks for path in config.paths]
    return [
        _facts(path, network, [r for r in runs if (r.path, r.network) == (path, network)],
               config.costs, 1 / step_s)
        for path, network in pairs
    ]  # fmt: skip


def _run(config: PathConfig, path: str, network: str, seed: int) -> Run:
    with ExitStack() as stack:
        if path == "edge":
            ticks = _robot(config, "local", [])
            return Run(path=path, network=network, ticks=ticks, bytes_up=None, bytes_down=None)
        prefix = "hybrid:" if path == "hybrid" else ""
        if config.lab == "netns":
            places = stack.enter_context(hosts(network, seed))
            inside = ["ip", "netns", "exec", places.cloud]
            flags = ["--host", "0.0.0.0", "--insecure"]
            port = stack.enter_context(_server(config, inside, flags))
            engine = f"{prefix}grpc://{places.cloud_address}:{port}"
            before = _counted(places.robot)
            ticks = _robot(config, engine, ["ip", "netns", "exec", places.robot])
            after = _counted(places.robot)
            up, down = after[0] - before[0], after[1] - before[1]
        else:
            port = stack.enter_context(_server(config, [], []))
            spec = profile(network)
            proxy = stack.enter_context(proxied(("127.0.0.1", port), spec, seed))
            ticks = _robot(config, f"{prefix}grpc://127.0.0.1:{proxy.port}", [])
            up, down = proxy.bytes_up, proxy.bytes_down
        return Run(path=path, network=network, ticks=ticks, bytes_up=up, bytes_down=down)


@contextmanager
def _server(config: PathConfig, prefix: list[str], flags: list[str]) -> Iterator[int]:
    """The port of a server process."""
    command = [*prefix, sys.executable, "-m", "jepa_edge.runtimes.serve", "--json"]
    command += ["--bundle", str(config.bundle), "--port", "0", "--http-port", "-1"]
    command += ["--threads", str(config.threads), *flags]
    command += ["--precision", config.precision] if config.precision else []
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                said.seek(0)
                raise CheckFailedError(f"the server did not start: {said.read().decode()[-500:]}")
            yield int(json.loads(line)["grpc"])
        finally:
            process.terminate()
            process.wait(timeout=30)
            process.stdout.close()


def _robot(config: PathConfig, engine: str, prefix: list[str]) -> list[Tick]:
    """The log of a robot that sees the clip at its real rate."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "ticks.jsonl"
        command = [*prefix, sys.executable, "-m", "jepa_edge.runtimes"]
        command += ["--bundle", str(config.bundle), "--camera", config.clip, "--repeat"]
        command += ["--goal", config.clip, "--steps", str(config.steps + WARM_UP)]
        command += ["--engine", engine, "--deadline-ms", str(config.deadline_ms)]
        command += ["--age-limit-ms", str(config.budget_ms), "--threads", str(config.threads)]
        command += ["--controller", f"file:{log}"]
        command += ["--precision", config.precision] if config.precision else []
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        if done.returncode:
            raise CheckFailedError(f"the robot over {engine} ended: {done.stderr[-500:]}")
        lines = log.read_bytes().splitlines()
        return [msgspec.json.decode(line, type=Tick) for line in lines]


def _counted(namespace: str) -> tuple[int, int]:
    """(sent, received) bytes of the namespace's TUN device, as the kernel counts them."""
    done = subprocess.run(
        ["ip", "-n", namespace, "-s", "-j", "link"], capture_output=True, check=True
    )
    (device,) = [d for d in json.loads(done.stdout) if d["ifname"] != "lo"]
    return device["stats64"]["tx"]["bytes"], device["stats64"]["rx"]["bytes"]


def _facts(path: str, network: str, runs: list[Run], costs: Costs, per_second: float) -> PathFacts:
    ticks = [tick for run in runs for tick in run.ticks[WARM_UP:]]
    acted = [tick for tick in ticks if tick.state == "ok"]
    steps = sum(1 + tick.dropped for tick in ticks)
    all_steps = sum(1 + tick.dropped for run in runs for tick in run.ticks)
    up, down = (
        None if None in sizes else round(sum(size or 0 for size in sizes) / all_steps, 1)
        for sizes in ([r.bytes_up for r in runs], [r.bytes_down for r in runs])
    )
    switches = sum(
        a.path != b.path
        for run in runs
        for a, b in zip(run.ticks[WARM_UP:], run.ticks[WARM_UP + 1 :], strict=False)
    )
    usd = 0.0 if up is None or down is None else costs.per_hour(up + down, per_second)
    return PathFacts(
        path=path,
        network=network,
        steps=steps,
        age=age_from([tick.age_ms for tick in acted]),
        missed=round(1 - len(acted) / max(steps, 1), 4),
        cloud_share=round(sum(t.path == "cloud" for t in acted) / max(len(acted), 1), 4),
        switches=switches,
        bytes_up=up,
        bytes_down=down,
        usd_per_hour=round(usd, 4),
    )
