"""The fault drill: a real run on a real RTSP camera with sound, broken in every way there is.

The slow test beside it runs it; with ``FAULT_TABLE=docs/faults.md`` it writes the table. For each
fault: how long until the controller got a hold, how long after the fault ended until it got an
action again, and what was lost. Needs Debian's gir1.2-gst-rtsp-server-1.0.
"""

import json
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

CAMERA = Path(__file__).with_name("rtsp_server.py")
YEAR_S = 365 * 86_400
STEADY = 3
PATIENCE_S = 40.0


class Camera:
    """The RTSP server; it can be told to freeze, to mute, to stall and to die."""

    def __init__(self, port):
        self.port = port
        self.start()

    @property
    def uri(self):
        return f"rtsp://127.0.0.1:{self.port}/live"

    def start(self):
        command = ["/usr/bin/python3", str(CAMERA), str(self.port)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout.readline().strip() == "ready"

    def tell(self, verb):
        self.process.stdin.write(verb + "\n")
        self.process.stdin.flush()

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Run:
    """`jepa-edge run` in a process of its own, its ticks with the time at which they came."""

    def __init__(self, bundle, camera, folder, *arguments, file_limit=None):
        command = [sys.executable, __file__, "child", "--bundle", str(bundle)]
        command += ["--camera", camera.uri, "--threads", "1", *arguments]
        self.errors = (folder / "stderr.txt").open("w")

        def limited():
            if file_limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            preexec_fn=limited,
        )
        self.ticks = queue.Queue()
        self.seen = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.ticks.put((time.monotonic(), json.loads(line)))
        self.ticks.put((time.monotonic(), None))

    def wait(self, wanted, patience_s=PATIENCE_S):
        """The first tick for which `wanted` holds, and when it came."""
        ends = time.monotonic() + patience_s
        while True:
            at, tick = self.ticks.get(timeout=max(0.01, ends - time.monotonic()))
            if tick is None:
                raise EOFError("the run ended")
            self.seen.append((at, tick))
            if wanted(tick):
                return at, tick

    def steady(self):
        """Waits until it acts, and has for some steps."""
        in_a_row, ends = 0, time.monotonic() + PATIENCE_S
        while in_a_row < STEADY:
            assert time.monotonic() < ends, f"never steady: {self.seen[-1]}"
            _, tick = self.wait(lambda _: True)
            in_a_row = in_a_row + 1 if tick["state"] == "ok" else 0

    def drain(self):
        while not self.ticks.empty():
            self.seen.append(self.ticks.get())

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self):
        self.signal(signal.SIGTERM)
        code = self.process.wait(20)
        self.errors.close()
        self.process.stdout.close()
        return code


def ok(tick):
    return tick["state"] == "ok"


def hold(tick):
    return tick["state"] == "hold"


def drill(run, fault, inject, heal=None, lasts_s=0.0):
    """One row: injects, waits for the hold, heals, waits for the first action."""
    run.steady()
    run.drain()
    began = time.monotonic()
    inject()
    held, first = run.wait(hold)
    time.sleep(max(0.0, began + lasts_s - time.monotonic()))
    healed = time.monotonic() if heal else held
    if heal:
        heal()
    run.drain()
    recovered, _ = run.wait(ok)
    return {
        "fault": fault,
        "to_hold_s": round(held - began, 2),
        "to_recover_s": round(recovered - healed, 2),
        "reason": first["reason"],
    }


def drills(bundle, folder, port):
    """Every row of the table."""
    camera = Camera(port)
    rows = []
    try:
        rows += senses_and_engine(bundle, camera, folder)
        rows += process_and_disk(bundle, camera, folder)
    finally:
        camera.kill()
    return rows


def senses_and_engine(bundle, camera, folder):
    run = Run(bundle, camera, folder)
    rows = [
        drill(
            run,
            "stream stalls 2 s",
            lambda: camera.signal(signal.SIGSTOP),
            lambda: camera.signal(signal.SIGCONT),
            2.0,
        ),
        drill(run, "camera dies", camera.kill, camera.start, 3.0),
        drill(run, "frozen frame", lambda: camera.tell("freeze"), lambda: camera.tell("thaw"), 2.0),
        drill(
            run,
            "microphone gone silent",
            lambda: camera.tell("mute"),
            lambda: camera.tell("unmute"),
            2.0,
        ),
        drill(run, "NaN frame", lambda: run.signal(signal.SIGUSR2)),
        drill(run, "engine raises", lambda: run.signal(signal.SIGUSR1)),
        drill(run, "engine hangs 3 s", lambda: run.signal(signal.SIGALRM)),
        hogged(run),
        stopped(run),
    ]
    run.steady()
    run.drain()
    began = time.monotonic()
    run.signal(signal.SIGTERM)
    held, last = run.wait(lambda tick: tick["step"] == -1)
    code = run.stop()
    rows.append(
        {
            "fault": "SIGTERM",
            "to_hold_s": round(held - began, 2),
            "to_recover_s": None,
            "reason": f"{last['reason']}; exit code {code}",
        }
    )
    return rows


def hogged(run):
    """Four busy processes a core for five seconds."""
    run.steady()
    run.drain()
    hogs = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(4 * (os.cpu_count() or 1))
    ]
    ends = time.monotonic() + 5
    ticks = []
    while time.monotonic() < ends:
        ticks.append(run.wait(lambda _: True)[1])
    for process in hogs:
        process.kill()
        process.wait()
    healed = time.monotonic()
    recovered, _ = run.wait(ok)
    held = [tick["reason"] for tick in ticks if hold(tick)]
    oldest = max((tick["age_ms"] for tick in ticks if ok(tick)), default=0)
    dropped = sum(tick["dropped"] for tick in ticks)
    return {
        "fault": "CPU hogged 5 s",
        "to_hold_s": None,
        "to_recover_s": round(recovered - healed, 2),
        "reason": f"{len(held)} holds, {dropped} steps dropped; no action on data older than "
        f"{oldest:.0f} ms",
    }


def stopped(run):
    """SIGSTOP of the run itself: it says nothing; what it says first must not be old."""
    run.steady()
    run.signal(signal.SIGSTOP)
    time.sleep(2.0)
    run.drain()
    count = len(run.seen)
    healed = time.monotonic()
    run.signal(signal.SIGCONT)
    recovered, _ = run.wait(ok)
    after = [tick for at, tick in run.seen[count:] if at >= healed]
    oldest = max(tick["age_ms"] for tick in after if ok(tick))
    return {
        "fault": "run SIGSTOPped 2 s",
        "to_hold_s": None,
        "to_recover_s": round(recovered - healed, 2),
        "reason": f"silence (a sender holds by itself); then no action on data older than "
        f"{oldest:.0f} ms",
    }


def process_and_disk(bundle, camera, folder):
    rows = []
    log = folder / "flight.mcap"
    run = Run(bundle, camera, folder, "--log", str(log), file_limit=30_000)
    run.steady()
    time.sleep(3)
    run.steady()
    code = run.stop()
    told = [x for x in (folder / "stderr.txt").read_text().split("\n") if "not whole" in x]
    rows.append(
        {
            "fault": "disk full for the log",
            "to_hold_s": None,
            "to_recover_s": None,
            "reason": f"flies on, exit code {code}, and says: {''.join(told) or 'NOTHING'}",
        }
    )
    rows.append(clock_jump(bundle, camera, folder))
    rows.append(unreachable(bundle, camera, folder))
    return rows


def clock_jump(bundle, camera, folder):
    """The wall clock that the run sees jumps by a year."""
    run = Run(bundle, camera, folder)
    run.steady()
    run.drain()
    run.signal(signal.SIGHUP)
    ends = time.monotonic() + 3
    ticks = []
    while time.monotonic() < ends:
        ticks.append(run.wait(lambda _: True)[1])
    held = sum(map(hold, ticks))
    oldest = max(tick["age_ms"] for tick in ticks)
    run.stop()
    return {
        "fault": "wall clock jumps a year",
        "to_hold_s": None,
        "to_recover_s": None,
        "reason": f"{held} holds in {len(ticks)} steps, ages at most {oldest:.0f} ms: no wall "
        "clock is read",
    }


def unreachable(bundle, camera, folder):
    """Who takes the ticks goes away for two seconds, and comes back."""
    path = folder / "ticks"
    run = Run(bundle, camera, folder, "--controller", f"unix:{path}")
    with listening(path) as client:
        acts = 0
        while acts < STEADY:
            last = json.loads(client.recv(1 << 20))
            acts += ok(last)
    time.sleep(2.0)
    back = time.monotonic()
    with listening(path) as client:
        first = json.loads(client.recv(1 << 20))
        while not ok(first):
            first = json.loads(client.recv(1 << 20))
        recovered = time.monotonic()
    code = run.stop()
    return {
        "fault": "controller gone 2 s",
        "to_hold_s": None,
        "to_recover_s": round(recovered - back, 2),
        "reason": f"nothing waits for it: {first['step'] - last['step'] - 1} ticks are not kept; "
        f"the first it gets is {first['age_ms']:.0f} ms old; exit code {code}",
    }


def listening(path):
    """A client of ``--controller unix:PATH``, as soon as there is one."""
    ends = time.monotonic() + PATIENCE_S
    while True:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.settimeout(PATIENCE_S)
        try:
            client.connect(str(path))
        except OSError:
            client.close()
            assert time.monotonic() < ends, f"nobody answers at {path}"
            time.sleep(0.05)
        else:
            return client


def child(arguments):
    """The run, with faults that only its inside can have.

    SIGUSR1: the engine raises. SIGUSR2: a NaN frame. SIGALRM: the engine hangs. SIGHUP: another
    wall clock.
    """
    import numpy as np

    from jepa_edge.runtimes import live, stream
    from jepa_edge.runtimes.__main__ import main

    faults = set()
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGHUP):
        signal.signal(number, lambda n, _: faults.add(n))
    encode, seen, wall = stream.Stream.encode, live.seen, time.time
    time.time = lambda: wall() + (YEAR_S if signal.SIGHUP in faults else 0)
    time.time_ns = lambda: int(time.time() * 1e9)

    def broken_encode(self, step):
        if signal.SIGUSR1 in faults:
            faults.discard(signal.SIGUSR1)
            raise RuntimeError("the accelerator is gone")
        if signal.SIGALRM in faults:
            faults.discard(signal.SIGALRM)
            time.sleep(3.0)
        return encode(self, step)

    def broken_seen(frames, senses):
        video = seen(frames, senses)
        if signal.SIGUSR2 in faults and video is not None:
            faults.discard(signal.SIGUSR2)
            video = np.full_like(video, np.nan)
        return video

    stream.Stream.encode, live.seen = broken_encode, broken_seen
    sys.argv = ["run", *arguments]
    main()


def table(rows):
    """The rows as Markdown."""

    def cell(value):
        return "" if value is None else f"{value:.2f} s"

    lines = [
        "| Fault | Time to hold | Time to recover | What the controller is told, what is lost |",
        "| --- | ---: | ---: | --- |",
    ]
    lines += [
        f"| {r['fault']} | {cell(r['to_hold_s'])} | {cell(r['to_recover_s'])} | {r['reason']} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    child(sys.argv[2:])
