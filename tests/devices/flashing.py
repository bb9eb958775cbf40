"""A drone that runs a release, the repository that signs for it, and the releases to come."""

import asyncio
import json
import os
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from jepa_edge.devices.flash.pipeline import FlashConfig, flash
from jepa_edge.devices.release.build import ReleaseConfig, build_release
from jepa_edge.devices.release.repository import Keys, Repository
from tests.devices.variant import variant

CLIP = Path(__file__).parents[2] / "jepa_edge/assets/clips/forest-000.mp4"


def real_release(folder, bundle):
    """The base of all releases: `bundle` with its wheels, seeing and hearing a recorded clip."""
    config = ReleaseConfig(
        bundle=bundle,
        device="generic-onnx",
        version="0",
        camera=str(CLIP),
        healthy_steps=3,
        healthy_within_s=25,
    )
    (folder / "base").mkdir()
    return build_release(config, folder / "base", lambda *_: None)


def crashing(unit):
    """The unit of a release whose service ends at once."""
    return unit.replace("--camera media/", "--camera media/no-such-")


def exposure(drone):
    """How exposed systemd finds the service, of 10; 0 is best."""
    said = drone.inside("systemd-analyze", "security", "--no-pager", "jepa-edge.service")
    return float(said.rsplit("jepa-edge.service: ", 1)[1].split()[0])


@contextmanager
def own_home(folder):
    """Nothing of the user's is touched: keys, hosts and releases are in `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        # The roots of the drones, which take minutes to build, are kept.
        patch.setenv(
            "XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        )
        for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "HOME"):
            patch.setenv(name, str(folder / name.lower()))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        yield folder / "home"


def repository_in(folder):
    made = Repository(folder / "r", Keys(online=folder / "k", root=folder / "k"))
    made.create()
    return made


class Bench:
    """Releases that are variants of `base`, brought onto `drone`."""

    def __init__(self, folder, drone, base):
        self.folder, self.drone, self.base = folder, drone, base
        self.repository = repository_in(folder)
        self.version, self.told = 0, []
        self.running = self.release()
        assert self.flash(self.running).result == "running"

    def release(self, *, sign=True, version=None, **changes):
        """The next release: a few MB that no other has, and `changes` to its manifest."""
        self.version += 1
        folder = self.folder / f"release-{self.version}"
        made = variant(self.base, folder, version=version or str(self.version), **changes)
        if sign:
            self.repository.publish(made.name, made.manifest)
        return made

    def flash(self, release, say=None, **settings):
        config = FlashConfig(device="generic-onnx", retry_s=0.5, **settings)
        trust = self.repository.message()
        return asyncio.run(flash(self.drone.host, release, trust, config, say or self.hear))

    def hear(self, host, what, done, total):
        self.told.append(what)

    def settled(self):
        """The device's own account once it has come to rest."""
        return json.loads(self.drone.agent("follow").splitlines()[-1])

    def assert_runs(self, *releases, within_s=25):
        """Exactly one release, one of `releases`, runs: whole, verified, healthy."""
        end = time.monotonic() + within_s
        while True:
            status = self.settled()
            health, service = status["health"] or {}, status["service"]
            runs = service["ActiveState"] == "active"
            if runs and health.get("pid") == int(service["MainPID"]) and health["ok"] >= 3:
                break
            assert time.monotonic() < end, status
            time.sleep(0.3)
        assert status["current"]["release"] in [release.id for release in releases]
        assert status["state"]["job"] is None
        assert status["state"]["good"] == status["current"]["release"]
        assert json.loads(self.drone.agent("verify")) == {"release": status["state"]["good"]}
        return status


def note(row):
    """Adds a row to the file that the table in the docs is made of, if one is asked for."""
    if file := os.environ.get("JEPA_EDGE_RECORD"):
        with Path(file).open("a") as out:
            out.write(json.dumps(row, sort_keys=True) + "\n")
