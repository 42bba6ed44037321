import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("optimfx", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("optimfx")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def fresh_compiler():
    """A torch.compile without what other tests compiled, and its counters at zero."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.fixture
def figure(record_property):
    """Records a measured number, for the conformance matrix, and what it is a number of if not of the column's unit."""
    return lambda value, unit="": record_property("figure", (value, unit))
