"""The promises the layout makes, checked."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("devices", "export", "quantize", "runtimes")
LONGEST_FILE = 400

DEVICE_ONLY = """
import importlib, pkgutil, sys

for heavy in ("torch", "onnx"):
    sys.modules[heavy] = None  # importing it now raises ImportError
count = 0
for room in ("contract", "bundle", "front", "media", "devices", "runtimes", "bench"):
    module = importlib.import_module(f"jepa_edge.{room}")
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        importlib.import_module(f"jepa_edge.{room}.{found.name}")
        count += 1
print(count)
"""


def modules_of_the_tree():
    package = ROOT / "jepa_edge"
    core = {path.relative_to(ROOT).as_posix() for path in package.rglob("*.py")}
    core = {path for path in core if path.split("/")[1] not in ROOMS}
    rooms = {
        f"jepa_edge/{path.relative_to(ROOT).as_posix()}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
    }
    return core | rooms


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_linked_into_the_package(room):
    link = ROOT / "jepa_edge" / room
    assert link.is_symlink(), "run: git config core.symlinks true && git checkout -- jepa_edge"
    assert link.resolve() == ROOT / room


def test_device_code_imports_without_torch():
    run = subprocess.run([sys.executable, "-c", DEVICE_ONLY], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 4


def test_no_file_is_long():
    sizes = {
        path: len((ROOT / path.removeprefix("jepa_edge/")).read_text().splitlines())
        if path.split("/")[1] in ROOMS
        else len((ROOT / path).read_text().splitlines())
        for path in modules_of_the_tree()
    }
    assert {path: n for path, n in sizes.items() if n > LONGEST_FILE} == {}


@pytest.mark.slow
def test_wheel_holds_every_module(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    assert packed == modules_of_the_tree()
