"""Kernels for a GPU, as far as they can be tested without one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import interpreted
import pytest
import torch
from kernel_aot import compiled, stages
from kernel_inventory import kernels, source

import optimfx as fx
from optimfx.execution.executors.triton.runtime import build, launch

ROOT = Path(__file__).parents[2]


def run(*command, **variables):
    """A process of its own: Triton decides when it is first imported whether it interprets its kernels."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


needs_triton = pytest.mark.skipif(sys.platform != "linux", reason="Triton is there for Linux only")


@needs_triton
@pytest.mark.parametrize("file", ["helpers/interpreted.py", "execution/interpreted_op.py"])
def test_interpreted_kernels_equal_eager(file):
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{file}", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout and "skipped" not in done.stdout


@needs_triton
def test_kernels_move_no_more_than_they_must(tmp_path):
    """Compiled for one device and dtype, without a cache; ``docs/kernels.md`` has them all."""
    options = ("--check", "--capability", "90", "--dtype", "float32")
    done = run("benchmarks/kernel_audit.py", *options, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def cold(monkeypatch, tmp_path):
    """Nothing is taken from what was compiled before."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_word_compiles(dtype, cold):
    """All in one rule; what they say, the interpreted tests hold."""

    def leaf(base, param, update, s):
        for word in interpreted.WORDS:
            function, takes = interpreted.function_and_arity(word)
            update = update + function(*[update, param, update * param][:takes]) * 0.1
        return (update,)

    rule = fx.Rule(leaf, lambda step: interpreted.Nothing(), reads_param=lambda s: True)
    assert compiled(source([fx.transformation("words", rule).update], dtype), 90).loads


@needs_triton
@pytest.mark.parametrize("state", DTYPES, ids=str)
@pytest.mark.parametrize("param", DTYPES, ids=str)
def test_every_pair_of_dtypes_compiles(param, state, cold):
    """128 bits at once: a block to 128 threads. Of unequal widths, some are handed from thread to thread."""
    found = compiled(source([fx.adamw(state_dtype=state).update], param), 90)
    share = launch.BLOCK // launch.block_of(2 * param.itemsize + 2 * state.itemsize)
    loads, stores = param.itemsize + state.itemsize, param.itemsize // 2 + state.itemsize
    assert (found.loads, found.stores) == (loads // share, stores // share)
    assert found.spilled == 0
    assert found.shared == 0 or param.itemsize != state.itemsize


@needs_triton
@pytest.mark.parametrize("name", [name for name in kernels()])
def test_the_device_rounds_as_torch_does(name, cold):
    """Each operation to the nearest, small numbers too; not-a-number is not lost. The interpreter does so anyway."""
    ptx = stages(source(kernels()[name], torch.float32), 90)["ptx"]
    words = set(re.findall(r"^\s*(?:@\S+ )?([a-z]+\.[\w.]*f(?:32|64))\b", ptx, re.MULTILINE))
    assert words
    assert not [
        word
        for word in words
        # Triton has no max of float64 that keeps NaN: it is chosen afterwards.
        if re.match(r"fma|(add|sub|mul|div|sqrt)(?!\.rn\.f)|(max|min)(?!\.NaN\.f32|\.f64)", word)
    ]


@needs_triton
def test_rules_of_one_name_are_different_to_the_cache():
    """Triton's cache knows a function by its source alone: a rule's own must be in it."""
    one, same, other = (
        build.kernels(source([interpreted.leaky(cap).update], torch.float32)).kernel.function.cache_key
        for cap in (2.0, 2.0, 0.5)
    )
    assert one == same != other


def test_on_the_host_it_has_to_be_interpreted():
    with fx.execution.use("triton"), pytest.raises(ValueError, match=r"'triton'.*cannot run.*not on a GPU"):
        fx.step(fx.sgd(), torch.ones(2), fx.sgd().init(torch.ones(2)), torch.ones(2))


def test_importing_and_stepping_does_not_import_triton():
    program = "import sys, torch, optimfx as fx; w = torch.ones(2); fx.step(fx.sgd(), w, fx.sgd().init(w), w)"
    done = run("-c", f"{program}; assert not [name for name in sys.modules if name.partition('.')[0] == 'triton']")
    assert done.returncode == 0, done.stderr


@needs_triton
def test_without_a_c_compiler_there_are_no_kernels(monkeypatch):
    """Triton would fail at the first launch, where it makes what launches; torch steps there all the same."""
    device = torch.device("cuda")
    monkeypatch.setattr(build, "INTERPRETED", False)
    for found in (True, False):
        monkeypatch.setattr(build, "COMPILER", found)
        assert build.serves(device) == found


@pytest.mark.parametrize("op", ["update", "step_", "global_norm"])
def test_inductor_keeps_the_ops_out_of_cuda_graphs(op):
    """The tables that a launch keeps would lie in the memory of the graph."""
    assert torch.Tag.cudagraph_unsafe in getattr(torch.ops.optimfx, op).default.tags
