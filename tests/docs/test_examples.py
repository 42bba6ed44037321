"""The examples, run as a user runs them. Each checks by itself that its numbers are right."""

from examples import run


def test_digits(tmp_path):
    """The three ways agree, in one graph, with 96 %."""
    rows = "torch.func.grad loop", "64 models", "torch.compile", "test accuracy", "steps/s"
    run("digits.py", rows, picture=tmp_path / "digits.png")


def test_migration():
    """torch.optim and optimfx.optim end in the same place."""
    run("migration.py", ("torch.optim", "optimfx.optim", "of the average", "largest difference"))


def test_gpt_char(tmp_path):
    """What is resumed goes on as what was killed would have."""
    rows = "as trained", "their average", "steps were taken twice, with the same losses"
    run("gpt_char.py", rows, picture=tmp_path / "gpt_char.png")


def test_fsdp2():
    """A checkpoint of two processes goes on in one, bit for bit."""
    run("fsdp2.py", ("two processes", "4,805", "one, resumed", "9,610", "losses after the checkpoint"))
