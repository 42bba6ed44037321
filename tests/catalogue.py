"""Every algorithm and every link, with the options worth testing. A new one is covered by adding its row."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax
import optax.contrib
import pytest
import torch

import optimfx as fx


@dataclass(frozen=True)
class Row:
    """A factory and what it is tested against.

    Attributes:
        name: of the factory.
        options: the keyword arguments to test, the last one the richest.
        torch: the class of torch.optim that takes the same keyword arguments and must agree bit for bit.
        optax: the same transformation from Optax, given the keyword arguments; it returns None for options that Optax
            does not have.
    """

    name: str
    options: list[dict[str, Any]]
    torch: type[torch.optim.Optimizer] | None = None
    optax: Callable[..., optax.GradientTransformation | None] | None = None

    @property
    def carries(self) -> bool:
        """Whether the rule carries scalars from step to step, which torch does in the default dtype."""
        return bool(self().update.rule.carried)

    @property
    def factory(self) -> Callable[..., fx.GradientTransformation]:
        return getattr(fx, self.name)

    def takes(self, name: str) -> bool:
        """Whether the factory has this argument."""
        return name in inspect.signature(self.factory).parameters

    def __call__(self, **options: Any) -> fx.GradientTransformation:
        return self.factory(**options)

    @property
    def richest(self) -> dict[str, Any]:
        return self.options[-1]


def product(**values: Any) -> list[dict[str, Any]]:
    """Every combination of the values; the last has the last of each."""
    return [dict(zip(values, row)) for row in itertools.product(*values.values())]


def _optax_sgd(lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False):
    if dampening:  # Optax has none
        return None
    return _optax_chain(weight_decay, maximize, optax.sgd(lr, momentum=momentum or None, nesterov=nesterov))


def _optax_adam(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False, eps_root=0.0):
    if amsgrad:  # Optax takes the maximum after the bias correction
        return None
    return _optax_chain(weight_decay, maximize, optax.adam(lr, *betas, eps=eps, eps_root=eps_root))


def _optax_adamw(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, maximize=False, eps_root=0.0):
    if amsgrad:
        return None
    adamw = optax.adamw(lr, *betas, eps=eps, eps_root=eps_root, weight_decay=weight_decay)
    return _optax_chain(0.0, maximize, adamw)


def _optax_rmsprop(lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, maximize=False):
    rms = optax.rmsprop(lr, decay=alpha, eps=eps, eps_in_sqrt=False, centered=centered, momentum=momentum or None)
    return _optax_chain(weight_decay, maximize, rms)


def _optax_lion(lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, maximize=False):
    return _optax_chain(0.0, maximize, optax.lion(lr, *betas, weight_decay=weight_decay))


def _optax_adamax(lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, maximize=False):
    return _optax_chain(weight_decay, maximize, optax.adamax(lr, *betas, eps=eps))


def _optax_radam(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled_weight_decay=False, maximize=False):
    if eps or decoupled_weight_decay:  # Optax corrects the second moment before it adds eps, and has no decay
        return None
    return _optax_chain(weight_decay, maximize, optax.radam(lr, *betas, eps=eps))


def _optax_adagrad(lr=1e-2, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10, maximize=False):
    if eps:  # in Optax it stands under the root
        return None
    adagrad = optax.adagrad(lambda step: lr / (1 + step * jax.numpy.float64(lr_decay)), initial_accumulator_value, eps)
    return _optax_chain(weight_decay, maximize, adagrad)


def _optax_adadelta(lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, maximize=False):
    return _optax_chain(weight_decay, maximize, optax.adadelta(lr, rho, eps))


def _optax_adabelief(lr=1e-3, betas=(0.9, 0.999), eps=1e-16, maximize=False, eps_root=1e-16):
    return _optax_chain(0.0, maximize, optax.adabelief(lr, *betas, eps=eps, eps_root=eps_root))


def _optax_yogi(lr=1e-3, betas=(0.9, 0.999), eps=1e-3, initial_accumulator_value=1e-6, maximize=False):
    direction = optax.scale_by_yogi(*betas, eps, 0.0, initial_accumulator_value)
    return _optax_chain(0.0, maximize, optax.chain(direction, optax.scale_by_learning_rate(lr)))


def _optax_adan(lr=1e-3, betas=(0.98, 0.92, 0.99), eps=1e-8, weight_decay=0.0, maximize=False, eps_root=1e-8):
    return _optax_chain(0.0, maximize, optax.adan(lr, *betas, eps, eps_root, weight_decay))


def _optax_ademamix(
    lr=1e-3, betas=(0.9, 0.999, 0.9999), alpha=5.0, eps=1e-8, weight_decay=0.0, maximize=False, eps_root=0.0
):
    ademamix = optax.contrib.ademamix(lr, *betas, alpha, eps, eps_root, weight_decay=weight_decay)
    return _optax_chain(0.0, maximize, ademamix)


def _optax_adopt(lr=1e-3, betas=(0.9, 0.9999), eps=1e-6, clip=True, maximize=False):
    # Optax takes the fourth root of an integer step, in float32.
    adopt = optax.contrib.adopt(
        lr, *betas, eps, use_clipping=clip, clip_value_fn=lambda step: jax.numpy.float64(step) ** 0.25
    )
    return _optax_chain(0.0, maximize, adopt)


def _optax_chain(weight_decay, maximize, optimizer):
    ascent = optax.scale(-1.0) if maximize else optax.identity()
    return optax.chain(ascent, optax.add_decayed_weights(weight_decay), optimizer)


SGD = [
    options
    for options in product(
        lr=[0.1], momentum=[0.0, 0.9], dampening=[0.0, 0.5], weight_decay=[0.0, 0.1], nesterov=[False, True],
        maximize=[False, True],
    )
    if not options["nesterov"] or (options["momentum"] and not options["dampening"])
]  # fmt: skip
ADAM = product(
    lr=[0.1], betas=[(0.8, 0.95)], eps=[1e-6], maximize=[False, True], weight_decay=[0.0, 0.1], amsgrad=[False, True]
)
RMSPROP = product(
    lr=[0.1], alpha=[0.9], maximize=[False, True], weight_decay=[0.0, 0.1], momentum=[0.0, 0.9], centered=[False, True]
)

MAXIMIZE_AND_DECAY = dict(maximize=[False, True], weight_decay=[0.0, 0.1])
RADAM = product(
    lr=[0.1], betas=[(0.8, 0.95)], eps=[0.0, 1e-6], decoupled_weight_decay=[False, True], **MAXIMIZE_AND_DECAY
)
ADAGRAD = product(lr=[0.1], lr_decay=[0.0, 0.1], initial_accumulator_value=[0.0, 0.2], eps=[0.0], **MAXIMIZE_AND_DECAY)

ALGORITHMS = [
    Row("sgd", [*SGD, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)], torch.optim.SGD, _optax_sgd),
    Row("adam", [{}, *ADAM], torch.optim.Adam, _optax_adam),
    Row("adamw", [{}, *ADAM], torch.optim.AdamW, _optax_adamw),
    Row("rmsprop", [{}, *RMSPROP], torch.optim.RMSprop, _optax_rmsprop),
    Row(
        "adamax",
        [{}, *product(lr=[0.1], betas=[(0.8, 0.95)], eps=[1e-6], **MAXIMIZE_AND_DECAY)],
        torch.optim.Adamax,
        _optax_adamax,
    ),
    Row(
        "nadam",
        [
            {},
            *product(
                lr=[0.1],
                betas=[(0.8, 0.95)],
                eps=[1e-6],
                momentum_decay=[0.05],
                decoupled_weight_decay=[False, True],
                **MAXIMIZE_AND_DECAY,
            ),
        ],
        torch.optim.NAdam,
        lambda **options: None,  # Optax's momentum does not grow with the step
    ),
    Row(
        "asgd",
        [{}, *product(lr=[0.1], lambd=[0.01], alpha=[0.6], t0=[2.0, 100.0], **MAXIMIZE_AND_DECAY)],
        torch.optim.ASGD,
        lambda **options: None,  # Optax has none
    ),
    Row("radam", [{}, *RADAM], torch.optim.RAdam, _optax_radam),
    Row("adagrad", [{}, *ADAGRAD], torch.optim.Adagrad, _optax_adagrad),
    Row(
        "adadelta",
        [{}, *product(lr=[0.5], rho=[0.8], eps=[1e-2], **MAXIMIZE_AND_DECAY)],
        torch.optim.Adadelta,
        _optax_adadelta,
    ),
    Row(
        "rprop",
        [{}, *product(lr=[0.1], etas=[(0.4, 1.3)], step_sizes=[(0.01, 0.2)], maximize=[False, True])],
        torch.optim.Rprop,
        lambda **options: None,  # Optax gives each step one call late
    ),
    Row("lion", [{}, *product(lr=[0.01], maximize=[False, True], weight_decay=[0.0, 0.1])], None, _optax_lion),
    Row(
        "adabelief",
        [{}, *product(lr=[0.1], betas=[(0.8, 0.95)], eps=[1e-6], maximize=[False, True], eps_root=[1e-4])],
        None,
        _optax_adabelief,
    ),
    Row(
        "yogi",
        [
            {},
            *product(
                lr=[0.1], betas=[(0.8, 0.95)], eps=[1e-2], initial_accumulator_value=[0.5], maximize=[False, True]
            ),
        ],
        None,
        _optax_yogi,
    ),
    Row(
        "adan",
        [{}, *product(lr=[0.1], betas=[(0.9, 0.8, 0.95)], eps=[1e-6], eps_root=[1e-4], **MAXIMIZE_AND_DECAY)],
        None,
        _optax_adan,
    ),
    Row(
        "ademamix",
        [{}, *product(lr=[0.1], betas=[(0.8, 0.95, 0.99)], alpha=[3.0], eps_root=[1e-4], **MAXIMIZE_AND_DECAY)],
        None,
        _optax_ademamix,
    ),
    Row(
        "adopt",
        [{}, *product(lr=[0.1], betas=[(0.8, 0.95)], eps=[1e-3], maximize=[False, True], clip=[False, True])],
        None,
        _optax_adopt,
    ),
]


def _half(step):
    return 0.5 / (step + 1)


LINKS = [
    Row("identity", [{}], optax=optax.identity),
    Row("set_to_zero", [{}], optax=optax.set_to_zero),
    Row("maximize", [{}], optax=lambda: optax.scale(-1.0)),
    Row("scale", [dict(factor=-0.5)], optax=lambda factor: optax.scale(factor)),
    Row("scale_by_lr", [dict(lr=0.1), dict(lr=_half)], optax=lambda lr: optax.scale_by_learning_rate(lr)),
    Row("scale_by_schedule", [dict(schedule=_half)], optax=lambda schedule: optax.scale_by_schedule(schedule)),
    Row(
        "scale_by_adam",
        [{}, dict(betas=(0.8, 0.9), eps=1e-3, eps_root=1e-4)],
        optax=lambda betas=(0.9, 0.999), eps=1e-8, eps_root=0.0: optax.scale_by_adam(*betas, eps, eps_root),
    ),
    Row(
        "scale_by_rms",
        [dict(alpha=0.9), dict(alpha=0.9, centered=True), dict(alpha=0.9, eps=0.0, eps_root=1e-3)],
        optax=lambda alpha, eps=1e-8, eps_root=0.0, centered=False: (
            optax.scale_by_stddev(alpha, eps, eps_in_sqrt=False)
            if centered
            else optax.scale_by_rms(alpha, eps_root or eps, eps_in_sqrt=bool(eps_root))
        ),
    ),
    Row(
        "momentum",
        [dict(decay=0.9), dict(decay=0.9, nesterov=True)],
        optax=lambda decay, nesterov=False: optax.trace(decay, nesterov),
    ),
    Row("ema", product(decay=[0.9], debias=[False, True]), optax=lambda decay, debias: optax.ema(decay, debias)),
    Row(
        "add_decayed_weights",
        [dict(weight_decay=0.1)],
        optax=lambda weight_decay: optax.add_decayed_weights(weight_decay),
    ),
    Row(
        "clip_by_global_norm",
        [dict(max_norm=100.0), dict(max_norm=1.0)],
        optax=lambda max_norm: optax.clip_by_global_norm(max_norm),
    ),
    Row("clip_by_value", [dict(clip_value=0.3)], optax=lambda clip_value: optax.clip(clip_value)),
]


def rows(table: list[Row] = ALGORITHMS) -> pytest.MarkDecorator:
    """Parameterise a test over rows."""
    return pytest.mark.parametrize("row", table, ids=lambda row: row.name)


def cases(
    table: list[Row] = ALGORITHMS, where: Callable[[Row, dict[str, Any]], bool] = lambda row, options: True
) -> pytest.MarkDecorator:
    """Parameterise a test over rows and each of their options."""
    every = [(row, options) for row in table for options in row.options if where(row, options)]
    return pytest.mark.parametrize(
        "row, options", every, ids=[f"{row.name}-{_describe(options)}" for row, options in every]
    )


def _describe(options: dict[str, Any]) -> str:
    shown = [f"{name}={getattr(value, '__name__', value)}" for name, value in options.items() if value]
    return ",".join(shown).replace(" ", "") or "default"
