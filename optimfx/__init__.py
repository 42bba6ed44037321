"""Gradient transformations for PyTorch: pure, composable, fast.

An optimizer is a pair of pure functions over pytrees of tensors::

    import optimfx as fx
    tx = fx.chain(fx.clip_by_global_norm(1.0), fx.adamw(lr=fx.schedules.cosine_annealing(3e-4, 10_000)))
    state = tx.init(params)
    params, state = fx.step(tx, grads, state, params)
"""

from typing import TYPE_CHECKING, NoReturn

from optimfx import execution, ops, optim, projections, schedules, typing
from optimfx.combinators.apply_if_finite import apply_if_finite
from optimfx.combinators.chain import chain, named_chain
from optimfx.combinators.conditional import conditionally_mask, conditionally_transform
from optimfx.combinators.flatten import flatten
from optimfx.combinators.identity import identity
from optimfx.combinators.inject import inject_hyperparams
from optimfx.combinators.inject_stateful import inject_stateful_hyperparams
from optimfx.combinators.matrices import as_matrices, kernel_as_matrix
from optimfx.combinators.mechanize import mechanize
from optimfx.combinators.multi_steps import multi_steps, skip_large_updates, skip_not_finite
from optimfx.combinators.partition import is_matrix, masked, partition
from optimfx.combinators.sam import sam
from optimfx.core import EmptyState, GradientTransformation, Locality, Rule, StepState
from optimfx.core.stateless import stateless
from optimfx.core.tree import global_norm
from optimfx.describe import describe
from optimfx.execution import explain, transformation
from optimfx.execution.capture import capture
from optimfx.rules.adabelief import adabelief
from optimfx.rules.adadelta import adadelta
from optimfx.rules.adafactor import adafactor
from optimfx.rules.adagrad import adagrad
from optimfx.rules.adam import adam
from optimfx.rules.adam_mini import adam_mini
from optimfx.rules.adamax import adamax
from optimfx.rules.adamuon import adamuon
from optimfx.rules.adamw import adamw
from optimfx.rules.adan import adan
from optimfx.rules.ademamix import ademamix
from optimfx.rules.adopt import adopt
from optimfx.rules.asgd import asgd
from optimfx.rules.dadapt_adamw import dadapt_adamw
from optimfx.rules.dion import dion
from optimfx.rules.fromage import fromage
from optimfx.rules.kron import kron
from optimfx.rules.lamb import lamb
from optimfx.rules.lars import lars
from optimfx.rules.lbfgs import lbfgs
from optimfx.rules.lion import lion
from optimfx.rules.momo import momo
from optimfx.rules.momo_adam import momo_adam
from optimfx.rules.muon import muon
from optimfx.rules.nadam import nadam
from optimfx.rules.normuon import normuon
from optimfx.rules.novograd import novograd
from optimfx.rules.prodigy import prodigy
from optimfx.rules.radam import radam
from optimfx.rules.rmsprop import rmsprop
from optimfx.rules.rprop import rprop
from optimfx.rules.scion import scion
from optimfx.rules.sgd import sgd
from optimfx.rules.shampoo import shampoo
from optimfx.rules.signsgd import signsgd
from optimfx.rules.soap import soap
from optimfx.rules.sparse_adam import sparse_adam
from optimfx.rules.stable_adamw import stable_adamw
from optimfx.rules.yogi import yogi
from optimfx.surgery import append_rows, take_rows, tree_get, tree_get_all_with_path, tree_map_params, tree_set
from optimfx.transforms.apollo import scale_by_apollo
from optimfx.transforms.apply_every import apply_every
from optimfx.transforms.average import ema_params, swa_params
from optimfx.transforms.backtracking_linesearch import scale_by_backtracking_linesearch
from optimfx.transforms.block import clip_by_block_rms, scale_by_param_block_norm, scale_by_param_block_rms
from optimfx.transforms.cautious import cautious
from optimfx.transforms.chains import acprop, adamaxw, amsgrad, nadamw, optimistic_adam_v2, signum, simplified_ademamix
from optimfx.transforms.clip import clip_by_global_norm, clip_by_value
from optimfx.transforms.cocob import cocob, scale_by_cocob
from optimfx.transforms.distance import dog, dowg, scale_by_dog, scale_by_dowg
from optimfx.transforms.factored_rms import scale_by_factored_rms
from optimfx.transforms.freeze import freeze, selective_transform
from optimfx.transforms.galore import galore, scale_by_galore
from optimfx.transforms.leaf_distance import scale_by_distance_over_gradients
from optimfx.transforms.linesearch import value_and_grad_from_state
from optimfx.transforms.lookahead import lookahead
from optimfx.transforms.madgrad import madgrad, scale_by_madgrad
from optimfx.transforms.maximize import maximize
from optimfx.transforms.modifiers import add_cautious_weight_decay, grokfast_ema, mars_correction
from optimfx.transforms.momentum import ema, momentum
from optimfx.transforms.monitor import monitor
from optimfx.transforms.noise import add_noise, noisy_sgd
from optimfx.transforms.nonnegative import keep_params_nonnegative
from optimfx.transforms.normalize import normalize, normalize_by_update_norm
from optimfx.transforms.optimistic import optimistic_gradient_descent, scale_by_optimistic_gradient
from optimfx.transforms.plateau import reduce_on_plateau
from optimfx.transforms.polyak import polyak_sgd, scale_by_polyak
from optimfx.transforms.precision import kahan, master_params, stochastic_rounding
from optimfx.transforms.privacy import (
    differentially_private_aggregate,
    dpsgd,
    per_example_global_norm_clip,
    per_example_layer_norm_clip,
)
from optimfx.transforms.scale import scale, scale_by_lr, scale_by_schedule
from optimfx.transforms.scale_by_adam import (
    scale_by_adam,
    scale_by_adamax,
    scale_by_adan,
    scale_by_ademamix,
    scale_by_amsgrad,
    scale_by_radam,
)
from optimfx.transforms.scale_by_lbfgs import scale_by_lbfgs
from optimfx.transforms.scale_by_past import scale_by_acprop, scale_by_simplified_ademamix
from optimfx.transforms.scale_by_rms import scale_by_adadelta, scale_by_rms, scale_by_rss, scale_by_stddev
from optimfx.transforms.scale_by_sign import scale_by_lion, scale_by_rprop, scale_by_sign
from optimfx.transforms.scale_by_sm3 import scale_by_sm3, sm3
from optimfx.transforms.scale_by_variance import scale_by_adopt, scale_by_belief, scale_by_novograd, scale_by_yogi
from optimfx.transforms.schedule_free import (
    schedule_free,
    schedule_free_adamw,
    schedule_free_eval_params,
    schedule_free_sgd,
)
from optimfx.transforms.set_to_zero import set_to_zero
from optimfx.transforms.snapshot import measure_with_ema, snapshot
from optimfx.transforms.sophia import hutchinson_estimator_diag_hessian, scale_by_sophia, sophia
from optimfx.transforms.trust_ratio import scale_by_trust_ratio
from optimfx.transforms.unit import adaptive_grad_clip, centralize
from optimfx.transforms.weight_decay import add_decayed_weights
from optimfx.transforms.zero_nans import zero_nans
from optimfx.transforms.zoom_linesearch import scale_by_zoom_linesearch
from optimfx.update import apply_updates, incremental_update, periodic_update, step

__version__ = "0.1.0"

# fmt: off
__all__ = [  # noqa: RUF022 - in the order of a table of contents
    # a transformation, and how to use one
    "GradientTransformation", "EmptyState", "StepState", "apply_updates", "step",
    "incremental_update", "periodic_update", "per_example_global_norm_clip", "per_example_layer_norm_clip",
    "tree_get", "tree_get_all_with_path", "tree_set", "tree_map_params", "take_rows", "append_rows",
    "value_and_grad_from_state",
    # algorithms
    "sgd", "asgd", "adam", "adamw", "adamax", "nadam", "radam", "sparse_adam", "rmsprop", "adagrad", "adadelta",
    "adafactor", "rprop", "lbfgs",
    "muon", "normuon", "adamuon", "dion", "scion", "soap", "shampoo", "kron",
    "signsgd", "lars", "lamb", "novograd", "lion", "adabelief", "yogi", "adan", "ademamix", "adopt",
    "sophia", "prodigy", "dadapt_adamw", "momo", "momo_adam", "stable_adamw", "adam_mini", "fromage",
    # algorithms that are chains of links, or options of another
    "amsgrad", "nadamw", "adamaxw", "acprop", "simplified_ademamix", "optimistic_gradient_descent",
    "optimistic_adam_v2", "dog", "dowg", "polyak_sgd", "signum", "sm3", "madgrad", "cocob",
    "noisy_sgd", "dpsgd", "galore",
    # links
    "identity", "set_to_zero", "stateless", "maximize",
    "scale", "scale_by_lr", "scale_by_schedule", "scale_by_trust_ratio",
    "scale_by_adam", "scale_by_amsgrad", "scale_by_adamax", "scale_by_radam", "scale_by_ademamix", "scale_by_adan",
    "scale_by_belief", "scale_by_yogi", "scale_by_adopt", "scale_by_novograd",
    "scale_by_rms", "scale_by_stddev", "scale_by_rss", "scale_by_adadelta",
    "scale_by_sign", "scale_by_lion", "scale_by_rprop", "scale_by_acprop", "scale_by_simplified_ademamix",
    "scale_by_dog", "scale_by_dowg", "scale_by_polyak", "scale_by_sm3", "scale_by_madgrad", "scale_by_cocob",
    "scale_by_factored_rms", "scale_by_distance_over_gradients",
    "scale_by_optimistic_gradient", "grokfast_ema", "mars_correction", "add_cautious_weight_decay",
    "momentum", "ema", "ema_params", "swa_params", "add_decayed_weights", "clip_by_global_norm", "clip_by_value",
    "clip_by_block_rms", "adaptive_grad_clip", "normalize", "normalize_by_update_norm", "centralize",
    "scale_by_param_block_norm", "scale_by_param_block_rms", "keep_params_nonnegative", "apply_every",
    "reduce_on_plateau", "add_noise", "differentially_private_aggregate",
    "zero_nans", "kahan", "master_params", "stochastic_rounding", "monitor", "snapshot", "measure_with_ema",
    "scale_by_sophia", "hutchinson_estimator_diag_hessian",
    "scale_by_lbfgs", "scale_by_backtracking_linesearch", "scale_by_zoom_linesearch",
    "scale_by_galore", "scale_by_apollo",
    # combinators
    "chain", "named_chain", "masked", "partition", "is_matrix", "as_matrices", "kernel_as_matrix", "freeze",
    "selective_transform", "flatten", "inject_hyperparams", "inject_stateful_hyperparams",
    "multi_steps", "skip_not_finite", "skip_large_updates", "apply_if_finite",
    "schedule_free", "schedule_free_sgd", "schedule_free_adamw", "schedule_free_eval_params",
    "lookahead", "cautious", "conditionally_transform", "conditionally_mask", "sam", "mechanize",
    # hyperparameters over time
    "schedules",
    # sets that parameters stay in
    "projections",
    # torch.optim's classes
    "optim",
    # how it runs
    "execution", "explain", "describe", "capture",
    # types to annotate with
    "typing",
    # your own rule
    "Rule", "Locality", "transformation", "ops", "global_norm",
]
# fmt: on

OPTAX_NAMES = {
    "MultiSteps": "multi_steps",
    "clip": "clip_by_value",
    "multi_transform": "partition",
    "scale_by_learning_rate": "scale_by_lr",
    "sign_sgd": "signsgd",
    "trace": "momentum",
}
"""Names of Optax that have another name here."""

if not TYPE_CHECKING:  # for whom every name would be one

    def __getattr__(name: str) -> NoReturn:
        """Name ours for a name of Optax's."""
        hint = f"; Optax's {name} is fx.{OPTAX_NAMES[name]}" if name in OPTAX_NAMES else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
