"""Capture without a GPU; tests/gpu has the rest."""

import pytest
import torch

import optimfx as fx


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(RuntimeError, match="needs a CUDA GPU"):
        fx.capture(lambda: None)
