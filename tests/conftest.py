import conformance
import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("optimfx", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("optimfx")


def pytest_addoption(parser):
    parser.addoption("--matrix", action="store_true", help="write docs/conformance.md from this run")


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        # Workers that share cores wait for one another's threads, up to a thousand times as long as they work.
        torch.set_num_threads(1)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(conformance.Plugin(config))


def pytest_runtest_setup(item):
    conformance.mark(item)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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
