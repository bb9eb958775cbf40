"""The verdict: fast enough to be worth its error, fit to ship, or stay at half precision."""

from jepa_edge.devices.targets import target
from jepa_edge.quantize.recommend import Candidate, _choice


def candidate(precision, speed_up, problems=()):
    return Candidate(
        precision=precision,
        is_fit=not problems,
        speed_up=speed_up,
        file_mib=1.0,
        same_action=0.99,
        same_action_low=0.95,
        spearman=0.999,
        problems=list(problems),
    )


def test_the_fastest_fit_precision_that_is_worth_its_error():
    found = [candidate("fp32", 1.0), candidate("bf16", 1.5), candidate("int8", 2.0)]
    precision, reasons = _choice(found, target("x86-cpu"))
    assert precision == "int8"
    assert "int8 is 1.33 times as fast as bf16" in reasons[0]
    assert "99.0%" in reasons[1]


def test_a_small_gain_does_not_pay_for_more_error():
    found = [candidate("fp32", 1.0), candidate("bf16", 1.5), candidate("int8", 1.6)]
    precision, reasons = _choice(found, target("x86-cpu"))
    assert precision == "bf16"
    assert any("int8 is not worth its error" in reason for reason in reasons)


def test_what_misses_a_floor_is_out_however_fast():
    found = [candidate("fp32", 1.0), candidate("int8", 3.0, ["encoder latents: mean cosine 0.9"])]
    precision, reasons = _choice(found, target("x86-cpu"))
    assert precision == "fp32"
    assert "int8 is out: encoder latents: mean cosine 0.9" in reasons


def test_on_a_jetson_it_stays_at_fp16_until_the_board_has_measured():
    found = [candidate("fp32", None), candidate("fp16", None), candidate("int8", None)]
    precision, reasons = _choice(found, target("jetson"))
    assert precision == "fp16"
    assert "until the board has measured" in reasons[0]
    assert "512 tokens" in reasons[1]


def test_nothing_fit_is_said_so():
    precision, reasons = _choice([candidate("int8", 2.0, ["bad"])], target("x86-cpu"))
    assert precision == ""
    assert reasons == ["no precision holds its floors", "int8 is out: bad"]
