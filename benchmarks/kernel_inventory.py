"""Every shipped rule that has a kernel, and some chains."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import optimfx as fx
from optimfx.core import Locality
from optimfx.execution.executors.triton.codegen.generate import source as made_for
from optimfx.execution.executors.triton.codegen.generate import totals_source
from optimfx.execution.leaves import Leaves
from optimfx.execution.memory.dtypes import cast_state
from optimfx.execution.program.specialize import dynamic_values, static_form
from optimfx.execution.step import Step, probe_step

CHAINS: dict[str, Callable[[], Any]] = {
    "clip_by_global_norm, adamw": lambda: fx.chain(fx.clip_by_global_norm(1.0), fx.adamw()),
    "clip_by_value, adam, decay, lr": lambda: fx.chain(
        fx.clip_by_value(1.0), fx.scale_by_adam(), fx.add_decayed_weights(0.1), fx.scale_by_lr(1e-3)
    ),
    "decay, momentum, schedule": lambda: fx.chain(
        fx.add_decayed_weights(0.1), fx.momentum(0.9), fx.scale_by_schedule(fx.schedules.linear(-0.1, 0.0, 100))
    ),
    "rms, momentum, lr": lambda: fx.chain(fx.scale_by_rms(), fx.momentum(0.9), fx.scale_by_lr(1e-3)),
    "clip_by_global_norm, lion": lambda: fx.chain(fx.clip_by_global_norm(1.0), fx.lion(weight_decay=0.1)),
    "adam, decay, trust ratio, lr": lambda: fx.chain(
        fx.scale_by_adam(), fx.add_decayed_weights(0.1), fx.scale_by_trust_ratio(), fx.scale_by_lr(1e-3)
    ),
}


def kernels() -> dict[str, Any]:
    """Every algorithm whose rule has a kernel, and the chains: what to call it, and its links."""
    shipped = {}
    for name in fx.__all__:
        module = sys.modules.get(f"optimfx.rules.{name}")
        update = getattr(fx, name)().update if module else None
        rule = getattr(update, "rule", None)
        if rule and (rule.elementwise or rule.locality is Locality.NORM):
            shipped[name] = [update]
    return shipped | {name: [link.update for link in make().update.links] for name, make in CHAINS.items()}


def totals(link: Any, dtype: torch.dtype) -> str:
    """The kernels of what a rule adds up over all leaves, of parameters and gradients of this dtype."""
    step, slots = probe_step(link), _slots_of(link, torch.empty(0, dtype=dtype))
    known = {"step": step.count, **step.hyper}
    hyper = [known[name] for name in link.rule.measure_names]
    dtypes = (dtype, dtype, *[None if slot is None else slot.dtype for slot in slots])
    text, refusal = totals_source(link.name, link.rule, hyper, dtypes)
    assert refusal is None, refusal
    return text


def source(links: list[Any], dtype: torch.dtype) -> str:
    """The kernel of links that run as one, on parameters and gradients of this dtype."""
    param = torch.empty(0, dtype=dtype)
    slots = [[slot] for link in links for slot in _slots_of(link, param)]
    steps = tuple([_as_on_a_device(probe_step(link)) for link in links])
    leaves = Leaves([param], [param], slots)
    forms = list(map(static_form, steps))
    on_host = [not isinstance(x, Tensor) for step, form in zip(steps, forms) for x in dynamic_values(step, form)]
    text, refusal = made_for(steps, forms, on_host, leaves, stepping=True, inplace=True)
    assert refusal is None, refusal
    return text


def _slots_of(link: Any, param: Tensor) -> list[Any]:
    """The slots of a parameter."""
    begun = link.rule.init(param, **{name: link.hyper[name] for name in link.rule.init_names})
    return [cast_state(slot, link.state_dtype) for slot in begun]


def _as_on_a_device(step: Step) -> Step:
    """The step with the norm that it asks for as a tensor."""
    if not step.rule.needs_global_norm:
        return step
    hyper = {**step.hyper, "global_norm": torch.ones((), dtype=torch.float64)}
    return Step(step.name, step.rule, step.count, hyper, step.maximize)
