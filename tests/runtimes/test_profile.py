"""The profile comes from the engine: its nodes are those it runs, its groups add up."""

import msgspec
import pytest

from jepa_edge.bundle import open_bundle
from jepa_edge.cli import main
from jepa_edge.contract import WrongUseError
from jepa_edge.runtimes.profile import profile_of


def test_every_node_is_in_one_group(micro_bundle):
    bundle = open_bundle(micro_bundle)
    profile = profile_of(bundle, "encoder", "fp32")
    assert {"MatMul", "Transpose"} <= {node.operator for node in profile.nodes}
    assert sum(group.nodes for group in profile.groups) == len(profile.nodes)
    assert sum(group.share for group in profile.groups) == pytest.approx(1, abs=0.01)
    assert profile.nodes[0].ms == max(node.ms for node in profile.nodes)
    with pytest.raises(WrongUseError, match="it has: encoder"):
        profile_of(bundle, "decoder")


def test_an_engine_that_tells_nothing_is_named(micro_bundle):
    bundle = open_bundle(micro_bundle)
    manifest = msgspec.structs.replace(bundle.manifest, engine="tensorrt")
    with pytest.raises(WrongUseError, match="trtexec"):
        profile_of(msgspec.structs.replace(bundle, manifest=manifest), "encoder")


def test_the_command_line_prints_profiles(micro_bundle, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(micro_bundle), "--profile", "all", "--json"])
    assert ended.value.code == 0
    printed = msgspec.json.decode(capsys.readouterr().out)
    assert [p["graph"] for p in printed["profiles"]] == ["encoder", "predictor", "rollout"]
