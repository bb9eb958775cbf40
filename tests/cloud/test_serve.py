"""The server, judged by Triton's own client and by raw calls."""

import subprocess
import sys
import time
from pathlib import Path

import grpc
import msgspec
import numpy as np
import pytest
from grpc import StatusCode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from jepa_edge.bundle import open_bundle
from jepa_edge.contract import WrongUseError
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.remote.wire import tensors_from_steps
from jepa_edge.runtimes.serve.endpoint import Endpoint
from jepa_edge.runtimes.serve.tokens import token_for
from jepa_edge.runtimes.stream import Stream
from tests.cloud.bundles import ACTIONS, AHEAD, HISTORY, WIDTH

GRAPHS = {"predictor", "step", "rollout"}
REFUSALS = {
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.RESOURCE_EXHAUSTED,
}


def triton_inputs(tensors):
    found = []
    for name, array in tensors.items():
        kind = "BYTES" if array.dtype == object else np_to_triton_dtype(array.dtype)
        found.append(triton.InferInput(name, list(array.shape), kind))
        found[-1].set_data_from_numpy(array)
    return found


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.address) as found:
        yield found


@pytest.fixture(scope="module")
def manifest(cloud_bundle):
    return open_bundle(cloud_bundle).manifest


def ask(client, steps, manifest, robot, *, model="stream", uplink="raw", start=None, **more):
    tensors = tensors_from_steps(steps, manifest.senses, uplink) | more
    return client.infer(
        model,
        triton_inputs(tensors),
        sequence_id=robot,
        sequence_start=steps[0].index == 0 if start is None else start,
        parameters={"first_step": steps[0].index},
        request_id=f"{robot}:{steps[-1].index}",
    )


def test_triton_client_lists_loads_and_reads_the_models(client, manifest):
    assert client.is_server_live()
    assert client.is_server_ready()
    names = {model.name for model in client.get_model_repository_index().models}
    assert names == GRAPHS | {"stream", "pilot", "planner"}
    for name in names:
        client.load_model(name)
        assert client.is_model_ready(name)
    shapes = {port.name: list(port.shape) for port in client.get_model_metadata("step").inputs}
    graph = manifest.precisions["fp32"].graphs["step"]
    assert shapes == {spec.name: list(spec.shape) for spec in graph.inputs}
    with pytest.raises(InferenceServerException, match="no model 'nope'"):
        client.load_model("nope")
    with pytest.raises(InferenceServerException, match="while robots may use them"):
        client.unload_model("step")


@pytest.mark.parametrize("graph", sorted(GRAPHS))
def test_every_graph_gives_what_the_engine_gives(client, cloud_bundle, graph):
    engine = open_engine(open_bundle(cloud_bundle), graph, threads=1)
    random = np.random.default_rng(0)
    inputs = {s.name: random.standard_normal(s.shape, dtype=np.float32) for s in engine.inputs}
    answer = client.infer(graph, triton_inputs(inputs))
    for name, array in engine.run(inputs).items():
        np.testing.assert_array_equal(answer.as_numpy(name), array)


def test_two_robots_stream_in_turns_and_each_gets_its_own(client, cloud_bundle, manifest, steps):
    bundle = open_bundle(cloud_bundle)
    ours = {robot: Stream(bundle, None, threads=1) for robot in ("a", "b")}
    feeds = {"a": steps, "b": [steps[k] for k in (5, 3, 8, 1, 0, 2, 7, 4)]}
    for index in range(8):
        for robot, stream in ours.items():
            step = msgspec.structs.replace(feeds[robot][index], index=index)
            answer = ask(client, [step], manifest, f"turns-{robot}")
            _, pooled = stream.encode(step)
            np.testing.assert_allclose(answer.as_numpy("pooled"), pooled, rtol=1e-5, atol=1e-5)
            future = stream.predict()
            if future is not None:
                np.testing.assert_allclose(
                    answer.as_numpy("future_pooled"), future, rtol=1e-4, atol=1e-5
                )
            assert answer.get_response().id == f"turns-{robot}:{index}"
            assert (answer.as_numpy("step")[0], answer.as_numpy("seen")[0]) == (index, index + 1)


def test_a_step_twice_is_answered_again_an_old_one_refused_a_hole_begins_anew(
    client, manifest, steps
):
    robot = "holes"
    first = [ask(client, [step], manifest, robot) for step in steps[:5]][-1]
    again = ask(client, [steps[4]], manifest, robot)
    np.testing.assert_array_equal(first.as_numpy("pooled"), again.as_numpy("pooled"))
    with pytest.raises(InferenceServerException, match="not newer") as old:
        ask(client, [steps[2]], manifest, robot)
    assert old.value.status() == "StatusCode.FAILED_PRECONDITION"
    caught_up = ask(client, steps[3:7], manifest, robot)  # two of them are known
    assert caught_up.as_numpy("seen")[0] == 7
    after_hole = ask(client, [steps[9]], manifest, robot)
    assert after_hole.as_numpy("seen")[0] == 1
    whole = ask(client, steps[8:12], manifest, robot, start=True)
    fresh = ask(client, steps[8:12], manifest, "fresh", start=True)
    np.testing.assert_array_equal(whole.as_numpy("pooled"), fresh.as_numpy("pooled"))


def test_jpeg_costs_a_fraction_and_gives_nearly_the_same(client, manifest, steps):
    raw = ask(client, steps[:4], manifest, "raw").as_numpy("pooled")
    jpeg = ask(client, steps[:4], manifest, "jpeg", uplink="jpeg").as_numpy("pooled")
    cosine = raw @ jpeg / np.linalg.norm(raw) / np.linalg.norm(jpeg)
    assert cosine > 0.95  # of random weights on blocks of random colours
    sizes = [
        sum(len(f) for f in tensors_from_steps(steps[:4], manifest.senses, "jpeg")["jpeg"].ravel()),
        tensors_from_steps(steps[:4], manifest.senses, "raw")["frames"].nbytes,
    ]
    assert sizes[0] < sizes[1] / 2


def test_the_pilot_plans_and_the_planner_plans_without_a_session(client, manifest, steps):
    goal = np.random.default_rng(0).standard_normal(WIDTH).astype(np.float32)
    for step in steps[:4]:
        answer = ask(client, [step], manifest, "pilot", model="pilot", goal=goal)
    actions = answer.as_numpy("actions")
    assert actions.shape == (AHEAD, ACTIONS)
    assert np.abs(actions).max() <= 1
    history = np.random.default_rng(1).standard_normal((HISTORY, WIDTH)).astype(np.float32)
    scale = np.abs(history).max(1) / 127
    split = {"history": history, "goal": goal}
    small = {
        "history_int8": np.rint(history / scale[:, None]).astype(np.int8),
        "scale": scale,
        "goal": goal,
    }
    plans = [client.infer("planner", triton_inputs(t)).as_numpy("actions") for t in (split, small)]
    again = client.infer("planner", triton_inputs(split)).as_numpy("actions")
    np.testing.assert_array_equal(plans[0], again)  # any server gives the same
    assert np.abs(plans[0] - plans[1]).max() < 0.5


# ---- what is wrong is refused ------------------------------------------------------------------


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def code_of(stub, request):
    try:
        stub.ModelInfer(request, timeout=20)
    except grpc.RpcError as error:
        return error.code()
    return StatusCode.OK


def raw_request(model, tensors, **parameters):
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, (kind, shape, data) in tensors.items():
        request.inputs.add(name=name, datatype=kind, shape=shape)
        request.raw_input_contents.append(data)
    for name, value in parameters.items():
        field = "int64_param" if isinstance(value, int) else "string_param"
        setattr(request.parameters[name], field, value)
    return request


FRAMES = ("UINT8", [1, 2, 32, 32, 3], bytes(6144))
AUDIO = ("FP32", [1, 1, 8, 20], bytes(640))
GOOD = {"frames": FRAMES, "audio": AUDIO}
NAN = np.full((1, 1, 8, 20), np.nan, np.float32).tobytes()
BOMB = bytes.fromhex("ffd8ffc00011 08 ffff ffff 03".replace(" ", "")) + bytes(64)
WRONG = {
    "another shape": GOOD | {"frames": ("UINT8", [1, 2, 64, 64, 3], bytes(24576))},
    "too few bytes": GOOD | {"frames": ("UINT8", [1, 2, 32, 32, 3], bytes(100))},
    "a negative size": GOOD | {"frames": ("UINT8", [-1, 2, 32, 32, 3], bytes(6144))},
    "a size past memory": GOOD | {"frames": ("UINT8", [2**40, 2, 32, 32, 3], bytes(6144))},
    "another type": GOOD | {"frames": ("FP32", [1, 2, 32, 32, 3], bytes(24576))},
    "an unknown type": GOOD | {"frames": ("PICKLE", [1, 2, 32, 32, 3], bytes(6144))},
    "no sound": {"frames": FRAMES},
    "no picture": {"audio": AUDIO},
    "NaN": GOOD | {"audio": ("FP32", [1, 1, 8, 20], NAN)},
    "an unknown input": GOOD | {"more": ("FP32", [1], bytes(4))},
    "no JPEG": {"jpeg": ("BYTES", [1, 2], b"\x01\0\0\0a\x01\0\0\0b"), "audio": AUDIO},
    "broken BYTES": {"jpeg": ("BYTES", [1, 2], b"\xff\xff\xff\x7fabc"), "audio": AUDIO},
    "a JPEG bomb": {
        "jpeg": ("BYTES", [1, 2], 2 * (len(BOMB).to_bytes(4, "little") + BOMB)),
        "audio": AUDIO,
    },
    "more steps than the window": {
        "frames": ("UINT8", [9, 2, 32, 32, 3], bytes(9 * 6144)),
        "audio": ("FP32", [9, 1, 8, 20], bytes(9 * 640)),
    },
}


@pytest.mark.parametrize("what", WRONG)
def test_what_the_model_does_not_take_is_an_invalid_argument(stub, what):
    request = raw_request("stream", WRONG[what], sequence_id="wrong", first_step=0)
    request.parameters["sequence_start"].bool_param = True
    assert code_of(stub, request) == StatusCode.INVALID_ARGUMENT
    assert stub.ServerLive(service_pb2.ServerLiveRequest()).live


@pytest.mark.parametrize("parameters", [{}, {"sequence_id": "x" * 200}, {"first_step": -1}])
def test_parameters_are_checked(stub, parameters):
    request = raw_request("stream", GOOD, **({"sequence_id": "p"} | parameters))
    if not parameters:
        del request.parameters["sequence_id"]
    assert code_of(stub, request) == StatusCode.INVALID_ARGUMENT


def test_a_request_past_the_limit_is_refused_before_it_is_read(stub):
    huge = raw_request("step", {"video": ("UINT8", [17 << 20], bytes(17 << 20))})
    assert code_of(stub, huge) == StatusCode.RESOURCE_EXHAUSTED


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mangled_requests_are_refused_and_the_server_lives_on(server, data):
    """Bytes of a good request, cut, flipped, grown or replaced, on every model."""
    model = data.draw(st.sampled_from(["stream", "pilot", "planner", "rollout", "step", "none"]))
    good = raw_request(model, GOOD, sequence_id="fuzz", first_step=0).SerializeToString()
    kind = data.draw(st.sampled_from(["cut", "flip", "noise", "grow"]))
    if kind == "cut":
        mangled = good[: data.draw(st.integers(0, 300))]
    elif kind == "noise":
        mangled = data.draw(st.binary(max_size=400))
    else:
        head = bytearray(good)
        for _ in range(data.draw(st.integers(1, 6))):
            head[data.draw(st.integers(0, 120))] = data.draw(st.integers(0, 255))
        mangled = bytes(head) + (data.draw(st.binary(max_size=50)) if kind == "grow" else b"")
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        code = StatusCode.OK
        try:
            call(mangled, timeout=20)
        except grpc.RpcError as error:
            code = error.code()
        assert code in REFUSALS | {StatusCode.OK}
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert live(b"", timeout=20) == b"\x08\x01"
    assert server.process.poll() is None


# ---- who may call ------------------------------------------------------------------------------


def test_only_known_robots_get_in_over_tls_and_only_to_their_own_sessions(
    serve, cloud_bundle, certificate, tmp_path, manifest, steps
):
    key = tmp_path / "server.key"
    key.write_bytes(b"k" * 32)
    flags = ["--token-key", str(key), "--tls-cert", str(certificate[0])]
    with serve(cloud_bundle, *flags, "--tls-key", str(certificate[1])) as served:
        trust = grpc.ssl_channel_credentials(certificate[0].read_bytes())
        with grpc.secure_channel(f"localhost:{served.port}", trust) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert stub.ServerReady(service_pb2.ServerReadyRequest()).ready

            def code(token, request):
                metadata = [("authorization", f"Bearer {token}")] if token else []
                try:
                    stub.ModelInfer(request, metadata=metadata, timeout=20)
                except grpc.RpcError as error:
                    return error.code()
                return StatusCode.OK

            begin = raw_request("stream", GOOD, sequence_id="s", first_step=0)
            begin.parameters["sequence_start"].bool_param = True
            good, other = (token_for(robot, b"k" * 32, 1) for robot in ("a", "b"))
            wrong = ["", "x", token_for("a", b"l" * 32, 1), token_for("a", b"k" * 32, -1)]
            assert {code(token, begin) for token in wrong} == {StatusCode.UNAUTHENTICATED}
            assert code(good, begin) == StatusCode.OK
            go_on = raw_request("stream", GOOD, sequence_id="s", first_step=1)
            assert code(other, go_on) == StatusCode.FAILED_PRECONDITION
            assert code(good, go_on) == StatusCode.OK
        with grpc.insecure_channel(served.address) as plain:
            live = service_pb2_grpc.GRPCInferenceServiceStub(plain).ServerLive
            with pytest.raises(grpc.RpcError):
                live(service_pb2.ServerLiveRequest(), timeout=5)
        began = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"host": "0.0.0.0"}, "open to the network"),
        ({"host": "0.0.0.0", "token_key": Path("k")}, "open to the network"),
        ({"tls_cert": Path("x.pem")}, "go together"),
    ],
)
def test_nobody_opens_a_server_to_the_network_by_accident(fields, says):
    with pytest.raises(WrongUseError, match=says):
        Endpoint(**fields)


@pytest.mark.parametrize(
    ("flags", "says"),
    [(["--token-key", "none.key"], "cannot read it"), (["--precision", "int3"], "int3")],
)
def test_wrong_use_is_said(cloud_bundle, flags, says):
    command = [sys.executable, "-m", "jepa_edge.runtimes.serve", "--bundle", str(cloud_bundle)]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
