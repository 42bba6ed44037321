"""Which torch runs the tests."""

import torch

BEFORE_2_13 = torch.__version__ < "2.13"
