"""The examples that need these libraries, run as a user runs them."""

from twins import client

from examples import run


def test_lightning_module(tmp_path):
    """A chain under the Trainer is resumed bit for bit."""
    client("lightning")
    rows = "not interrupted", "resumed after", "of the average", "losses after the checkpoint"
    run("lightning_module.py", rows, picture=tmp_path / "lightning_module.png")


def test_accelerate_loop():
    """A class under the Accelerator is resumed bit for bit."""
    client("accelerate")
    run("accelerate_loop.py", ("not interrupted", "resumed after", "test accuracy", "losses after the checkpoint"))
