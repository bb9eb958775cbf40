"""Whatever is wrong, a person is told what and where, and nothing half-written stays."""

import json
import wave

import numpy as np
import pytest

from jepa_edge import cli
from jepa_edge.bundle import MANIFEST

FLOAT_WAV = 3


def told(capsys, *arguments):
    """The exit code and the message of `jepa-edge` with `arguments`."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert shown.out == ""
    return ended.value.code, " ".join(shown.err.split())


def float_wav(path, samples, rate=16_000):
    """A WAV of 32-bit floats, which the `wave` module does not write."""
    data = samples.astype("<f4").tobytes()
    fmt = np.array([FLOAT_WAV, 1], "<u2").tobytes() + np.array([rate, 4 * rate], "<u4").tobytes()
    fmt += np.array([4, 32], "<u2").tobytes()
    chunks = b"fmt " + len(fmt).to_bytes(4, "little") + fmt
    chunks += b"data" + len(data).to_bytes(4, "little") + data
    size = (len(chunks) + 4).to_bytes(4, "little")
    path.write_bytes(b"RIFF" + size + b"WAVE" + chunks)
    return path


@pytest.fixture
def run(micro_bundle, tiny_clip, capsys):
    def of(camera=tiny_clip, mic=None, **flags):
        rest = [part for name, value in flags.items() for part in (f"--{name}", value)]
        mics = [] if mic is None else ["--mic", mic]
        ends = ["--controller", "none", "--fast"]
        return told(
            capsys, "run", "--bundle", micro_bundle, "--camera", camera, *mics, *ends, *rest
        )

    return of


def test_a_good_run_is_told_nothing_bad(micro_bundle, tiny_clip, capsys):
    arguments = ["run", "--bundle", str(micro_bundle), "--camera", str(tiny_clip), "--fast"]
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) == 20


def test_missing_file(run, tmp_path):
    code, says = run(camera=tmp_path / "none.mp4")
    assert (code, "no media file" in says) == (2, True)


def test_video_without_sound(run, tmp_path):
    import av

    silent = tmp_path / "silent.mp4"
    with av.open(str(silent), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        for _ in range(30):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    code, says = run(camera=silent, mic=silent)
    assert code == 2
    assert "has no sound" in says
    assert "--mic none" in says


def test_truncated_mp4(run, tiny_clip, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(tiny_clip.read_bytes()[: tiny_clip.stat().st_size // 2])
    code, says = run(camera=cut)
    assert code == 2
    assert "cut off" in says


def test_another_sample_rate_is_resampled_and_a_broken_one_refused(run, tmp_path):
    for rate in (8_000, 44_100):
        file = tmp_path / f"{rate}.wav"
        with wave.open(str(file), "wb") as out:
            out.setparams((1, 2, rate, 0, "NONE", ""))
            out.writeframes(np.zeros(4 * rate, np.int16).tobytes())
        assert run(mic=file, precision="fp32")[0] == 0
    broken = tmp_path / "broken.wav"
    data = bytearray(file.read_bytes())
    data[24:28] = (0).to_bytes(4, "little")
    broken.write_bytes(bytes(data))
    code, says = run(mic=broken)
    assert code == 2
    assert "broken.wav" in says


def test_sound_that_is_no_number(run, tmp_path):
    samples = np.zeros(64_000, np.float32)
    samples[40_000] = np.nan
    code, says = run(mic=float_wav(tmp_path / "nan.wav", samples))
    assert code == 2
    assert "NaN" in says


def test_one_flipped_byte(run, micro_bundle):
    file = micro_bundle / "int8" / "encoder.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    code, says = run()
    assert code == 1
    assert "int8/encoder.onnx is not the file that was exported" in says


def test_a_manifest_from_the_future(run, micro_bundle):
    manifest = micro_bundle / MANIFEST
    fields = json.loads(manifest.read_text()) | {"schema": "2.0"}
    manifest.write_text(json.dumps(fields))
    code, says = run()
    assert code == 2
    assert "upgrade" in says


def test_a_target_that_does_not_exist(tmp_path, capsys):
    out = tmp_path / "no.jepa"
    code, says = told(capsys, "export", "--target", "jetsn", "--out", out)
    assert code == 2
    assert "did you mean jetson" in says
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["export", "quantize"])
def test_random_calibration(verb, micro_bundle, tmp_path, capsys):
    which = ["--bundle", micro_bundle] if verb == "quantize" else ["--precision", "int8"]
    out = tmp_path / "no.jepa"
    code, says = told(capsys, verb, *which, "--calibration", "random:8", "--out", out)
    assert code == 2
    assert "never calibrated on random" in says
    assert not out.exists()


def test_an_engine_that_is_not_here(run, micro_bundle):
    """A board's bundle says so on another machine, before anything starts."""
    pytest.importorskip("onnxruntime")
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("TensorRT is here")
    manifest = micro_bundle / MANIFEST
    fields = json.loads(manifest.read_text()) | {"engine": "tensorrt", "target": "jetson-orin-nano"}
    manifest.write_text(json.dumps(fields))
    code, says = run()
    assert code == 2
    assert "TensorRT" in says
