"""What export writes for Triton: parsed by its own messages, and run by its real binary."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import yaml
from google.protobuf import text_format
from tritonclient import grpc as triton
from tritonclient.grpc import model_config_pb2

from jepa_edge.bundle import open_bundle
from jepa_edge.contract import WrongUseError
from jepa_edge.export.triton import TritonConfig, write_triton
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.engine_remote import RemoteEngine
from jepa_edge.runtimes.remote.link import Link, LinkConfig
from jepa_edge.runtimes.remote.stream import RemoteConfig, RemotePilot, RemoteStream
from jepa_edge.runtimes.stream import Stream
from tests.cloud.bundles import ACTIONS, AHEAD, WIDTH, WINDOW

MODELS = {"step", "predictor", "rollout", "stream", "pilot", "planner"}
PORT = 18501
DEBIAN_PYTHON = Path("/usr/bin/python3")
WHEELS = ["nvidia-pytriton==0.7.0", "onnxruntime", "numpy<2", "msgspec", "typer", "rich"]
WHEELS += ["zstandard", "opencv-python-headless<5"]


def config_of(repository, model):
    text = (Path(repository) / model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_a_repository_has_a_model_for_each_graph_and_for_sessions(cloud_bundle, tmp_path):
    written = write_triton(TritonConfig(bundle=cloud_bundle, out=tmp_path / "repo"))
    assert set(written.models) == MODELS
    assert sorted(os.listdir(written.repository)) == sorted(MODELS)  # noqa: PTH208
    step = config_of(written.repository, "step")
    assert (step.backend, step.max_batch_size) == ("onnxruntime", 0)
    graph = open_bundle(cloud_bundle).manifest.precisions["fp32"].graphs["step"]
    assert {i.name: tuple(i.dims) for i in step.input} == {s.name: s.shape for s in graph.inputs}
    assert (Path(written.repository) / "step" / "1" / "model.onnx").is_file()
    stream = config_of(written.repository, "stream")
    assert stream.backend == "python"
    assert {i.name for i in stream.input if i.optional} == {"frames", "jpeg", "audio", "audio_half"}
    home = Path(written.repository) / "pilot" / stream.parameters["bundle"].string_value
    place = config_of(written.repository, "pilot").parameters["bundle"].string_value
    assert open_bundle((home.parent / place).resolve()).manifest.name == "micro"


def test_the_inference_service_is_one_of_kserve_and_points_to_the_models(cloud_bundle, tmp_path):
    config = TritonConfig(bundle=cloud_bundle, out=tmp_path / "repo", storage="s3://fleet/models")
    fields = yaml.safe_load(Path(write_triton(config).service).read_text())
    assert (fields["apiVersion"], fields["kind"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    )
    model = fields["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": "triton"}
    assert model["storageUri"] == "s3://fleet/models"
    assert model["protocolVersion"] == "grpc-v2"


def test_what_is_there_is_not_overwritten_and_nothing_is_half_written(cloud_bundle, tmp_path):
    with pytest.raises(WrongUseError, match="is there already"):
        write_triton(TritonConfig(bundle=cloud_bundle, out=tmp_path))
    wrong = TritonConfig(bundle=cloud_bundle, out=tmp_path / "repo", precision="int3")
    with pytest.raises(WrongUseError, match="no precision"):
        write_triton(wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="session")
def triton_python(tmp_path_factory):
    """Debian's Python with Triton's binary and what our code needs; JEPA_EDGE_TRITON reuses one."""
    kept = os.environ.get("JEPA_EDGE_TRITON")
    venv = Path(kept) if kept else tmp_path_factory.mktemp("triton") / "venv"
    if not (venv / "bin" / "python").exists():
        if not DEBIAN_PYTHON.exists() or shutil.which("gcc") is None:
            pytest.skip("Triton's Python backend needs Debian's /usr/bin/python3")
        made = subprocess.run([DEBIAN_PYTHON, "-m", "venv", venv], capture_output=True)
        if made.returncode:
            pytest.skip("Debian's python3 has no venv (apt-get install python3-venv)")
        pip = [venv / "bin" / "pip", "install", "-q", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *WHEELS], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nvidia-pytriton cannot be installed here: {done.stderr[-200:]}")
        subprocess.run([*pip, "--no-deps", "-e", "."], check=True, capture_output=True)
    return venv


@pytest.fixture(scope="session")
def real_triton(triton_python, cloud_bundle, tmp_path_factory):
    """The address of NVIDIA's tritonserver with the repository that export wrote."""
    repository = tmp_path_factory.mktemp("repository") / "repo"
    config = TritonConfig(bundle=cloud_bundle, out=repository, backend="python", threads=1)
    written = write_triton(config)
    command, environment = triton_command(triton_python, written.repository)
    log = (repository.parent / "triton.log").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        client = triton.InferenceServerClient(f"127.0.0.1:{PORT}")
        until = time.monotonic() + 100
        while not _is_ready(client):
            told = (repository.parent / "triton.log").read_text()[-3000:]
            assert process.poll() is None, told
            assert time.monotonic() < until, told
            time.sleep(0.2)
        client.close()
        yield f"127.0.0.1:{PORT}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def triton_command(venv, repository):
    """As pytriton starts its server: the stub of the Python at hand beside the backend."""
    (site,) = venv.glob("lib/python3*/site-packages")
    home = site / "pytriton" / "tritonserver"
    version = site.parent.name.removeprefix("python")
    stub = home / "backends" / "python" / "triton_python_backend_stub"
    if not stub.exists():
        shutil.copy(home / "python_backend_stubs" / version / stub.name, stub)
    environment = os.environ | {
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(venv),
        "PYTHONPATH": str(site),
    }
    command = [str(home / "bin" / "tritonserver"), "--model-repository", repository]
    command += ["--backend-directory", str(home / "backends"), "--allow-http", "false"]
    command += ["--grpc-port", str(PORT), "--grpc-address", "127.0.0.1", "--allow-metrics", "false"]
    return command, environment


def _is_ready(client):
    try:
        return client.is_server_ready()
    except (triton.InferenceServerException, grpc.RpcError):
        return False


@pytest.mark.slow
def test_our_remote_engine_and_stream_run_on_the_real_triton(real_triton, cloud_bundle, steps):
    """The same client code as against `jepa-edge serve`, unchanged."""
    with triton.InferenceServerClient(real_triton) as client:
        assert {model.name for model in client.get_model_repository_index().models} == MODELS
        assert client.get_server_metadata().name == "triton"
    bundle = open_bundle(cloud_bundle)
    link = Link(LinkConfig(uri=f"grpc://{real_triton}"))
    graphs = bundle.manifest.precisions["fp32"].graphs
    random = np.random.default_rng(0)
    for name in ("step", "predictor", "rollout"):
        far, near = RemoteEngine(link, name, graphs[name], deadline_s=20), open_engine(bundle, name)
        inputs = {s.name: random.standard_normal(s.shape, dtype=np.float32) for s in near.inputs}
        ours = near.run(inputs)
        for key, array in far.run(inputs).items():
            np.testing.assert_allclose(array, ours[key], rtol=1e-4, atol=1e-5)

    stream = RemoteStream(bundle, link, RemoteConfig(deadline_s=20, uplink="raw"))
    stream.connect()
    ours = Stream(bundle, None)
    for step in steps[:6]:
        np.testing.assert_allclose(
            stream.encode(step)[1], ours.encode(step)[1], rtol=1e-4, atol=1e-4
        )
    np.testing.assert_allclose(stream.predict(), ours.predict(), rtol=1e-4, atol=1e-4)

    goal = np.linspace(-1, 1, WIDTH).astype(np.float32)
    config = RemoteConfig(deadline_s=20, uplink="jpeg")
    flown = RemoteStream(bundle, link, config, goal=goal)
    flown.connect()
    pilot = RemotePilot(flown)
    for step in steps[:WINDOW]:
        _, pooled = flown.encode(step)
        plan = pilot.act(pooled, ready=flown.is_warm)
    assert plan.actions.shape == (AHEAD, ACTIONS)

    lost = RemoteStream(bundle, link, config, goal=goal)  # a session that Triton does not know
    lost._starts = False
    assert lost.encode(steps[0]) is not None
    link.close()
