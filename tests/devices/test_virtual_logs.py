"""A service that floods its log cannot fill the disk: on a real Debian with systemd."""

import pytest

from tests.devices.drone import Drone, why_not
from tests.devices.flashing import Bench, note, own_home
from tests.devices.little_release import little_release

FLOOD = "import sys; [print('x' * 1000, file=sys.stderr) for _ in range(100_000)]"
OURS = "--namespace=jepa-edge"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_not("amd64")), reason=why_not("amd64")),
]


def test_the_log_rotates(tmp_path):
    """100 MB in a moment: most is left out, and what is kept stays within its limit."""
    with own_home(tmp_path) as home:
        drone = Drone("amd64", tmp_path / "drone", home)
        try:
            bench = Bench(tmp_path, drone, little_release(tmp_path / "base"))
            namespace = ("-p", "LogNamespace=jepa-edge")
            drone.inside("systemd-run", "--wait", "--quiet", *namespace, "python3", "-c", FLOOD)
            kept = drone.inside("sh", "-c", f"journalctl {OURS} -o cat --no-pager | wc -l")
            assert int(kept) < 50_000
            drone.inside("journalctl", OURS, "--rotate")
            files = drone.inside("sh", "-c", "du -m /var/log/journal/*.jepa-edge/*").splitlines()
            assert len(files) > 1
            assert sum(int(line.split()[0]) for line in files) <= 64
            bench.assert_runs(bench.running)
        finally:
            drone.stop()
    note({"case": "the_log_rotates", "ends_on": "old"})
