"""TensorRT's ring of keys and values, where there is no GPU: its addresses, sizes and order.

A C library answers as CUDA's does, in host memory, and ONNX Runtime computes what a plan would,
from and into the very addresses that it was given. That TensorRT itself does has not been run.
"""

import ctypes
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from jepa_edge.bundle import Graph
from jepa_edge.export.trace import onnx_from
from jepa_edge.model.graphs import graphs_of
from jepa_edge.quantize.compile import read_graph, write_graph
from jepa_edge.runtimes import engine_tensorrt
from jepa_edge.runtimes.engine import host_engine
from jepa_edge.runtimes.ring import HostSlots, KvRing, ring_of
from tests.runtimes.test_ring import micro, senses_at

CUDART = r"""
#include <stdlib.h>
#include <string.h>
typedef int status;
long blocks;
status cudaStreamCreate(void **s) { *s = (void *)1; return 0; }
status cudaStreamSynchronize(void *s) { return 0; }
status cudaMalloc(void **at, size_t n) {
  *at = malloc(n); memset(*at, 0xff, n); blocks++; return 0; }
status cudaFree(void *at) { free(at); blocks--; return 0; }
status cudaMemsetAsync(void *at, int v, size_t n, void *s) { memset(at, v, n); return 0; }
status cudaMemcpyAsync(void *to, const void *from, size_t n, int k, void *s) {
  memcpy(to, from, n); return 0; }
status cudaMemcpy2DAsync(void *to, size_t tp, const void *from, size_t fp, size_t w, size_t rows,
                         int kind, void *s) {
  if (kind != 3 || w > tp || w > fp) return 1;
  for (size_t r = 0; r < rows; r++) memcpy((char *)to + r * tp, (char *)from + r * fp, w);
  return 0; }
const char *cudaGetErrorString(status s) { return "wrong pitch or kind"; }
"""


@pytest.fixture(scope="module")
def cudart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cudart")
    (folder / "cudart.c").write_text(CUDART)
    library = folder / "libcudart.so"
    build = ["gcc", "-shared", "-fPIC", "-o", str(library), str(folder / "cudart.c")]
    subprocess.run(build, check=True)
    return ctypes.CDLL(str(library))


class _Plan:
    """Engine and context in one: computes from the addresses of inputs into those of outputs."""

    def __init__(self, path):
        import onnxruntime as ort

        self.session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        kinds = {"float": np.float32, "float16": np.float16, "int8": np.int8}
        ports = [(port, True) for port in self.session.get_inputs()]
        ports += [(port, False) for port in self.session.get_outputs()]
        self.ports = {
            port.name: (port.shape, kinds[port.type[7:-1]], is_in) for port, is_in in ports
        }
        self.num_io_tensors = len(self.ports)
        self.at = {}

    def get_tensor_name(self, index):
        return list(self.ports)[index]

    def get_tensor_mode(self, name):
        return self.ports[name][2]

    def get_tensor_shape(self, name):
        return self.ports[name][0]

    def get_tensor_dtype(self, name):
        return self.ports[name][1]

    def create_execution_context(self):
        return self

    def set_tensor_address(self, name, address):
        self.at[name] = address

    def memory(self, name):
        shape, dtype, _ = self.ports[name]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(self.at[name]), dtype).reshape(
            shape
        )

    def execute_async_v3(self, _stream):
        inputs = {name: self.memory(name) for name, port in self.ports.items() if port[2]}
        outputs = [name for name, port in self.ports.items() if not port[2]]
        for name, array in zip(outputs, self.session.run(outputs, inputs), strict=True):
            self.memory(name)[...] = array
        return True


@pytest.fixture(params=["float32", "float16", "int8"])
def engines(request, cudart, tmp_path, monkeypatch):
    (source,) = (g for g in graphs_of(micro(), request.param) if g.name == "step")
    read = read_graph("onnxruntime", onnx_from(source, half=False))
    file = write_graph("onnxruntime", read, "fp32", [], tmp_path / "step")
    graph = Graph(path=file.name, inputs=source.inputs, outputs=source.outputs)
    loaded = _Plan(file)
    trt = SimpleNamespace(
        Logger=type("Logger", (), {"ERROR": 0, "__init__": lambda self, level: None}),
        Runtime=lambda _logger: SimpleNamespace(deserialize_cuda_engine=lambda _plan: loaded),
        TensorIOMode=SimpleNamespace(INPUT=True),
        nptype=lambda kind: kind,
    )
    monkeypatch.setattr(engine_tensorrt, "_tensorrt", lambda _target: trt)
    monkeypatch.setattr(engine_tensorrt, "_cudart", lambda _target: cudart)
    device = engine_tensorrt.TensorRtEngine(file, graph, "jetson", plan=b"plan")
    return device, host_engine("onnxruntime", file, graph, "f32")


@pytest.mark.filterwarnings("ignore")
def test_a_ring_on_the_device_is_that_of_the_host_and_never_leaves_it(engines):
    device, host = engines
    rings = ring_of(device), KvRing(host.inputs, host.outputs)
    for step in range(11):  # the window is of 4: each slot is written thrice
        if step == 6:
            rings = ring_of(device), KvRing(host.inputs, host.outputs)
        there = device.run(senses_at(step) | rings[0].feed())
        here = host.run(senses_at(step) | rings[1].feed())
        for name in ("latents", "pooled"):
            np.testing.assert_array_equal(there[name], here[name])
        assert isinstance(there["new_k"], engine_tensorrt.DeviceArray)
        for ring, out in zip(rings, (there, here), strict=True):
            ring.take(out)


@pytest.mark.filterwarnings("ignore")
def test_a_ring_that_is_let_go_gives_its_memory_back(engines, cudart):
    device, _ = engines
    blocks = ctypes.c_long.in_dll(cudart, "blocks")
    before = blocks.value
    ring = ring_of(device)
    assert blocks.value == before + len([s for s in device.inputs if s.name.startswith("cache_")])
    del ring
    assert blocks.value == before


@pytest.mark.filterwarnings("ignore")
def test_caches_of_the_host_are_still_taken(engines):
    device, host = engines
    on_device, on_host = (KvRing(e.inputs, e.outputs, HostSlots) for e in (device, host))
    for step in range(6):
        there = device.run(senses_at(step) | on_device.feed())
        here = host.run(senses_at(step) | on_host.feed())
        np.testing.assert_array_equal(there["latents"], here["latents"])
        on_device.take(there)
        on_host.take(here)
