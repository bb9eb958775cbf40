"""The one command over all rooms."""

import importlib.util
import json
import resource
import subprocess
import sys

import pytest

from jepa_edge import __version__, cli, inspection
from jepa_edge.bundle import open_bundle
from jepa_edge.contract import InputError, WrongUseError


def outcome(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code, capsys.readouterr()


def test_help_names_every_verb(capsys):
    code, shown = outcome(["--help"], capsys)
    assert code == 0
    for name, verb in cli.VERBS.items():
        assert f"  {name} " in shown.out
        assert verb.help in shown.out


def test_version(capsys):
    assert outcome(["--version"], capsys)[1].out == f"jepa-edge {__version__}\n"


def test_unknown_verb_suggests_and_exits_2(capsys):
    code, shown = outcome(["exprot"], capsys)
    assert code == 2
    assert "did you mean 'export'?" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("verb", cli.VERBS.values(), ids=cli.VERBS)
def test_every_verb_has_a_module(verb):
    assert importlib.util.find_spec(verb.module)


def test_help_is_quick():
    """Processor time, best of three: the machine may be busy, the code may not be slow."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "jepa_edge", "-h"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 0.5


def test_inspect_prints_one_json_object(micro_bundle, capsys):
    code, shown = outcome(["inspect", str(micro_bundle), "--json"], capsys)
    assert code == 0
    assert json.loads(shown.out)["name"] == "micro"


def test_inspect_table_names_graphs_and_shapes(micro_bundle, capsys):
    code, shown = outcome(["inspect", str(micro_bundle)], capsys)
    assert code == 0
    assert "encoder" in shown.out
    assert "predictor" in shown.out
    assert "1x3x8x16x16" in shown.out


def test_inspect_reports_a_changed_file(micro_bundle, capsys):
    file = micro_bundle / "fp32" / "encoder.onnx"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    code, shown = outcome(["inspect", str(micro_bundle)], capsys)
    assert code == 1
    assert "fp32/encoder.onnx" in shown.err


def test_pack_then_unpack_is_the_same_bundle(micro_bundle, tmp_path, capsys):
    packed, back = tmp_path / "m.tar.zst", tmp_path / "back.jepa"
    assert outcome(["inspect", str(micro_bundle), "--pack", str(packed)], capsys)[0] == 0
    assert outcome(["inspect", str(packed), "--unpack", str(back)], capsys)[0] == 0
    assert open_bundle(back).manifest == open_bundle(micro_bundle).manifest


def test_unpack_refuses_a_folder_that_is_there(tmp_path):
    with pytest.raises(WrongUseError, match="is there already"):
        inspection.unpack_bundle(tmp_path / "x.tar.zst", tmp_path)
    with pytest.raises(InputError, match="no packed bundle"):
        inspection.unpack_bundle(tmp_path / "x.tar.zst", tmp_path / "new")
