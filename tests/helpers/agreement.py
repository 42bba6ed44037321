"""Checks that an executor agrees with the eager one, and the trees that it is tried on."""

import copy

import torch
from trees import clone, leaves, random_like

import optimfx as fx

ULPS = {torch.float32: 8, torch.float64: 8, torch.bfloat16: 1, torch.float16: 1}
"""Ulp of the largest number in a tensor, before and after the step. In half precision both compute in float32: only
the last rounding can go another way."""


def assert_close(ours, eager, before, *, adds_up=False):
    """Every tensor to so many ulp of its largest number, and NaN in the same places.

    Of a rule that ``adds_up`` elements of float32, the eager executor does so in float32, and kernels in float64:
    scalars that are made of the sums, and kept in float64, agree as far as float32 goes.
    """
    for x, y, old in zip(leaves(ours), leaves(eager), leaves(before), strict=True):
        assert (x.dtype, x.shape, x.stride()) == (y.dtype, y.shape, y.stride())
        if y.is_complex():
            x, y, old = map(torch.view_as_real, (x, y, old))
        assert torch.equal(x.isnan(), y.isnan())
        x, y, old = x.nan_to_num(), y.nan_to_num(), old.nan_to_num()
        if y.numel():
            scale = torch.stack([y.abs().max(), old.abs().max()]).max().double()  # float16 could not hold its ulp
            unit = torch.float32 if adds_up and y.dtype is torch.float64 and y.dim() == 0 else y.dtype
            ulps = ((x.double() - y.double()).abs().max() / (torch.finfo(unit).eps * scale.clamp_min(1e-6))).item()
            assert ulps <= ULPS[y.dtype], f"{ulps} ulp"


def assert_agrees(tx, params, executor, *, stepping=True, inplace=True, steps=3, hand=clone):
    """Each step from the same state: differences must not add up, or a sign that flips would hide what they are."""
    state = tx.init(params)
    for _ in range(steps):
        grads = hand(random_like(params))
        results = {}
        for name in ("eager", executor):
            given = hand(grads), copy.deepcopy(state), hand(params)
            with fx.execution.use(name):
                if stepping:
                    results[name] = fx.step(tx, *given, inplace=inplace)
                else:
                    results[name] = tx.update(*given, inplace=inplace)
        before = (params if stepping else grads, state)
        adds_up = executor == "triton" and bool(getattr(getattr(tx.update, "rule", None), "totals", ()))
        assert_close(results[executor], results["eager"], before, adds_up=adds_up)
        after, state = results["eager"]
        params = after if stepping else params


def elementwise(row, options):
    return bool(row.rule and row.rule.elementwise)


def channels_last(tree):
    """Copies in the memory order of images, or as they are."""
    return [x.clone().to(memory_format=torch.channels_last) if x.dim() == 4 else x.clone() for x in tree]


def transposed(tree):
    """Copies that lie in memory column by column; the state, made of others, does not."""
    return [x.mT.contiguous().mT if x.dim() > 1 else x.clone() for x in tree]


def with_gaps(tree):
    """Copies that are every second number of a larger tensor."""
    return [torch.stack([x, x], -1)[..., 0] for x in tree]


CHAINS = {
    "clip, adamw": lambda: fx.chain(fx.clip_by_global_norm(1.0), fx.adamw(lr=0.1, weight_decay=0.1)),
    "clip, decay, momentum, lr": lambda: fx.chain(
        fx.clip_by_value(0.5),
        fx.add_decayed_weights(0.1),
        fx.momentum(0.9),
        fx.scale_by_lr(lambda step: 0.1 / (1 + step)),
    ),
    "a norm in the middle": lambda: fx.chain(fx.scale(2.0), fx.clip_by_global_norm(1.0), fx.lion()),
}
