"""torch.optim's classes on optimfx's pure algorithms: ``import optimfx.optim as optim``, and nothing else changes."""

import torch

from optimfx.optim import lr_scheduler, swa_utils
from optimfx.optim.classes.adam import Adam, Adamax, AdamW, NAdam, RAdam, SparseAdam
from optimfx.optim.classes.adaptive import Adadelta, Adafactor, Adagrad, RMSprop
from optimfx.optim.classes.extra import (
    ADOPT,
    LAMB,
    LARS,
    SOAP,
    AdaBelief,
    AdamMini,
    AdaMuon,
    Adan,
    AdEMAMix,
    Dion,
    Fromage,
    Kron,
    Lion,
    NorMuon,
    NovoGrad,
    Scion,
    Shampoo,
    SignSGD,
    StableAdamW,
    Yogi,
)
from optimfx.optim.classes.injected import (
    COCOB,
    MADGRAD,
    SM3,
    DAdaptAdamW,
    DoG,
    DoWG,
    MoMo,
    MoMoAdam,
    PolyakSGD,
    Prodigy,
)
from optimfx.optim.classes.lbfgs import LBFGS
from optimfx.optim.classes.muon import Muon
from optimfx.optim.classes.sgd import ASGD, SGD, Rprop
from optimfx.optim.convert import as_transformation
from optimfx.optim.optimizer import Optimizer
from optimfx.optim.transform_optimizer import TransformOptimizer

# fmt: off
__all__ = [  # noqa: RUF022 - in the order of a table of contents
    "Optimizer", "TransformOptimizer", "as_transformation", "lr_scheduler", "swa_utils",
    # as in torch.optim
    "SGD", "ASGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "SparseAdam", "RMSprop", "Adagrad", "Adadelta",
    "Adafactor", "Rprop", "LBFGS", "Muon",
    # beyond it
    "SignSGD", "LARS", "LAMB", "NorMuon", "AdaMuon", "Dion", "Scion", "SOAP", "Shampoo", "Kron",
    "NovoGrad", "Lion", "AdaBelief", "Yogi", "Adan", "AdEMAMix", "ADOPT",
    "StableAdamW", "AdamMini", "Fromage",
    "Prodigy", "DAdaptAdamW", "DoG", "DoWG", "MoMo", "MoMoAdam", "PolyakSGD", "COCOB", "MADGRAD", "SM3",
]
# fmt: on

if hasattr(torch.optim, "swap_in_optimizer_params_and_state"):  # since torch 2.13
    swap_in_optimizer_params_and_state = torch.optim.swap_in_optimizer_params_and_state
