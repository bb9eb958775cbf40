"""`jepa-edge run` steers a simulated PX4 and ArduPilot through faults of every process."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from pymavlink.dialects.v20 import common as mavlink

from tests.runtimes.mavlink.conftest import until

HOLD_MS = 200.0


def heartbeats(run):
    return [(at, m) for at, m in list(run.autopilot.told) if m.get_type() == "HEARTBEAT"]


@pytest.mark.parametrize("kind", ["px4", pytest.param("ardupilot", marks=pytest.mark.slow)])
def test_setpoints_come_at_rate_and_a_stopped_runtime_is_a_hold(steer, kind):
    run = steer(kind)
    assert kind != "px4" or not run.autopilot.choose("offboard")  # not before a second of setpoints
    run.fly()
    began_ns = time.monotonic_ns()
    time.sleep(2.0)
    taken = [t.at_ns for t in run.autopilot.taken if t.at_ns > began_ns]
    assert len(taken) >= 40  # 25 a second are sent; both autopilots ask for 2
    assert np.diff(taken).max() / 1e6 < 200
    for _, message in heartbeats(run):
        assert message.type == mavlink.MAV_TYPE_ONBOARD_CONTROLLER
        assert message.autopilot == mavlink.MAV_AUTOPILOT_INVALID
        assert (message.get_srcSystem(), message.get_srcComponent()) == (1, 191)
    gaps_s = np.diff([at for at, _ in heartbeats(run)]) / 1e9
    assert gaps_s.max() < 1.5

    os.kill(run.process.pid, signal.SIGSTOP)
    stopped_ns = time.monotonic_ns()
    assert run.hold_ms(stopped_ns) < HOLD_MS
    assert 900 < run.silence_ms(stopped_ns) < 1600  # one second of brake, then nothing
    assert not run.moving(stopped_ns + int(HOLD_MS * 1e6))
    if kind == "px4":
        until(lambda: run.autopilot.state.mode == "hold")  # its own fail-safe is in charge
    until(lambda: run.autopilot.state.speed < 0.1)

    os.kill(run.process.pid, signal.SIGCONT)
    woken_ns = time.monotonic_ns()
    if kind == "ardupilot":  # still in GUIDED: it goes on by itself
        until(lambda: run.moving(woken_ns))
    else:  # PX4 has left our mode: it is the pilot's until it is given back
        time.sleep(1.0)
        assert not run.moving(woken_ns)


@pytest.mark.slow
def test_a_killed_runtime_is_a_hold_then_silence_and_leaves_no_process(steer):
    run = steer("ardupilot")
    run.fly()
    sender = run.sender
    os.kill(run.process.pid, signal.SIGKILL)
    killed_ns = time.monotonic_ns()
    assert run.hold_ms(killed_ns) < HOLD_MS
    assert 900 < run.silence_ms(killed_ns) < 1600
    until(lambda: not Path(f"/proc/{sender}").exists() or zombie(sender))


def zombie(pid):
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


@pytest.mark.slow
def test_ctrl_c_brakes_the_vehicle_before_the_run_ends(steer):
    run = steer("ardupilot")
    run.fly()
    os.kill(run.process.pid, signal.SIGINT)
    asked_ns = time.monotonic_ns()
    assert run.hold_ms(asked_ns) < HOLD_MS
    code, said = run.ended()
    assert code == 0
    assert "holds" in said
    assert not run.moving(asked_ns + int(HOLD_MS * 1e6))


@pytest.mark.slow
def test_a_stalled_sender_is_replaced_and_the_autopilot_had_stopped_the_vehicle(steer):
    run = steer("ardupilot", parameters={"GUID_TIMEOUT": 0.5})
    run.fly()
    old = run.sender
    os.kill(old, signal.SIGSTOP)
    stopped_ns = time.monotonic_ns()
    until(lambda: run.moving(stopped_ns + 300_000_000))
    assert run.sender != old
    assert not Path(f"/proc/{old}").exists()


@pytest.mark.slow
def test_the_pilot_takes_over_and_gives_back(steer):
    run = steer("px4")
    run.fly()
    run.autopilot.choose("position")
    taken_ns = time.monotonic_ns()
    time.sleep(1.2)
    late = [t for t in run.autopilot.taken if t.at_ns > taken_ns + 100_000_000]
    assert late == []
    assert not run.autopilot.choose("offboard")  # without a stream PX4 would not
    resume(run)
    run.fly()
    assert run.moving(taken_ns)


def command(run, param1, target=191):
    return mavlink.MAVLink_command_long_message(
        1, target, mavlink.MAV_CMD_DO_PAUSE_CONTINUE, 0, param1, 0, 0, 0, 0, 0, 0
    )


def resume(run):
    run.autopilot.send(command(run, 1))


@pytest.mark.slow
def test_a_dry_run_checks_listens_and_moves_nothing(steer):
    run = steer("ardupilot", "--steps", "12", armed=False, parameters={"GUID_TIMEOUT": 3.0})
    until(lambda: heartbeats(run), 30.0)
    run.autopilot.choose("offboard")
    code, said = run.ended(30.0)
    assert code == 0, said
    assert run.autopilot.taken == []
    assert "GUID_TIMEOUT is 3" in said
    assert "nothing moves without --arm" in said


@pytest.mark.parametrize(
    ("kind", "parameters", "named"),
    [
        ("ardupilot", {"GUID_TIMEOUT": 3.0}, "GUID_TIMEOUT is 3"),
        pytest.param(
            *("px4", {"COM_OF_LOSS_T": 5.0, "COM_OBL_RC_ACT": 7}, "COM_OBL_RC_ACT is 7"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_autopilot_that_would_fly_on_is_refused(steer, kind, parameters, named):
    run = steer(kind, parameters=parameters)
    code, said = run.ended(30.0)
    assert code == 1
    assert named in said
    assert run.autopilot.taken == []


@pytest.mark.slow
def test_setpoints_stay_in_the_envelope_and_the_fence(steer):
    fence = (
        "[envelope]\nspeed_m_s = 0.5\n[envelope.fence]\nradius_m = 0.8\nfloor_m = 5\nceiling_m = 15"
    )
    run = steer("ardupilot", more=fence)
    run.fly()
    farthest = 0.0
    ends = time.monotonic() + 5
    while time.monotonic() < ends:
        farthest = max(farthest, float(np.hypot(*run.autopilot.state.position[:2])))
        time.sleep(0.01)
    assert max(np.hypot(*t.velocity[:2]) for t in run.autopilot.taken) <= 0.5 + 1e-6
    assert 0.1 < farthest < 1.4  # 0.8, and what its lag carries it on: 0.94 s of 0.5 m/s


@pytest.mark.slow
def test_an_engine_that_hangs_is_a_hold_before_the_next_step_is_due(steer):
    run = steer("ardupilot", hangs=True)
    run.fly()
    time.sleep(1.0)  # it must have seen how long a step takes
    os.kill(run.process.pid, signal.SIGALRM)
    hung_ns = until(run.hung_ns)
    assert run.hold_ms(hung_ns) < HOLD_MS
    until(lambda: run.moving(hung_ns + 2_000_000_000))  # and goes on by itself
