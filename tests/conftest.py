import gc
import os
from collections import Counter

import conformance
import hypothesis
import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # what is asked of transformers is made in the tests
hypothesis.settings.register_profile("optimfx", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("optimfx")


def pytest_addoption(parser):
    parser.addoption("--matrix", action="store_true", help="write docs/conformance.md from this run")
    parser.addoption("--thorough", action="store_true", help="run the cases too that others nearly cover")


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        # Workers that share cores wait for one another's threads, up to a thousand times as long as they work.
        torch.set_num_threads(1)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(conformance.Plugin(config))


def pytest_collection_modifyitems(config, items):
    """Leave out what ``thorough`` says of a test's parameters: to compile every case takes longer than all else."""
    if config.option.thorough or config.option.matrix:
        return
    left = [
        item for item in items if any(mark.args[0](**item.callspec.params) for mark in item.iter_markers("thorough"))
    ]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in {*left}]


def pytest_collection_finish():
    """Freeze the garbage collector: scanning imported objects would take a tenth of the run.

    So would scanning often what torch.compile makes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


def pytest_terminal_summary(terminalreporter):
    """Say why tests were skipped, once for each reason."""
    reports = terminalreporter.stats.get("skipped", ())
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"skipped {count}: {reason}")


def pytest_unconfigure():
    gc.unfreeze()  # or Triton's bindings would complain of all that they were not given back


def pytest_runtest_setup(item):
    conformance.mark(item)


# Without a GPU, torch.manual_seed keeps a stack trace to seed one later, which takes longer than many a test.
seed = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed


@pytest.fixture(autouse=True)
def _seed():
    seed(0)


@pytest.fixture
def figure(record_property):
    """Records a measured number for the conformance matrix, and a note on it where it is not what its column says."""
    return lambda value, note="": record_property("figure", (value, note))


@pytest.fixture
def fresh_compiler():
    """A torch.compile without what other tests compiled, and its counters at zero."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()
