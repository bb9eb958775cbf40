"""The command, end to end: JSON, page and messages."""

import json
from html.parser import HTMLParser

import msgspec
import pytest

from jepa_edge import cli
from jepa_edge.bench.facts import Report
from jepa_edge.bench.pipeline import BenchConfig, checked
from jepa_edge.contract import InputError, WrongUseError


class Outside(HTMLParser):
    """Collects tags, and every address that is not inside the page."""

    def __init__(self):
        super().__init__()
        self.tags, self.addresses, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        linked = [v for k, v in attrs if k in ("src", "href", "xlink:href", "data")]
        self.addresses += [v for v in linked if v and not v.startswith(("#", "data:"))]
        if tag in ("table", "svg", "body", "html", "div", "h2"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("table", "svg", "body", "html", "div", "h2"):
            assert self.open.pop() == tag


def outcome(arguments, capfd):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *map(str, arguments)])
    return ended.value.code, capfd.readouterr()


@pytest.fixture
def measured(micro_bundle, tiny_clip, tmp_path, capfd):
    flags = ["--bundle", micro_bundle, "--clip", tiny_clip, "--rounds", "3", "--threads", "1"]
    code, shown = outcome([*flags, "--report", tmp_path / "out", "--json"], capfd)
    assert code == 0, shown.err
    return shown.out, tmp_path / "out"


def test_stdout_is_one_json_object_that_follows_the_schema(measured):
    printed, folder = measured
    report = msgspec.json.decode(printed, type=Report, strict=True)
    assert checked(report) == report
    assert report == msgspec.json.decode((folder / "bench.json").read_bytes(), type=Report)
    assert [v.label for v in report.variants] == ["fp32", "int8"]
    fp32, int8 = report.variants
    assert fp32.agreement["latents"].parity.cosine_worst == pytest.approx(1, abs=1e-9)
    assert 0.99 < int8.agreement["latents"].parity.cosine_mean < 1
    assert int8.precision_used == "f32"  # what it really computes in, not what it is called
    assert int8.timing["encoder"].count == 3
    assert report.machine.cores >= 1
    assert report.machine.threads == 1


def test_json_with_an_unknown_field_is_refused(measured):
    report = json.loads(measured[0]) | {"surplus": 1}
    with pytest.raises(msgspec.ValidationError, match="surplus"):
        msgspec.json.decode(json.dumps(report), type=Report)


def test_page_is_whole_and_needs_nothing_from_outside(measured):
    text = (measured[1] / "bench.html").read_text()
    page = Outside()
    page.feed(text)
    assert page.open == []
    assert page.addresses == []
    assert not any(word in text for word in ("http:", "https:", "@import", "url(//"))
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert page.tags.count("svg") == 4
    assert page.tags.count("table") >= 3
    assert "Measured on this machine" in text
    assert not list(measured[1].glob("*.part"))


def test_bundle_without_fp32_says_so(micro_bundle, tiny_clip, capfd):
    flags = ["--bundle", micro_bundle, "--clip", tiny_clip, "--rounds", "2"]
    code, shown = outcome([*flags, "--precision", "int8"], capfd)
    assert code == 0
    assert "no fp32 in the bundle" in shown.out


def test_two_bundles_are_told_apart(micro_bundle, tiny_clip, tmp_path, capfd):
    other = tmp_path / "other.jepa"
    micro_bundle.rename(other)
    packed = tmp_path / "packed.tar.zst"
    with pytest.raises(SystemExit):
        cli.main(["inspect", str(other), "--pack", str(packed)])
    capfd.readouterr()
    flags = ["--bundle", other, "--against", packed, "--clip", tiny_clip, "--rounds", "2"]
    code, shown = outcome([*flags, "--json"], capfd)
    labels = [variant["label"] for variant in json.loads(shown.out)["variants"]]
    assert code == 0
    assert len(set(labels)) == 4
    assert labels[0] == "other.jepa:fp32"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rounds", "1"], "at least 2 are needed"),
        (["--precision", "fp8"], "there is: fp32, int8"),
        (["--clip", "nowhere.mp4"], "nowhere.mp4"),
        (["--probe-data", "nowhere"], "no dataset at nowhere"),
        (["--clip-limit", "0"], "at least 1 clip"),
    ],
)
def test_wrong_use_is_told_and_ends_with_2(flags, said, micro_bundle, tiny_clip, capfd):
    given = ["--bundle", micro_bundle, "--clip", tiny_clip, "--rounds", "2", *flags]
    code, shown = outcome(given, capfd)
    assert code == 2
    assert said in " ".join(shown.err.split())
    assert shown.out == ""


def test_configuration_refuses_what_measures_nothing(tmp_path):
    with pytest.raises(WrongUseError):
        BenchConfig(bundles=[tmp_path], rounds=0)


def test_report_outside_its_schema_is_refused(measured):
    report = msgspec.json.decode(measured[0], type=Report)
    broken = msgspec.structs.replace(report, rounds="many")
    with pytest.raises(InputError, match="does not follow its schema"):
        checked(broken)
