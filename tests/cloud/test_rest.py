"""The server's REST side: it infers, counts, and refuses what is mangled or too large."""

import json
import urllib.error
import urllib.request

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jepa_edge.bundle import open_bundle
from jepa_edge.runtimes.engine import open_engine


def rest(server, path, body=None, **headers):
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.http}{path}",
        data=body,
        headers={"content-type": "application/json"} | headers,
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_rest_infers_and_counts(server, cloud_bundle):
    engine = open_engine(open_bundle(cloud_bundle), "rollout", threads=1)
    random = np.random.default_rng(0)
    inputs = {s.name: random.standard_normal(s.shape, dtype=np.float32) for s in engine.inputs}
    body = {
        "inputs": [
            {"name": n, "shape": a.shape, "datatype": "FP32", "data": a.ravel().tolist()}
            for n, a in inputs.items()
        ]
    }
    status, answer = rest(server, "/v2/models/rollout/infer", json.dumps(body).encode())
    assert status == 200
    (output,) = json.loads(answer)["outputs"]
    ours = engine.run(inputs)["rollout"]
    np.testing.assert_allclose(np.reshape(output["data"], ours.shape), ours, rtol=1e-5, atol=1e-6)
    assert rest(server, "/v2/health/ready")[0] == 200
    assert b"jepa_edge_engine_seconds_count" in rest(server, "/metrics")[1]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    body=st.one_of(
        st.binary(max_size=100),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["inputs", "name", "shape", "datatype", "data", "outputs"]),
                    inner,
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
    length=st.sampled_from(["", "3", "-5", "x"]),
)
def test_mangled_rest_requests_are_refused(server, body, length):
    more = {"Inference-Header-Content-Length": length} if length else {}
    status, answer = rest(server, "/v2/models/stream/infer", body or b"{", **more)
    assert 400 <= status < 500, answer
    assert "error" in json.loads(answer)


def test_rest_refuses_large_bodies_by_their_header_alone(server):
    assert (
        rest(server, "/v2/models/stream/infer", b"{}", **{"Content-Length": str(1 << 40)})[0] == 413
    )
