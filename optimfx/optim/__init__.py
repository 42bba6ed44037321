"""torch.optim's classes on optimfx's pure algorithms: ``import optimfx.optim as optim``, and nothing else changes."""

from optimfx.optim.adam import Adam, Adamax, AdamW, NAdam, RAdam, SparseAdam
from optimfx.optim.adaptive import Adadelta, Adafactor, Adagrad, RMSprop
from optimfx.optim.lbfgs import LBFGS
from optimfx.optim.muon import Muon
from optimfx.optim.optimizer import Optimizer
from optimfx.optim.sgd import ASGD, SGD, Rprop

__all__ = [
    "ASGD",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SparseAdam",
]
