"""What README.md says is what the package does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from jepa_edge import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
WRITERS = sorted((ROOT / "benchmarks").glob("*_tables.py"))


@pytest.mark.parametrize(
    "writer", sorted((ROOT / "benchmarks").glob("*_tables.py")), ids=lambda p: p.stem
)
def test_generated_tables_are_those_of_the_committed_results(writer):
    done = subprocess.run([sys.executable, writer, "--check"])
    assert done.returncode == 0, "run: make tables"


def test_every_verb_it_shows_exists():
    shown = set(re.findall(r"jepa-edge ([a-z]+) ", README)) - {"takes"}
    assert {"record", "train", "export", "bench"} <= shown
    assert shown <= set(cli.VERBS)


def test_every_file_it_names_exists():
    named = re.findall(
        r"`((?:jepa_edge|export|quantize|runtimes|devices|benchmarks)/[\w./]*)`", README
    )
    missing = [name for name in named if "<" not in name and not (ROOT / name).exists()]
    assert missing == []


def test_both_commands_come_early_and_it_is_short():
    lines = README.splitlines()
    first = "\n".join(lines[:20])
    assert "make demo" in first
    assert "python -m jepa_edge.runtimes" in first
    assert len(lines) < 200
