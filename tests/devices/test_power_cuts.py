"""True power cuts: a machine with its own kernel and disk is killed in the middle of a flash.

`python benchmarks/power_cuts.py` makes ten of them, for the table in docs/devices.md.
"""

import pytest

from tests.devices.drone import why_not
from tests.devices.flashing import own_home
from tests.devices.power import PowerBench

WHY_NOT = why_not("vm")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]


def test_the_power_is_cut_in_the_middle_of_a_flash(tmp_path):
    with own_home(tmp_path) as home:
        bench = PowerBench(tmp_path, home)
        try:
            assert {row["ends_on"] for row in bench.cuts(2)} <= {"old", "new"}
        finally:
            bench.drone.stop()
