"""The tests of the safety module, tested: every branch is taken, and every mutant is found out."""

import importlib.util
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtimes import envelopes
from tests.runtimes.mutants import mutants

NAME = "jepa_edge.runtimes.safety"
TESTS = [Path(__file__).with_name(f"test_{name}.py") for name in ("safety", "watch", "envelope")]
SOURCE = Path(__file__).parents[2] / "runtimes" / "safety.py"
EXAMPLES_ALONE = "not comes_no_order and not only_ever and not never_leaves and not no_wish_leaves"
"""The properties are left out: what they need chance for is no test of a branch."""
DT = "dt_s = min(max(now_ns - self._last_ns, 0) / 1e9, LONGEST_DT_S)"
FIRST = 'self._fault, self._fault_ns = "", 0'
SURVIVORS = {
    ("before, self._shown = self._shown, step.video[:, :, -1:]", "USub dropped"): (
        "a step has two frames: the last one is the one after the first"
    ),
    (DT, "0 + 1"): "a nanosecond",
    (DT, "1000000000.0 + 1"): "a billionth part",
    ("self._last, self._last_ns = STILL, 0", "0 + 1"): "the first dt_s is cut to LONGEST_DT_S",
    (FIRST, "0 + 1"): "long ago, either way",
    (FIRST, "'' changed"): "a fault of long ago, which is over",
    ('self._fault, self._braking_ns = "", None', "'' changed"): "the same: a fault that is over",
    ("if vehicle.pose is not None:", "if -> True"): (
        "without a pose there is no fence (else a brake), and then the pose is not looked at"
    ),
}
"""Mutants that behave as the real thing does, by the line and what was changed: why."""


pytestmark = pytest.mark.slow


def test_every_branch_of_the_safety_module_is_tested(tmp_path):
    report = tmp_path / "coverage.json"
    own = [f"--rcfile={os.devnull}", f"--data-file={tmp_path / 'coverage'}"]
    here = {"cwd": SOURCE.parents[1], "capture_output": True, "text": True}
    watched = [*own, "--branch", "--include=*/runtimes/safety.py"]
    quick = ["-q", "-p", "no:cacheprovider", "-k", EXAMPLES_ALONE, *map(str, TESTS)]
    measure = [sys.executable, "-m", "coverage"]
    done = subprocess.run([*measure, "run", *watched, "-m", "pytest", *quick], **here)
    assert done.returncode == 0, done.stdout
    told = subprocess.run([*measure, "json", *own, "-o", str(report)], **here)
    assert told.returncode == 0, told.stderr
    [found] = json.loads(report.read_text())["files"].values()
    assert found["missing_lines"] == []
    assert found["missing_branches"] == []
    assert found["summary"]["num_branches"] > 30


def cases(test):
    """The arguments of each case of a test, as pytest would give them."""
    marks = [m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
    axes = []
    for mark in marks:
        names, values = mark.args
        several = not isinstance(names, str)
        axes.append([dict(zip(names, v, strict=True)) if several else {names: v} for v in values])
    for chosen in itertools.product(*axes):
        yield {name: value for part in chosen for name, value in part.items()}


def run(tests):
    """Runs the tests of a module; properties are left out."""
    for name, test in tests.items():
        if name.startswith("test_") and not hasattr(test, "hypothesis"):
            for arguments in cases(test):
                test(**arguments)


def verdict(source):
    """Exits with 0 if the tests pass on a module made of `source`."""
    code = 1
    try:
        module = importlib.util.module_from_spec(importlib.util.find_spec(NAME))
        sys.modules[NAME] = module
        exec(compile(source, str(SOURCE), "exec"), module.__dict__)
        del sys.modules[envelopes.__name__]  # made of the real module; what it imports may stay
        for path in TESTS:
            spec = importlib.util.spec_from_file_location("tests_of_a_mutant", path)
            tests = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(tests)
            run(vars(tests))
        code = 0
    finally:
        os._exit(code)


def survivors(found):
    """Those of the mutants that no test finds out; two at a time."""
    fork = multiprocessing.get_context("fork")
    waiting, running, alive = list(found), [], []
    while waiting or running:
        while waiting and len(running) < 2:
            mutant = waiting.pop()
            process = fork.Process(target=verdict, args=(mutant[2],))
            process.start()
            running.append((process, mutant))
        process, mutant = running.pop(0)
        process.join(20)
        if process.is_alive():  # it runs for ever: found out
            process.kill()
            process.join()
        elif process.exitcode == 0:
            alive.append(mutant)
    return alive


@pytest.mark.timeout(900)  # a quarter of a minute on a machine that does nothing else
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_every_mutant_of_the_safety_module_is_found_out():
    lines = SOURCE.read_text().splitlines()
    found = list(mutants(SOURCE.read_text()))
    assert len(found) > 200
    assert survivors([(0, "", SOURCE.read_text())]), "the tests must pass on the real module"
    alive = {(lines[line - 1].strip(), what) for line, what, _ in survivors(found)}
    assert alive == set(SURVIVORS)
