"""A small streaming bundle, and real servers of it: KServe and Triton's client do not share one
process (both describe the protocol's messages), so a server is always a process of its own."""

import contextlib
import json
import os
import subprocess
import sys
import time

import grpc
import numpy as np
import pytest

from jepa_edge.bundle import open_bundle
from jepa_edge.runtimes.sources import StepData
from tests.cloud.bundles import cloud_bundle_at


@pytest.fixture(scope="session")
def cloud_bundle(tmp_path_factory):
    """fp32 for ONNX Runtime: causal, sees 32 x 32 pixels and hears; see `bundles`."""
    return cloud_bundle_at(tmp_path_factory.mktemp("cloud") / "micro.jepa")


class Served:
    """A server process: `port`, `http`, and how to stop it."""

    def __init__(self, bundle, *flags):
        command = [sys.executable, "-m", "jepa_edge.runtimes.serve", "--bundle", str(bundle)]
        command += ["--json", "--threads", "1", *flags]
        command += [] if "--port" in flags else ["--port", "0"]
        command += [] if "--http-port" in flags else ["--http-port", "0"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        ports = json.loads(self.process.stdout.readline())
        self.port, self.http = ports["grpc"], ports["http"]
        self.address = f"127.0.0.1:{self.port}"

    def kill(self):
        """As the kernel would: no goodbye."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """As an operator would; its exit code."""
        self.process.terminate()
        return self.process.wait(timeout=20)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def serving(bundle, *flags):
    served = Served(bundle, *flags)
    try:
        yield served
    finally:
        served.close()


@pytest.fixture(scope="session")
def serve():
    """`with serve(bundle, *flags) as served`: a server process."""
    return serving


@pytest.fixture(scope="session")
def server(cloud_bundle):
    """One server, on loopback, for every test that does not harm it."""
    with serving(cloud_bundle) as served:
        yield served
        assert served.process.poll() is None, "the server did not survive the tests"


@pytest.fixture(scope="session")
def steps(cloud_bundle):
    """Twelve steps of smooth pictures and noise, numbered from 0."""
    senses = open_bundle(cloud_bundle).manifest.senses
    return steps_of(senses, 12, seed=0)


def steps_of(senses, count, seed):
    """Steps as a camera gives them: 8-bit pixels, normalised."""
    from jepa_edge.media.features import video_from_frames

    random = np.random.default_rng(seed)
    height, width = senses.video.height, senses.video.width
    scene = np.kron(random.integers(0, 255, (8, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    found = []
    for index in range(count):
        shift = [np.roll(scene, 2 * index + k, axis=1)[:height, :width] for k in range(2)]
        shape = (1, 1, senses.audio.mel_bins, senses.mel_frames_per_step)
        found.append(
            StepData(
                index=index,
                captured_ns=time.monotonic_ns(),
                video=video_from_frames(np.stack(shift), senses.video)[None],
                audio=random.standard_normal(shape).astype(np.float32),
            )
        )
    return found


@pytest.fixture
def certificate(tmp_path):
    """A certificate for localhost that signs itself: (certificate, key) files."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    files[0].write_bytes(certificate.public_bytes(pem))
    files[1].write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def refused(call, *arguments, **keywords):
    """The status code that the call ends with."""
    with pytest.raises(grpc.RpcError) as ended:
        call(*arguments, **keywords)
    return ended.value.code()
