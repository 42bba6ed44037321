"""The examples, run as a user runs them. Each checks by itself that its numbers are right."""

import errno
import runpy

import pytest
import torch

from examples import ROOT, run


def test_digits(tmp_path):
    """The three ways agree, in one graph, with 96 %."""
    rows = "torch.func.grad loop", "64 models", "torch.compile", "test accuracy", "steps/s"
    run("digits.py", rows, picture=tmp_path / "digits.png")


def test_migration():
    """torch.optim and optimfx.optim end in the same place."""
    run("migration.py", ("torch.optim", "optimfx.optim", "of the average", "largest difference"))


def test_convnet():
    """With groups, a schedule, a scaler and an average, a resumed run equals one that was not stopped."""
    run("convnet.py", ("as trained", "the average, resumed", "150 losses after the checkpoint are the same"))


def test_many_models():
    """Rates of their own, a start learned through steps, and four batches as one."""
    run("many_models.py", ("32 rates: the best is", "after three steps on a new wave", "of four times the size"))


def test_one_graph():
    """A transformer's step is compiled once, resumed bit for bit, and the optimizer exported."""
    rows = "240 steps in one graph", "resumed in the middle", "and its updates are the same"
    run("one_graph.py", rows, "--backend", "aot_eager")  # Inductor would take a minute


def test_gpt_char(tmp_path):
    """A resumed run equals one that was not killed."""
    rows = "as trained", "their average", "steps were taken twice, with the same losses"
    run("gpt_char.py", rows, picture=tmp_path / "gpt_char.png")


def test_captured_step():
    """Without a GPU, uncaptured; with one, the losses are the same."""
    run("captured_step.py", ("60 tensors, 200 steps: loss", "launched"))


def test_a_checkpoint_outlives_a_full_disk(tmp_path, monkeypatch):
    """The old one is there until the new one is whole."""
    example = runpy.run_path(str(ROOT / "examples" / "gpt_char.py"))
    save, load = example["save"], example["load"]
    path, write = tmp_path / "checkpoint.pt", torch.save
    save(path, 1, {"w": torch.ones(3)}, ())

    def full(content, part):
        write(content, part)
        part.write_bytes(part.read_bytes()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save(path, 2, {"w": torch.zeros(3)}, ())
    step, params, _ = load(path)
    assert step == 1
    assert torch.equal(params["w"], torch.ones(3))


def test_fsdp2():
    """A checkpoint of two processes goes on in one, bit for bit."""
    run("fsdp2.py", ("two processes", "4,805", "one, resumed", "9,610", "losses after the checkpoint"))
