"""What the model is given and gives: refused at each limit, and not one step before it."""

import msgspec
import numpy as np

from jepa_edge.runtimes.safety import (
    Watchdog,
    WatchLimits,
    arming_refusal,
    too_old,
    unsafe_output,
)
from jepa_edge.runtimes.sources import StepData

S = 1_000_000_000
replaced = msgspec.structs.replace


def step(at_s=0.0, video=0.0, audio=None, fault=""):
    """Two frames of one value each (or one for both); sound that is noise unless it is a number."""
    shown = np.empty((1, 3, 2, 4, 4), np.float32)
    shown[:] = np.reshape(np.broadcast_to(video, 2), (1, 1, 2, 1, 1))
    heard = np.random.default_rng(0).random((1, 1, 8, 20), np.float32)
    if audio is not None:
        heard[:] = audio
    return StepData(index=0, captured_ns=round(at_s * S), video=shown, audio=heard, fault=fault)


def test_a_step_that_is_well_is_not_refused():
    watch = Watchdog(WatchLimits(frozen_after_s=0.4, silent_after_s=0.4))
    assert [watch.refusal(step(0.2 * k, video=k)) for k in range(9)] == [""] * 9


def test_a_fault_and_what_is_not_finite_are_refused():
    assert Watchdog().refusal(step(fault="camera gives no frame")) == "camera gives no frame"
    assert Watchdog().refusal(step(video=np.nan)) == "video is not finite"
    assert Watchdog().refusal(step(video=(0.0, np.nan))) == "video is not finite"
    assert Watchdog().refusal(step(audio=np.inf)) == "audio is not finite"
    senseless = replaced(step(), video=None, audio=None)
    watch = Watchdog(WatchLimits(frozen_after_s=0.1, silent_after_s=0.1))
    assert [watch.refusal(replaced(senseless, captured_ns=k * S)) for k in (1, 2)] == ["", ""]


def test_a_picture_frozen_to_the_last_bit_is_refused_from_its_limit_on():
    watch = Watchdog(WatchLimits(frozen_after_s=0.4))
    shown = [1, 2, 2, 2, 2, (2, 3), (3, 2), 2, 2]
    refused = [watch.refusal(step(0.2 * k, video=v)) for k, v in enumerate(shown)]
    said = [reason != "" for reason in refused]
    assert said == [False, False, False, True, True, False, False, False, True]
    assert refused[3] == "camera shows one frozen picture for 0.4 s"
    assert refused[4] == "camera shows one frozen picture for 0.6 s"


def test_one_frame_that_moves_is_life_whichever_of_the_two():
    for moved in ((0, 1), (1, 0)):
        watch = Watchdog(WatchLimits(frozen_after_s=0.2))
        assert watch.refusal(step(10.0, video=0)) == ""
        assert watch.refusal(step(10.2, video=moved)) == ""


def test_noise_in_one_pixel_is_a_living_picture():
    watch = Watchdog(WatchLimits(frozen_after_s=0.2))
    for k in range(5):
        shown = step(0.2 * k)
        shown.video[0, 0, 0, 0, 0] = 1e-6 * k
        assert watch.refusal(shown) == ""


def test_a_still_picture_is_no_fault_where_no_limit_is_set():
    watch = Watchdog()
    assert [watch.refusal(step(100.0 * k, audio=0.0)) for k in range(5)] == [""] * 5


def test_digital_silence_is_refused_from_its_limit_on_and_any_sound_ends_it():
    watch = Watchdog(WatchLimits(silent_after_s=1.0))
    loud = [watch.refusal(step(5.0 + k, audio=0.0 if k in (0, 1, 3) else None)) for k in range(5)]
    assert loud == ["", "microphone gives digital silence for 1.0 s", "",
                    "microphone gives digital silence for 1.0 s", ""]  # fmt: skip


def test_a_microphone_silent_from_the_first_moment_is_given_the_same_time():
    watch = Watchdog(WatchLimits(silent_after_s=1.0))
    said = [watch.refusal(step(50 + 0.5 * k, audio=-3.5)) != "" for k in range(4)]
    assert said == [False, False, True, True]


def test_what_the_model_gives_must_be_finite_and_young():
    good, bad = np.zeros(3, np.float32), np.array([0, np.nan, 0], np.float32)
    assert unsafe_output(good, good) == unsafe_output(None, None) == ""
    assert unsafe_output(bad, good) == "latents not finite"
    assert unsafe_output(good, bad) == "prediction not finite"
    assert too_old(100.0, 100.0) == ""
    assert too_old(100.1, 100.0) == "data is 100 ms old, the limit is 100"


def test_arming_needs_something_that_moves_and_something_that_acts():
    assert arming_refusal(armed=False, moves=True, plans=False) == ""
    assert arming_refusal(armed=False, moves=False, plans=True) == ""
    assert arming_refusal(armed=True, moves=True, plans=True) == ""
    still = "--arm is for controllers that move something; this one does not"
    aimless = "--arm needs actions: give a --goal, and a bundle with a rollout graph"
    assert arming_refusal(armed=True, moves=False, plans=True) == still
    assert arming_refusal(armed=True, moves=True, plans=False) == aimless
