"""A bundle → a Triton model repository and a KServe InferenceService, to scale out in a cloud.

Graphs run on Triton's own backends (ONNX Runtime, OpenVINO); sessions and plans on its Python
backend, with the very code of `jepa-edge serve`.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from jepa_edge.bundle import Bundle, Graph, opened
from jepa_edge.contract import MissingExtraError, WrongUseError
from jepa_edge.runtimes.serve.batching import BatchConfig
from jepa_edge.runtimes.serve.service import Port, Service, ServiceConfig, ports_of

BACKENDS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "onnxruntime"}
"""Triton's backend for each of our engines; TensorRT bundles carry ONNX."""
BUNDLE = "bundle.jepa"
HOME = "stream"
"""The model whose folder holds the bundle."""
PYTHON = '"""Written by jepa-edge export --target triton."""\n\n{}\n'.format(
    "from jepa_edge.runtimes.serve.triton import TritonPythonModel  # noqa: F401"
)
STORAGE = "pvc://models/{}"


class TritonConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to write, and where. ``backend`` python runs the graphs, too, in the Python backend."""

    bundle: Path
    out: Path
    precision: str | None = None
    backend: str = "native"
    instances: int = 1
    threads: int = 0
    storage: str = ""

    def __post_init__(self) -> None:
        """Raises `WrongUseError` for an unknown backend."""
        if self.backend not in ("native", "python"):
            raise WrongUseError(f"unknown backend {self.backend!r}; known: native, python")


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What there is now, and how to start it."""

    repository: str
    service: str
    models: list[str]
    command: str


def write_triton(config: TritonConfig) -> Written:
    """Writes ``models/`` and ``inference-service.yaml`` into `out`, whole or not at all.

    Raises:
        WrongUseError: `out` is there, or the precision is not in the bundle.
        MissingExtraError: KServe or Triton's client is not installed.
    """
    if config.out.exists():
        raise WrongUseError(f"{config.out} is there already; choose another --out")
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with opened(config.bundle) as bundle:
        precision = config.precision or bundle.manifest.default_precision
        bundle.manifest.precision(precision)
        part = Path(tempfile.mkdtemp(prefix=f".{config.out.name}.", dir=config.out.parent))
        try:
            models = _models(bundle, precision, config, part / "models")
            yaml = _service_yaml(bundle.manifest.name, config)
            (part / "inference-service.yaml").write_text(yaml)
            part.chmod(0o755)
            part.rename(config.out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    repository = config.out / "models"
    return Written(
        repository=str(repository),
        service=str(config.out / "inference-service.yaml"),
        models=models,
        command=f"tritonserver --model-repository {repository}",
    )


def _models(bundle: Bundle, precision: str, config: TritonConfig, out: Path) -> list[str]:
    graphs = bundle.manifest.precision(precision).graphs
    service = Service(bundle, precision, ServiceConfig(batch=BatchConfig(most=1)))
    names = []
    for served in service.models.values():
        folder = out / served.name
        (folder / "1").mkdir(parents=True)
        native = served.name in graphs and config.backend == "native"
        if native:
            graph = graphs[served.name]
            _copy_graph(bundle, graph, folder / "1")
            text = _native(served.name, graph, BACKENDS[bundle.manifest.engine], config)
        else:
            (folder / "1" / "model.py").write_text(PYTHON)
            text = _python(served.name, served.inputs, served.outputs, precision, config)
        (folder / "config.pbtxt").write_text(text)
        names.append(served.name)
    service.close()
    shutil.copytree(bundle.folder, out / HOME / BUNDLE)
    return names


def _copy_graph(bundle: Bundle, graph: Graph, folder: Path) -> None:
    """The graph under the name that its backend looks for, and the weights beside it."""
    source = bundle.path(graph.path)
    shutil.copyfile(source, folder / f"model{source.suffix}")
    weights = source.with_suffix(".bin")
    if weights.exists():
        shutil.copyfile(weights, folder / "model.bin")


def _native(name: str, graph: Graph, backend: str, config: TritonConfig) -> str:
    model = _config(
        name, backend, ports_of(graph.inputs), ports_of(graph.outputs), config.instances
    )
    suffix = Path(graph.path).suffix
    model.default_model_filename = f"model{suffix}"
    return _text(model)


def _python(
    name: str, inputs: list[Port], outputs: list[Port], precision: str, config: TritonConfig
) -> str:
    """One instance: a session lives in the process that it began in."""
    model = _config(name, "python", inputs, outputs, 1)
    place = BUNDLE if name == HOME else f"../{HOME}/{BUNDLE}"
    settings = {"bundle": place, "precision": precision, "threads": str(config.threads)}
    for key, value in settings.items():
        model.parameters[key].string_value = value
    return _text(model)


def _config(
    name: str, backend: str, inputs: list[Port], outputs: list[Port], instances: int
) -> Any:  # noqa: ANN401  (a message of Triton's)
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        raise MissingExtraError("tritonclient", "cloud") from error
    model = model_config_pb2.ModelConfig(name=name, backend=backend, max_batch_size=0)
    for ports, added in ((inputs, model.input), (outputs, model.output)):
        for port in ports:
            kind = "STRING" if port.datatype == "BYTES" else port.datatype
            entry = added.add(
                name=port.name,
                data_type=model_config_pb2.DataType.Value(f"TYPE_{kind}"),
                dims=port.shape,
            )
            if added is model.input and port.optional:
                entry.optional = True
    group = model.instance_group.add(count=instances)
    group.kind = model_config_pb2.ModelInstanceGroup.Kind.Value("KIND_AUTO")
    return model


def _text(model: Any) -> str:  # noqa: ANN401
    from google.protobuf import text_format

    return str(text_format.MessageToString(model))


def _service_yaml(name: str, config: TritonConfig) -> str:
    """The InferenceService, of the KServe SDK's own types."""
    import yaml

    storage = config.storage or STORAGE.format(name)
    fields = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": _dns_name(name)},
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "maxReplicas": 4,
                "scaleMetric": "concurrency",
                "scaleTarget": 8,
                "model": {
                    "modelFormat": {"name": "triton"},
                    "runtime": "kserve-tritonserver",
                    "protocolVersion": "grpc-v2",
                    "storageUri": storage,
                    "ports": [{"name": "h2c", "protocol": "TCP", "containerPort": 9000}],
                    "resources": {
                        "requests": {"cpu": "2", "memory": "2Gi"},
                        "limits": {"cpu": "4", "memory": "4Gi"},
                    },
                },
            }
        },
    }
    note = (
        f"# Copy models/ to {storage}. The image of the runtime needs our code for sessions:\n"
        "# FROM nvcr.io/nvidia/tritonserver:<version>-py3\n"
        "# RUN pip install 'jepa-edge[onnxruntime,sensors]'\n"
    )
    return note + str(yaml.safe_dump(fields, sort_keys=False))


def _dns_name(name: str) -> str:
    """A name that Kubernetes takes (RFC 1123)."""
    kept = "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")
    return kept[:50] or "jepa-edge"
