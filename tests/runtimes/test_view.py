"""The view for people shows a whole run, and never stops one."""

import socket
import threading

import msgspec
import numpy as np
import pytest

from jepa_edge.bundle import MANIFEST, open_bundle, write_manifest
from jepa_edge.contract import WrongUseError
from jepa_edge.runtimes.loop import Tick
from jepa_edge.runtimes.paths import Far
from jepa_edge.runtimes.pipeline import RunConfig, run
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.view import WAITING, Plane, View, strip
from tests.devices.drone import free_port

rerun = pytest.importorskip("rerun", reason="comes with the view extra")


def test_everything_of_a_run_is_in_the_file(micro_bundle, tiny_clip, tmp_path):
    from rerun import recording

    config = RunConfig(
        bundle=micro_bundle,
        camera=str(tiny_clip),
        mic=str(tiny_clip),
        controller="none",
        steps=6,
        view=str(tmp_path / "run.rrd"),
    )
    done = run(config)
    seen = recording.load_recording(tmp_path / "run.rrd")
    paths = {column.entity_path for column in seen.schema().component_columns()}
    for wanted in ("camera", "sound", "state", "latents/been", "latents/now", "latents/predicted"):
        assert f"/{wanted}" in paths
    assert {"/numbers/surprise", "/times/encode", "/times/age"} <= paths
    told = seen.view(index="step", contents="/state").select().read_all()
    assert told.num_rows - done.steps in (0, 1)  # the loop is one step ahead of what is taken


def paths_shown(file, **options):
    """What a run shows, by path; it is left in `file`."""
    from rerun import recording

    run(RunConfig(controller="none", fast=True, view=str(file), steps=8, **options))
    schema = recording.load_recording(file).schema()
    return {column.entity_path for column in schema.component_columns()}


def test_latents_and_predictions_are_shown_as_pictures(
    micro_bundle, micro_viewer, tiny_clip, tmp_path
):
    from rerun import recording

    asked = {"bundle": micro_bundle, "camera": str(tiny_clip), "mic": str(tiny_clip)}
    file = tmp_path / "run.rrd"
    assert {"/decoded/now", "/decoded/predicted"} <= paths_shown(file, viewer=micro_viewer, **asked)
    table = recording.load_recording(file).view(index="step", contents="/decoded/**").select()
    shown = table.read_all().to_pydict()
    sizes = {
        name.split(":")[0]: {(kind[0]["width"], kind[0]["height"]) for kind in column if kind}
        for name, column in shown.items()
        if name.endswith("format")
    }
    assert sizes == {"/decoded/now": {(24, 16)}, "/decoded/predicted": {(2 * 24 + 2, 16)}}
    assert not any("decoded" in path for path in paths_shown(tmp_path / "plain.rrd", **asked))


def test_of_a_model_that_only_plans_it_shows_where_the_plan_leads(
    micro_bundle, micro_viewer, tiny_clip, tmp_path
):
    manifest = open_bundle(micro_bundle).manifest
    graphs = dict(manifest.precisions["fp32"].graphs)
    del graphs["predictor"]
    fp32 = msgspec.structs.replace(manifest.precisions["fp32"], graphs=graphs)
    alone = msgspec.structs.replace(manifest, precisions={"fp32": fp32})
    (micro_bundle / MANIFEST).unlink()
    write_manifest(micro_bundle, alone)
    asked = {"bundle": micro_bundle, "camera": str(tiny_clip), "mic": str(tiny_clip)}
    asked |= {"viewer": micro_viewer}
    predicted = "/decoded/predicted"
    goal = str(tiny_clip)
    assert predicted in paths_shown(tmp_path / "plans.rrd", goal=goal, **asked)


def test_a_viewer_of_another_model_or_with_no_view_is_refused_before_the_run(
    micro_bundle, micro_viewer, tmp_path
):
    asked = {"bundle": micro_bundle, "camera": "/none.mp4", "mic": "none", "viewer": micro_viewer}
    with pytest.raises(WrongUseError, match="give --view"):
        run(RunConfig(**asked))
    far = Far(engine="grpc://127.0.0.1:1")
    with pytest.raises(WrongUseError, match="--engine local"):
        run(RunConfig(view="run.rrd", far=far, **asked))
    manifest = open_bundle(micro_bundle).manifest
    replace = msgspec.structs.replace
    other_width = replace(manifest, model=replace(manifest.model, pooled_dim=16))
    write_manifest(micro_bundle, other_width)
    with pytest.raises(WrongUseError, match="width 8.*width 16.*: jepa-edge viewer"):
        run(RunConfig(view=str(tmp_path / "run.rrd"), **asked))
    assert not (tmp_path / "run.rrd").exists()


def test_pictures_stand_beside_each_other():
    beside = strip(np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((4, 5, 3), np.uint8))
    assert beside.shape == (4, 19, 3)
    assert beside[0, :, 0].tolist() == [*[0] * 5, 255, 255, *[1] * 5, 255, 255, *[2] * 5]


def test_a_view_that_hangs_costs_the_run_nothing_and_counts(micro_bundle, tmp_path, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(View, "_show_tick", lambda _self, _tick: over.wait(30))
    view = View(str(tmp_path / "v.rrd"), open_bundle(micro_bundle).manifest.senses)
    step = StepData(index=0, captured_ns=0, video=None, audio=None)
    for index in range(50):
        view.add(step, Tick(step=index, captured_ns=0, state="ok"), None, None)
    assert view.missed >= 50 - WAITING - 1
    over.set()
    view.close()


def test_a_port_is_listened_on_while_the_view_is_open(micro_bundle):
    port = free_port()
    view = View(str(port), open_bundle(micro_bundle).manifest.senses)
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    finally:
        view.close()


@pytest.mark.parametrize("where", ["screen", "/no/such/folder/v.rrd"])
def test_a_place_that_shows_nothing_is_refused(micro_bundle, where):
    with pytest.raises(WrongUseError, match="--view"):
        View(where, open_bundle(micro_bundle).manifest.senses)


def test_the_plane_keeps_what_differs_most_and_does_not_flip():
    draw = np.random.default_rng(0)
    along, plane = np.zeros(8, np.float32), Plane()
    along[3] = 1.0
    way = []
    for index in range(200):
        noise = 0.01 * draw.normal(size=8)
        way.append(plane.add((along * index + noise).astype(np.float32)))
    assert np.corrcoef(way[-1][:, 0], np.arange(200))[0, 1] ** 2 > 0.999
    assert np.sign(way[40][-1] - way[40][0])[0] == np.sign(way[-1][-1] - way[-1][0])[0]
