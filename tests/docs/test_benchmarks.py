"""The benchmarks run and write what is read from them. No time is asserted."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def run(script, *arguments):
    command = [sys.executable, BENCHMARKS / script, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # tests that run beside it keep the other cores busy
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "name, tensors, elements",
    [
        ("one25M", 1, 25_000_000),
        ("resnet50", 161, 25_557_032),
        ("tiny1000", 1000, 64_000),
        ("gpt2_small", 148, 124_439_808),
        ("one1GiB", 1, 268_435_456),
        ("llama1b", 146, 1_235_814_400),
        ("tiny2000", 2000, 128_000),
    ],
)
def test_workloads(importable, name, tensors, elements):
    import workloads

    shapes = {**workloads.WORKLOADS, **workloads.ON_A_GPU}[name]
    assert (len(shapes), workloads.elements(shapes)) == (tensors, elements)


def test_classes_then_readme(importable, tmp_path):
    import readme
    import results

    out = results.path_of("classes", tmp_path)
    arguments = ["--workloads", "tiny1000", "--dtypes", "float32", "--rounds", 1, "--out", out]
    printed = run("classes.py", *arguments, "--algorithms", "Adam", "Adafactor")
    assert "tiny1000, float32" in printed
    content = json.loads(out.read_text())
    assert {"processor", "cores", "torch", "date"} <= content["machine"].keys()
    adam, adafactor = content["cells"]
    assert (adam["workload"], adam["dtype"], adam["algorithm"]) == ("tiny1000", "float32", "Adam")
    assert adam["elementwise"] and not adafactor["elementwise"]
    methods = {"torch for-loop", "torch foreach", "torch fused", "ours", "ours for-loop", "ours fused"}
    pure = {"pure in place", "pure out of place"}
    assert adam["milliseconds"].keys() == adam["first_step_milliseconds"].keys() == methods | pure
    assert adafactor["milliseconds"].keys() == methods - {"torch fused", "ours fused"} | pure
    assert adam["rounds"] == 1
    assert not adam["missing"] and not adam["peak_extra_percent"]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    page = "before\n<!-- benchmark:begin -->\nold\n<!-- benchmark:end -->\nafter\n"
    page = readme.filled(page, readme.block(tmp_path))
    assert page.startswith("before\n<!-- benchmark:begin -->\n| workload |")
    assert page.endswith("<!-- benchmark:end -->\nafter\n")
    (row,) = [line for line in page.splitlines() if line.startswith("| `tiny1000` | float32 | ")]
    times = adam["milliseconds"]
    fastest = min(time for name, time in times.items() if name.startswith("torch"))
    for cell, name in zip(row.strip("| ").split(" | ")[-2:], ("pure in place", "pure out of place")):
        assert abs(float(cell) - times[name] / fastest) < 0.0051  # two digits are shown
    assert "old" not in page


def test_overhead_then_readme(importable, tmp_path):
    import readme
    import results

    out = results.path_of("overhead", tmp_path)
    printed = run("overhead.py", "--tensors", 1, "--algorithms", "AdamW", "clip + AdamW", "--rounds", 1, "--out", out)
    assert "class: geometric mean" in printed
    cells = json.loads(out.read_text())["cells"]
    assert [(cell["algorithm"], cell["groups"]) for cell in cells] == [
        ("AdamW", 1),
        ("clip + AdamW", 1),
        ("AdamW", 400),
    ]
    lines = readme.block(tmp_path).splitlines()
    for name in ("1 tensor", "clip + AdamW", "400 groups of one tensor"):
        assert [line for line in lines if line.startswith(f"| {name} | ")]


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_host_path_then_readme(importable, tmp_path):
    import readme
    import results

    out = results.path_of("host_path", tmp_path)
    run("host_path.py", "--tensors", 2, "--rounds", 1, "--out", out)
    assert all(time > 0 for cell in json.loads(out.read_text())["cells"] for time in cell["microseconds"].values())
    assert [line for line in readme.block(tmp_path).splitlines() if line.startswith("| 2 tensors | ")]


def test_blocks_and_executors(tmp_path):
    out = tmp_path / "out.json"
    run("blocks.py", "--leaves", 64, "--rounds", 1, "--budget", 0, "--out", out)
    titles = [cell["sweep"] for cell in json.loads(out.read_text())["cells"]]
    assert titles == ["elements of a block", "blocked, leaves of 64", "compiled, leaves of 64"]
    run("executors.py", "--sizes", 64, "--rounds", 1, "--out", out)
    (cell,) = json.loads(out.read_text())["cells"]
    assert cell["chosen"] in cell["milliseconds"]


def test_compile_time_then_readme(importable, tmp_path):
    import readme
    import results
    from compile_time import PROGRAM

    compile(PROGRAM.format(layers=1), "program", "exec")  # to run it takes minutes
    figures = {"leaves": 2, "gradient": 4.0, "step": 6.0, "whole": 1.0, "parts": 2.0}
    results.save(results.path_of("compile_time", tmp_path), **figures)
    assert "Compiling the gradient of a network with 2 leaves takes" in readme.block(tmp_path)


def test_first_steps_then_readme(importable, tmp_path):
    import readme
    import results

    run("first_steps.py", "--algorithms", "Adagrad", "--out", results.path_of("first_steps", tmp_path))
    assert re.search(r"The first step with `fused=True` compiles a kernel, in \d+\.\d s", readme.block(tmp_path))


def test_matrices_then_readme(importable, tmp_path):
    import readme
    import results

    out = results.path_of("matrices", tmp_path)
    printed = run("matrices.py", "--workloads", "100 of 64 x 64", "--rounds", 1, "--out", out)
    assert "100 of 64 x 64" in printed
    (cell,) = json.loads(out.read_text())["cells"]
    assert set(cell["milliseconds"]) == {"torch", "class", "leaf by leaf", "in stacks", "one stack"}
    assert "| 100 of 64 x 64 |" in readme.block(tmp_path)


def test_a_gpu_is_measured_as_far_as_there_is_none(importable, tmp_path):
    """Methods that need a GPU are left out: graphs, and torch's compiled steps."""
    import gpu_readme
    import readme

    page = "<!-- gpu:begin -->\nold\n<!-- gpu:end -->\n"
    assert readme.filled(page, gpu_readme.gpus(tmp_path), "gpu") == page.replace("old", gpu_readme.NONE)
    out = tmp_path / "gpu-none.json"
    arguments = ["--device", "cpu", "--workloads", "tiny2000", "--dtypes", "float32", "--rounds", 1, "--out", out]
    run("gpu.py", *arguments, "--algorithms", "Lion")
    printed = run("gpu.py", *arguments, "--algorithms", "Adam", "clip + AdamW")
    assert "tiny2000, float32" in printed
    content = json.loads(out.read_text())
    assert content["copy_gigabytes_per_second"] > 0
    adam, clipped, lion = content["cells"]
    methods = {"torch for-loop", "torch foreach", "torch fused", "ours"}
    assert adam["milliseconds"].keys() == clipped["milliseconds"].keys() == methods
    assert lion["milliseconds"].keys() == lion["share"].keys() == {"ours"}
    assert not adam["missing"]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    text = gpu_readme.gpus(tmp_path)
    assert "| `tiny2000` | float32 | " in text and "| clip + AdamW | " in text


def test_the_least_traffic(importable):
    """Bytes an element: columns read, results written, and what norms are of once more."""
    import torch
    from gpu_methods import ALGORITHMS, CLIPPED, traffic

    unknown = {name for name, row in ALGORITHMS.items() if traffic(row, torch.bfloat16) is None}
    assert unknown == {"Muon", "Adafactor", "NovoGrad"}
    found = {name: traffic(ALGORITHMS[name], torch.float32) for name in ("SGD", "AdamW", CLIPPED, "Lion", "LAMB")}
    assert found == {"SGD": 12, "AdamW": 28, CLIPPED: 32, "Lion": 20, "LAMB": 44}


def test_peak_memory(importable):
    import memory
    import torch

    tensor = torch.ones(1 << 24)
    extra = memory.peak_extra_bytes(lambda: (tensor * 2).sum())
    assert extra is None or 0.9 * tensor.nbytes < extra < 1.5 * tensor.nbytes


def test_a_page_without_the_block_is_refused(importable):
    import readme

    with pytest.raises(SystemExit, match="no block"):
        readme.filled("a page", "text")
