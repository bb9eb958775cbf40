"""Three virtual drones flashed as a fleet: the canary first, the others together, or not at all."""

import asyncio

import pytest

from jepa_edge.devices.flash.fleet import FleetConfig, flash_fleet
from jepa_edge.devices.flash.pipeline import FlashConfig, flash
from tests.devices.drone import Drone, why_not
from tests.devices.flashing import Bench, note, own_home
from tests.devices.little_release import little_release

BLIND = {"health": {"within_s": 2, "ok_steps": 1_000_000}}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_not("amd64")), reason=why_not("amd64")),
]


class Fleet:
    """Three drones that run the same release, signed by one repository."""

    def __init__(self, folder, home):
        self.folder, self.drones = folder, []
        base = little_release(folder / "base")
        for name in "abc":
            self.drones.append(Drone("amd64", folder / name, home))
        self.bench = Bench(folder, self.drones[0], base)
        self.hosts = [drone.host for drone in self.drones]
        self.told = []
        assert self.flash(self.bench.running) == ["running"] * 3

    def flash(self, release, **settings):
        """How it ended on each drone."""
        trust, way = self.bench.repository.message(), FlashConfig(device="generic-onnx", retries=0)
        self.told = []

        def say(host, what, _done, _total):
            self.told.append((self.hosts.index(host), what))

        def one(host):
            return flash(host, release, trust, way, say)

        done = asyncio.run(flash_fleet(self.hosts, one, FleetConfig(**settings)))
        return [result.result for result in done]

    def assert_run(self, *releases):
        """Each drone runs its one."""
        for drone, release in zip(self.drones, releases, strict=True):
            self.bench.drone = drone
            self.bench.assert_runs(release)

    def stop(self):
        for drone in self.drones:
            drone.stop()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    with own_home(folder) as home:
        made = Fleet(folder, home)
        try:
            yield made
        finally:
            made.stop()


def first(fleet, index, wanted=""):
    return next(at for at, (who, what) in enumerate(fleet.told) if who == index and wanted in what)


def last(fleet, index):
    return max(at for at, (who, _) in enumerate(fleet.told) if who == index)


def test_the_canary_goes_first_and_the_others_together(fleet):
    release = fleet.bench.release()
    assert fleet.flash(release, canary=1, parallel=2) == ["running"] * 3
    assert last(fleet, 0) < min(first(fleet, 1), first(fleet, 2))
    assert first(fleet, 1) < last(fleet, 2)
    assert first(fleet, 2) < last(fleet, 1)
    fleet.assert_run(*[release] * 3)
    fleet.bench.running = release
    note({"case": "fleet of three, canary 1", "ends_on": "new, new, new"})


def test_a_release_that_fails_on_the_canary_goes_no_further(fleet):
    bad = fleet.bench.release(**BLIND)
    assert fleet.flash(bad, canary=1) == ["failed", "not begun", "not begun"]
    assert {who for who, _ in fleet.told} == {0}
    fleet.assert_run(*[fleet.bench.running] * 3)
    note({"case": "fleet of three, unhealthy on the canary", "ends_on": "old, old, old"})


def test_a_drone_that_is_off_stops_those_after_it(fleet):
    """The second is off: the third is not begun; with one failure allowed, it is."""
    release, before = fleet.bench.release(), fleet.bench.running
    fleet.drones[1].stop()
    assert fleet.flash(release, parallel=1) == ["running", "failed", "not begun"]
    assert fleet.flash(release, parallel=1, max_failures=1) == ["running", "failed", "running"]
    fleet.drones[1].start()
    fleet.assert_run(release, before, release)
    fleet.bench.running = release
    note({"case": "fleet of three, one is off", "ends_on": "new, old, new"})
