"""Every algorithm and every link, with the options worth testing. A new one is covered by adding its row."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optax
import optax_twins
import optree
import pytest
import torch
from trees import params_like

import optimfx as fx
from optimfx.core import Locality, StructuredUpdate
from optimfx.execution.step import probe_step

SHAPES = [(4, 3), (), (0, 2), (2, 1, 2), (257,)]


@dataclass(frozen=True)
class Evaluating(StructuredUpdate):
    """A minimizer on ``g (p - p0) + |p - p0|^2 / 2``, whose gradient is at first what the update is given."""

    inner: fx.GradientTransformation

    def init(self, params):
        return self.inner.init(params)

    def run(self, updates, state, params, **how):
        leaves, spec = optree.tree_flatten(params, none_is_leaf=True, namespace="torch")
        grads = spec.flatten_up_to(updates)

        def value_and_grad(moved):
            steps = [None if p is None else q - p for p, q in zip(leaves, spec.flatten_up_to(moved))]
            parts = [
                ((g.conj() * s).real + (s.conj() * s).real / 2).sum()
                for g, s in zip(grads, steps)
                if g is not None and s is not None
            ]
            return sum(parts, torch.zeros((), device="cpu")), spec.unflatten(
                None if g is None else g + s for g, s in zip(grads, steps)
            )

        return self.inner.update.run(updates, state, params, value_and_grad_fn=value_and_grad, **how)

    def check(self, updates, state, params):
        self.inner.update.check(updates, state, params)

    def explain(self, params):
        return self.inner.update.explain(params)


@dataclass(frozen=True)
class Given(StructuredUpdate):
    """A transformation whose update is given further arguments."""

    inner: fx.GradientTransformation
    extra: dict[str, Any]

    def init(self, params):
        return self.inner.init(params)

    def run(self, updates, state, params, **how):
        return self.inner.update.run(updates, state, params, **how, **self.extra)

    def check(self, updates, state, params):
        self.inner.update.check(updates, state, params)

    def explain(self, params):
        return self.inner.update.explain(params)

    def description(self):
        return self.inner.update.description()

    def __getattr__(self, name):
        return getattr(object.__getattribute__(self, "inner").update, name)


@dataclass(frozen=True)
class Row:
    """A factory and what it is tested against.

    Attributes:
        name: of the factory.
        options: the keyword arguments to test, the last one the richest.
        torch_class: the class of torch.optim that takes the same keyword arguments and must agree bit for bit.
        torch_options: what to compare with torch, where that is not ``options``.
        torch_shapes: the leaves that torch can step.
        torch_grad: a gradient as torch wants it.
        optax: the same transformation from Optax, given the keyword arguments; it returns None for options that Optax
            does not have. Without one, it is looked for among the twins.
        dims: the least number of dimensions of a leaf.
        evaluates: whether it calls ``value_and_grad_fn``.
        extra: further arguments of its update.
        single_ulp: how far float32 may be off where the order of operations differs.
        note: what the conformance matrix says beside the name.
        reasons: why a column of the conformance matrix is closed to the algorithm.
    """

    name: str
    options: list[dict[str, Any]]
    torch_class: type[torch.optim.Optimizer] | None = None
    optax: Callable[..., optax.GradientTransformation | None] | None = None
    torch_options: list[dict[str, Any]] | None = None
    torch_shapes: list[tuple[int, ...]] = field(default_factory=lambda: SHAPES)
    torch_grad: Callable[[torch.Tensor], torch.Tensor] = lambda grad: grad.clone()
    dims: int = 0
    evaluates: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    single_ulp: int = 16
    note: str = ""
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def factory(self) -> Callable[..., fx.GradientTransformation]:
        """Makes the transformation; one that evaluates the function itself is given one that has the gradients."""
        make = getattr(fx, self.name)
        if self.extra:
            return functools.wraps(make)(
                lambda *args, **options: Given(make(*args, **options), self.extra).as_transformation()
            )
        if not self.evaluates:
            return make
        return functools.wraps(make)(lambda *args, **options: Evaluating(make(*args, **options)).as_transformation())

    def takes(self, name: str) -> bool:
        """Whether the factory has this argument."""
        return name in inspect.signature(self.factory).parameters

    def __call__(self, **options: Any) -> fx.GradientTransformation:
        return self.factory(**options)

    @property
    def richest(self) -> dict[str, Any]:
        return self.options[-1]

    @property
    def rule(self) -> fx.Rule | None:
        """The mathematics; None for a link that is a function of whole trees."""
        return getattr(self(**self.richest).update, "rule", None)

    @property
    def carries(self) -> bool:
        """Whether the rule carries scalars from step to step, which torch does in the default dtype."""
        return bool(self.rule and self.rule.carries)

    @property
    def measures(self) -> bool:
        """Whether it depends on sums over all leaves."""
        return bool(self.rule and self.rule.measures)

    @property
    def couples_leaves(self) -> bool:
        """Whether what happens to a leaf depends on the others."""
        return self.measures or self.evaluates

    def reads_param(self, options: dict[str, Any]) -> bool:
        """Whether an update needs the parameters."""
        update = self(**options).update
        return self.evaluates or bool(self.rule and self.rule.reads_param(probe_step(update).scalars))

    @property
    def executors(self) -> list[str]:
        """The executors that run it bit for bit alike; those that do not have tests of their own."""
        if not (self.rule and self.rule.elementwise):
            return ["eager"]
        return ["eager", "foreach"] if self.rule.locality is Locality.POSITION else ["blocked", "eager", "foreach"]

    def twin(self, **options: Any) -> optax.GradientTransformation | None:
        """The same transformation from Optax, or None."""
        twin = self.optax or getattr(optax_twins, self.name, None)
        made = twin and twin(**options)
        if made is None or not self.extra:
            return made
        return optax.GradientTransformation(made.init, functools.partial(made.update, **self.extra))

    def randn(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A random leaf of this shape, with further dimensions where the algorithm needs them."""
        return torch.randn((2,) * (self.dims - len(shape)) + shape, dtype=dtype)

    def params(self, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
        """A nested tree of random leaves."""
        return params_like(dtype, self.randn)


def product(**values: Any) -> list[dict[str, Any]]:
    """Every combination of the values; the last has the last of each."""
    return [dict(zip(values, row)) for row in itertools.product(*values.values())]


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

MUON = product(lr=[0.1], momentum=[0.8], adjust_lr_fn=[None, "match_rms_adamw"], nesterov=[False, True])

OF_FACTORS = {
    "complex": "the preconditioners are those of real matrices",
    "grad through the update": "derivatives take the preconditioners for constants",
    "grad w.r.t. lr": "derivatives take the preconditioners for constants",
}

ALGORITHMS = [
    Row("sgd", [*SGD, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)], torch.optim.SGD),
    Row("adam", [{}, *ADAM], torch.optim.Adam),
    Row("adamw", [{}, *ADAM], torch.optim.AdamW),
    Row("rmsprop", [{}, *RMSPROP], torch.optim.RMSprop),
    Row(
        "adamax",
        [{}, *product(lr=[0.1], betas=[(0.8, 0.95)], eps=[1e-6], **MAXIMIZE_AND_DECAY)],
        torch.optim.Adamax,
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
    ),
    Row(
        "asgd",
        [{}, *product(lr=[0.1], lambd=[0.01], alpha=[0.6], t0=[2.0, 100.0], **MAXIMIZE_AND_DECAY)],
        torch.optim.ASGD,
    ),
    Row("radam", [{}, *RADAM], torch.optim.RAdam),
    Row(
        "sparse_adam",
        [{}, *product(lr=[0.1], betas=[(0.8, 0.95)], eps=[1e-6], maximize=[False, True])],
        torch.optim.SparseAdam,
        torch_shapes=[(4, 3), (2, 1, 2), (257,)],  # a single number has no sparse form
        torch_grad=lambda grad: grad.to_sparse(),
    ),
    Row("adagrad", [{}, *ADAGRAD], torch.optim.Adagrad),
    Row(
        "adadelta",
        [{}, *product(lr=[0.5], rho=[0.8], eps=[1e-2], **MAXIMIZE_AND_DECAY)],
        torch.optim.Adadelta,
    ),
    Row(
        "adafactor",
        [{}, *product(lr=[0.1], beta2_decay=[-0.6], eps=[(1e-6, 1e-2)], d=[1.2, 1.5], **MAXIMIZE_AND_DECAY)],
        torch.optim.Adafactor,
        torch_shapes=[shape for shape in SHAPES if 0 not in shape],  # it divides by the number of elements
        reasons={"complex": "the factored second moment is that of a real matrix"},
    ),
    Row(
        "rprop",
        [{}, *product(lr=[0.1], etas=[(0.4, 1.3)], step_sizes=[(0.01, 0.2)], maximize=[False, True])],
        torch.optim.Rprop,
    ),
    Row(
        "muon",
        # In bfloat16, which torch computes the polynomial in, only equality with torch can be asked for.
        [{**options, "ns_dtype": None, **more} for options in MUON for more in product(**MAXIMIZE_AND_DECAY)],
        torch.optim.Muon,
        torch_options=[{}, *MUON, *product(weight_decay=[0.0], adjust_lr_fn=["original"], ns_steps=[3])],
        torch_shapes=[(4, 3), (3, 4), (1, 5), (0, 2), (16, 16)],
        dims=2,
        note="with `ns_dtype=None` in all columns but `torch`: in bfloat16, the default, the polynomial rounds by 1e-2 "
        "and no two ways to run it agree more closely",
        reasons={"complex": "the parts of a complex matrix are not orthogonal by themselves"},
    ),
    Row(
        "normuon",
        [
            {"ns_dtype": None, **more}
            for more in product(
                lr=[0.1], betas=[(0.8, 0.9)], eps=[1e-3], nesterov=[False, True], ns_steps=[3], **MAXIMIZE_AND_DECAY
            )
        ],
        dims=2,
        note="with `ns_dtype=None`, as `muon`",
        reasons={"complex": "the parts of a complex matrix are not orthogonal by themselves"},
    ),
    Row(
        "adamuon",
        [
            {"ns_dtype": None, **more}
            for more in product(lr=[0.1], momentum=[0.8], eps=[1e-3], ns_steps=[3], **MAXIMIZE_AND_DECAY)
        ],
        dims=2,
        note="with `ns_dtype=None`, as `muon`",
        reasons={"complex": "the parts of a complex matrix are not orthogonal by themselves"},
    ),
    Row(
        "dion",
        [{}, *product(lr=[0.1], momentum=[0.8], rank=[2], **MAXIMIZE_AND_DECAY)],
        dims=2,
        reasons=OF_FACTORS,
    ),
    Row(
        "scion",
        [
            {"ns_dtype": None, **more}
            for more in product(lr=[0.1], momentum=[0.8], norm=["sign"], scale=[2.0])
            + product(
                lr=[0.1], momentum=[0.8], scale=[2.0], constrained=[False, True], maximize=[False, True], ns_steps=[3]
            )
        ],
        dims=2,
        note="with `ns_dtype=None`, as `muon`",
        reasons={"complex": "the parts of a complex matrix are not orthogonal by themselves"},
    ),
    Row(
        "soap",
        [{}, *product(lr=[0.1], betas=[(0.8, 0.9)], eps=[1e-3], precondition_frequency=[2], **MAXIMIZE_AND_DECAY)],
        dims=2,
        single_ulp=1024,  # eigenvectors are off by rounding over the gap between eigenvalues: by 226 ulp on one CPU
        reasons=OF_FACTORS,
    ),
    Row(
        "shampoo",
        [
            {},
            *product(lr=[0.1], betas=[(0.8, 0.9)], eps=[1e-2], grafting=["sgd", None]),
            *product(lr=[0.1], betas=[(0.8, 0.9)], eps=[1e-2], precondition_frequency=[2], **MAXIMIZE_AND_DECAY),
        ],
        dims=2,
        single_ulp=1024,  # as soap's, and inverse roots of eigenvalues of 1e-6: by 520 ulp on one CPU
        reasons=OF_FACTORS,
    ),
    Row(
        "kron",
        [
            {},
            *product(lr=[0.1], momentum=[0.8], precond_lr=[0.3], precondition_frequency=[2], **MAXIMIZE_AND_DECAY),
        ],
        dims=2,
        reasons={"complex": OF_FACTORS["complex"]},
    ),
    Row(
        "lbfgs",
        product(lr=[0.5], max_iter=[1, 3], history_size=[2], tolerance_grad=[1e-12], tolerance_change=[1e-12]),
        torch.optim.LBFGS,  # compared in test_lbfgs.py
        evaluates=True,
        reasons={
            "None leaves": "one quasi-Newton step for all parameters: without a gradient means with gradient 0",
            "half precision": "the function is evaluated at the stored, rounded parameters within a step",
        },
    ),
    Row("signsgd", product(lr=[0.01], momentum=[0.0, 0.9], maximize=[False, True])),
    Row(
        "lars",
        [
            {},
            *product(
                lr=[0.1], trust_coefficient=[0.5], momentum=[0.0, 0.8], nesterov=[False, True], **MAXIMIZE_AND_DECAY
            ),
        ],
    ),
    Row(
        "lamb",
        [{}, *product(lr=[0.1], betas=[(0.8, 0.95)], eps=[1e-3], eps_root=[0.0, 1e-4], **MAXIMIZE_AND_DECAY)],
    ),
    Row(
        "novograd",
        [{}, *product(lr=[0.1], betas=[(0.8, 0.5)], eps=[1e-3], eps_root=[1e-4], **MAXIMIZE_AND_DECAY)],
    ),
    Row("lion", [{}, *product(lr=[0.01], maximize=[False, True], weight_decay=[0.0, 0.1])]),
    Row(
        "adabelief",
        [{}, *product(lr=[0.1], betas=[(0.8, 0.95)], eps=[1e-6], maximize=[False, True], eps_root=[1e-4])],
    ),
    Row(
        "yogi",
        [
            {},
            *product(
                lr=[0.1], betas=[(0.8, 0.95)], eps=[1e-2], initial_accumulator_value=[0.5], maximize=[False, True]
            ),
        ],
    ),
    Row(
        "adan",
        [{}, *product(lr=[0.1], betas=[(0.9, 0.8, 0.95)], eps=[1e-6], eps_root=[1e-4], **MAXIMIZE_AND_DECAY)],
    ),
    Row(
        "ademamix",
        [{}, *product(lr=[0.1], betas=[(0.8, 0.95, 0.99)], alpha=[3.0], eps_root=[1e-4], **MAXIMIZE_AND_DECAY)],
    ),
    Row(
        "adopt",
        [{}, *product(lr=[0.1], betas=[(0.8, 0.95)], eps=[1e-3], maximize=[False, True], clip=[False, True])],
    ),
    Row("stable_adamw", [{}, *product(lr=[0.1], betas=[(0.8, 0.95)], eps=[1e-3], maximize=[False, True])]),
    Row(
        "adam_mini",
        [{}, *product(lr=[0.1], betas=[(0.8, 0.95)], eps=[1e-3], **MAXIMIZE_AND_DECAY)],
        reasons={"complex": "the second moment of a row is real"},
    ),
    Row("fromage", [{}, *product(lr=[0.1], min_norm=[0.0, 0.5], maximize=[False, True])]),
    Row(
        "prodigy",
        [
            {},
            *product(
                lr=[0.5],
                betas=[(0.8, 0.95)],
                beta3=[0.9],
                eps=[1e-3],
                estim_lr0=[0.1],
                estim_lr_coef=[2.0],
                weight_decay=[0.1],
                safeguard_warmup=[False, True],
            ),
            dict(lr=0.5, betas=(0.8, 0.95), beta3=0.9, eps=1e-14, estim_lr0=0.1, weight_decay=0.1),
        ],
    ),
    Row(
        "dadapt_adamw",
        [{}, *product(lr=[0.5], betas=[(0.8, 0.95)], eps=[1e-3], estim_lr0=[0.1], weight_decay=[0.0, 0.1])],
    ),
    Row(
        "momo",
        [{}, *product(lr=[0.5], beta=[0.8], lower_bound=[-1.0], weight_decay=[0.1], adapt_lower_bound=[False, True])],
        extra={"value": 2.0},
    ),
    Row(
        "momo_adam",
        [
            {},
            *product(
                lr=[0.5],
                betas=[(0.8, 0.95)],
                eps=[1e-3],
                lower_bound=[-1.0],
                weight_decay=[0.1],
                adapt_lower_bound=[False, True],
            ),
        ],
        extra={"value": 2.0},
    ),
]


def _half(step):
    return 0.5 / (step + 1)


OF_UNITS = {"complex": "the units of a complex leaf are not those of its parts"}
LINKS = [
    Row("identity", [{}], optax=optax.identity),
    Row("set_to_zero", [{}], optax=optax.set_to_zero),
    Row("maximize", [{}], optax=lambda: optax.scale(-1.0)),
    Row("scale", [dict(factor=-0.5)], optax=lambda factor: optax.scale(factor)),
    Row("scale_by_madgrad", [{}, dict(lr=0.1, momentum=0.8, eps=1e-3)]),
    Row("scale_by_cocob", [{}, dict(alpha=2.0, eps=0.1)], optax=lambda **options: optax.contrib.cocob(1.0, **options)),
    Row(
        "scale_by_sm3",
        [{}, dict(b1=0.8, b2=0.9, eps=1e-3)],
        optax=optax_twins.scale_by_sm3,
        reasons={"complex": "the accumulators are of real dimensions"},
    ),
    Row(
        "scale_by_factored_rms",
        [
            dict(min_dim_size_to_factor=3),
            dict(factored=False, eps=1e-3),
            dict(min_dim_size_to_factor=1, decay_rate=0.5),
        ],
        optax=optax_twins.scale_by_factored_rms,
        reasons={"complex": "the factored second moment is that of real dimensions"},
    ),
    Row(
        "scale_by_distance_over_gradients",
        [{}, dict(reps_rel=0.1, eps=1e-3, global_scale=0.5)],
        optax=lambda **options: optax.scale_by_distance_over_gradients(param_dtype=float, **options),
    ),
    Row(
        "reduce_on_plateau",
        [{}, dict(factor=0.5, patience=2, rtol=0.0, atol=0.1, cooldown=1, accumulation_size=2, min_scale=0.1)],
        optax=optax.contrib.reduce_on_plateau,
        extra={"value": 2.0},
    ),
    Row(
        "scale_by_dog",
        [dict(init_step=(kind, 0.1), eps=1e-3) for kind in ("learning_rate", "distance", "heuristic")],
        optax=lambda init_step, eps: optax.chain(optax.contrib.dog(1.0, init_step, eps), optax.scale(-1.0)),
    ),
    Row(
        "scale_by_dowg",
        [{}, dict(init_estim_sq_dist=0.1, eps=1e-3)],
        optax=lambda init_estim_sq_dist=None, eps=1e-4: optax.chain(
            optax.contrib.dowg(1.0, init_estim_sq_dist, eps), optax.scale(-1.0)
        ),
    ),
    Row(
        "scale_by_polyak",
        [{}, *product(f_min=[0.5], max_lr=[0.5], eps=[1e-3], variant=["sps", "sps+"])],
        optax=lambda f_min=0.0, max_lr=1.0, eps=0.0, variant="sps": optax.scale_by_polyak(f_min, max_lr, eps, variant),
        extra={"value": 2.0},
    ),
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
    Row("scale_by_amsgrad", [dict(betas=(0.8, 0.9), eps=1e-3, eps_root=1e-4)]),
    Row(
        "scale_by_adamax",
        [dict(betas=(0.8, 0.9), eps=1e-3)],
        optax=lambda betas, eps: optax.scale_by_adamax(*betas, eps),
    ),
    Row(
        "scale_by_radam",
        [dict(betas=(0.8, 0.95), eps=0.0), dict(betas=(0.8, 0.95), eps=1e-3)],
        optax=lambda betas, eps: None if eps else optax.scale_by_radam(*betas, eps),
    ),
    Row(
        "scale_by_ademamix",
        [dict(betas=(0.8, 0.95, 0.99), alpha=3.0, eps=1e-3, eps_root=1e-4)],
        optax=lambda betas, alpha, eps, eps_root: optax.contrib.scale_by_ademamix(*betas, alpha, eps, eps_root),
    ),
    Row(
        "scale_by_adan",
        [dict(betas=(0.9, 0.8, 0.95), eps=1e-6, eps_root=1e-4)],
        optax=lambda betas, eps, eps_root: optax.scale_by_adan(*betas, eps, eps_root),
    ),
    Row(
        "scale_by_belief",
        [dict(betas=(0.8, 0.95), eps=1e-6, eps_root=1e-4)],
        optax=lambda betas, eps, eps_root: optax.scale_by_belief(*betas, eps, eps_root),
    ),
    Row(
        "scale_by_yogi",
        [dict(betas=(0.8, 0.95), eps=1e-2, initial_accumulator_value=0.5)],
        optax=lambda betas, eps, initial_accumulator_value: optax.scale_by_yogi(
            *betas, eps, 0.0, initial_accumulator_value
        ),
    ),
    Row(
        "scale_by_adopt",
        [dict(betas=(0.8, 0.95), eps=1e-3, clip=False), dict(betas=(0.8, 0.95), eps=1e-3)],
        optax=lambda betas, eps, clip=True: optax.contrib.scale_by_adopt(
            *betas, eps, use_clipping=clip, clip_value_fn=optax_twins.fourth_root
        ),
    ),
    Row(
        "scale_by_novograd",
        [dict(betas=(0.8, 0.5), eps=1e-3, eps_root=1e-4)],
        optax=lambda betas, eps, eps_root: optax.scale_by_novograd(*betas, eps, eps_root),
    ),
    Row(
        "scale_by_stddev",
        [dict(alpha=0.9), dict(alpha=0.9, eps=0.0, eps_root=1e-3)],
        optax=lambda alpha, eps=1e-8, eps_root=0.0: optax.scale_by_stddev(
            alpha, eps_root or eps, eps_in_sqrt=bool(eps_root)
        ),
    ),
    Row(
        "scale_by_rss",
        [{}, dict(initial_accumulator_value=0.2, eps=0.0)],
        optax=lambda initial_accumulator_value=0.0, eps=1e-10: (
            None if eps else optax.scale_by_rss(initial_accumulator_value, eps)
        ),
    ),
    Row(
        "scale_by_adadelta",
        [dict(rho=0.8, eps=1e-2)],
        optax=lambda rho, eps: optax.scale_by_adadelta(rho, eps),
    ),
    Row(
        "scale_by_acprop",
        [{}, dict(betas=(0.8, 0.95), eps=1e-3, eps_root=1e-4)],
        optax=lambda betas=(0.9, 0.999), eps=1e-16, eps_root=1e-16: optax.contrib.scale_by_acprop(
            *betas, eps, eps_root
        ),
    ),
    Row(
        "scale_by_simplified_ademamix",
        [{}, dict(betas=(0.8, 0.95), alpha=2.0, eps=1e-3, eps_root=1e-4)],
        optax=lambda betas=(0.99, 0.95), **options: optax.contrib.scale_by_simplified_ademamix(
            *betas, **{"alpha": 0.0, "eps": 1e-8, "eps_root": 0.0, **options}
        ),
    ),
    Row(
        "scale_by_optimistic_gradient",
        [{}, dict(alpha=0.7, beta=0.4)],
        optax=lambda alpha=1.0, beta=1.0: optax.scale_by_optimistic_gradient(alpha, beta),
    ),
    Row("grokfast_ema", [{}, dict(alpha=0.8, lamb=3.0)]),
    Row("mars_correction", [{}, dict(gamma=0.5, beta=0.8, max_norm=2.0)]),
    Row("add_cautious_weight_decay", [dict(weight_decay=0.1)]),
    Row("scale_by_sign", [{}], optax=optax.scale_by_sign),
    Row("scale_by_lion", [dict(betas=(0.8, 0.95))], optax=lambda betas: optax.scale_by_lion(*betas)),
    Row("scale_by_rprop", [dict(lr=0.1, etas=(0.4, 1.3), step_sizes=(0.01, 0.2))]),
    Row(
        "momentum",
        [dict(decay=0.9), dict(decay=0.9, nesterov=True)],
        optax=lambda decay, nesterov=False: optax.trace(decay, nesterov),
    ),
    Row("ema", product(decay=[0.9], debias=[False, True]), optax=lambda decay, debias: optax.ema(decay, debias)),
    Row("ema_params", [{}, dict(decay=0.5)]),
    Row("swa_params", [{}]),
    Row("zero_nans", [{}], optax=optax.zero_nans),
    Row("monitor", [{}]),
    Row("kahan", [{}]),
    Row("master_params", [{}, dict(state_dtype=torch.float64)]),
    Row("stochastic_rounding", [{}, dict(seed=3)]),
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
    Row(
        "clip_by_block_rms",
        [dict(threshold=0.5), dict(threshold=100.0)],
        optax=lambda threshold: optax.clip_by_block_rms(threshold),
    ),
    Row("adaptive_grad_clip", [dict(clipping=0.1, eps=0.5)], reasons=OF_UNITS),
    Row(
        "centralize",
        [{}],
        optax=optax.centralize,
        reasons={"complex": "the units of a complex leaf are not those of its parts"},
    ),
    Row(
        "normalize_by_update_norm",
        [{}, dict(scale_factor=2.0, eps=0.1)],
        optax=lambda **options: optax.normalize_by_update_norm(**options),
    ),
    Row(
        "scale_by_param_block_norm",
        [{}, dict(min_scale=2.0)],
        optax=lambda min_scale=1e-3: optax.scale_by_param_block_norm(min_scale),
    ),
    Row(
        "scale_by_param_block_rms",
        [{}, dict(min_scale=0.8)],
        optax=lambda min_scale=1e-3: optax.scale_by_param_block_rms(min_scale),
    ),
    Row("keep_params_nonnegative", [{}], optax=optax.keep_params_nonnegative),
    Row("apply_every", [{}, dict(k=3)], optax=lambda k=1: optax.apply_every(k)),
    Row("clip_by_value", [dict(clip_value=0.3)], optax=lambda clip_value: optax.clip(clip_value)),
    Row(
        "scale_by_trust_ratio",
        [{}, dict(min_norm=2.0, trust_coefficient=0.1, eps=1e-3)],
        optax=lambda **options: optax.scale_by_trust_ratio(**options),
    ),
]


Where = Callable[[Row, dict[str, Any]], bool]


def rows(table: list[Row] = ALGORITHMS, column: str = "") -> Callable[..., Any]:
    """Parameterise a test over rows, as (a part of) a column of the conformance matrix if it has a name."""
    return _parametrize("row", [(row, row.name) for row in table if column not in row.reasons], column)


def cases(
    table: list[Row] = ALGORITHMS, where: Where = lambda row, options: True, column: str = "", executors: bool = False
) -> Callable[..., Any]:
    """Parameterise a test over rows, each of their options and, if asked for, each executor that can run them."""
    every = [
        ((row, options, *executor), "-".join([row.name, _describe(options), *executor]))
        for row in table
        if column not in row.reasons
        for options in row.options
        if where(row, options)
        for executor in ([(name,) for name in row.executors] if executors else [()])
    ]
    return _parametrize("row, options, executor" if executors else "row, options", every, column)


def once_maximized(row: Row, options: dict[str, Any]) -> bool:
    """Every option, but ascent, which is the executor's and not the rule's, only with the richest."""
    return not options.get("maximize") or options == row.richest


def each_value(row: Row, options: dict[str, Any]) -> bool:
    """The first, the richest, and beside them the few in which every other value of every option occurs.

    For what is slow, such as compiling, and does not depend on how options go together.
    """
    chosen = [row.options[0], row.richest]

    def new(options: dict[str, Any]) -> int:
        return sum(all(value != other.get(name) for other in chosen) for name, value in options.items())

    while any(map(new, row.options)):
        chosen.append(max(reversed(row.options), key=new))
    return options in chosen


def _parametrize(names: str, values: list[tuple[Any, str]], column: str) -> Callable[..., Any]:
    parameters = [pytest.param(*(v if isinstance(v, tuple) else (v,)), id=name) for v, name in values]

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        test = pytest.mark.parametrize(names, parameters)(test)
        return pytest.mark.column(column)(test) if column else test

    return decorate


def _describe(options: dict[str, Any]) -> str:
    shown = [f"{name}={getattr(value, '__name__', value)}" for name, value in options.items() if value]
    return ",".join(shown).replace(" ", "") or "default"
