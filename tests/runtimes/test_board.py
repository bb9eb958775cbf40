"""What the board tells, from the files that Linux gives it in."""

import math

import pytest

from jepa_edge.runtimes.board import UNKNOWN, Board, BoardState
from jepa_edge.runtimes.loop import Tick
from jepa_edge.runtimes.telemetry import Metrics


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def test_a_board_that_tells_nothing_is_unknown_not_zero(tmp_path):
    assert Board(tmp_path).state() == UNKNOWN == BoardState()
    assert Board().state().temperature_c is None or -40 < Board().state().temperature_c < 130


def test_a_jetson(tmp_path):
    rail = "class/hwmon/hwmon3"
    files = {
        "class/thermal/thermal_zone0/temp": 48_500,
        "class/thermal/thermal_zone0/type": "cpu-thermal",
        "class/thermal/thermal_zone1/temp": 51_250,
        "class/thermal/thermal_zone1/type": "gpu-thermal",
        f"{rail}/in1_label": "VDD_IN",
        f"{rail}/in1_input": 5_024,
        f"{rail}/curr1_input": 1_500,
        f"{rail}/in2_label": "VDD_CPU_GPU_CV",
        f"{rail}/in2_input": 5_024,
        f"{rail}/curr2_input": 400,
        "class/thermal/cooling_device0/type": "cpufreq-cpu0",
        "class/thermal/cooling_device0/cur_state": 2,
    }
    write(tmp_path, files)
    state = Board(tmp_path).state()
    assert (state.temperature_c, state.hottest) == (51.2, "gpu-thermal")
    assert state.power_w == pytest.approx(7.536)
    assert state.throttled is True


def test_a_raspberry_pi_tells_now_from_once(tmp_path):
    throttled = "devices/platform/soc/soc:firmware/get_throttled"
    write(tmp_path, {throttled: "50000"})  # since boot, not now
    assert Board(tmp_path).state().throttled is False
    write(tmp_path, {throttled: "50005"})
    assert Board(tmp_path).state().throttled is True


def test_intels_counter_is_power_from_the_second_look_on_and_may_wrap(tmp_path):
    counter = "class/powercap/intel-rapl:0/energy_uj"
    write(tmp_path, {counter: 1_000_000})
    board = Board(tmp_path)
    assert board.state(10.0).power_w is None
    write(tmp_path, {counter: 25_000_000})
    assert board.state(10.5).power_w is None  # it looks once a second
    assert board.state(12.0).power_w == pytest.approx(12.0)
    write(tmp_path, {counter: 5})
    assert board.state(14.0).power_w is None


def test_a_sensor_that_goes_away_is_unknown(tmp_path):
    meter = "class/hwmon/hwmon0/power1_input"
    write(tmp_path, {meter: 7_000_000, "class/thermal/thermal_zone0/temp": 40_000})
    board = Board(tmp_path)
    assert board.state(1.0).power_w == 7.0
    (tmp_path / meter).unlink()
    (tmp_path / "class/thermal/thermal_zone0/temp").write_text("N/A")
    assert board.state(3.0) == UNKNOWN


def test_prometheus_gets_what_is_known_and_nan_for_the_rest():
    from urllib.request import urlopen

    metrics = Metrics("127.0.0.1:0")
    try:
        board = BoardState(temperature_c=61.5, throttled=True)
        metrics.add(Tick(step=0, captured_ns=0, state="ok", board=board), 0.1)
        text = urlopen(f"http://127.0.0.1:{metrics.port}/metrics").read().decode()
    finally:
        metrics.close()
    found = dict(line.split() for line in text.splitlines() if line.startswith("jepa_edge_t"))
    assert found["jepa_edge_temperature_celsius"] == "61.5"
    assert found["jepa_edge_throttled"] == "1.0"
    watts = next(x for x in text.splitlines() if x.startswith("jepa_edge_power_watts"))
    assert math.isnan(float(watts.split()[1]))
