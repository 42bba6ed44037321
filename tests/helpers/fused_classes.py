"""The classes that take ``fused=True``."""

import inspect

import torch
from classes import CLASSES

TORCHS = {cls.__name__ for cls in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad)}
"""Classes that take ``fused`` in torch, too."""


FUSED = [cls for cls in CLASSES.values() if "fused" in inspect.signature(cls).parameters]
