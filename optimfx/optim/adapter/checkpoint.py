"""Loads checkpoints by the names of parameters, or with their dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Mismatch(NamedTuple):
    """Names that only the optimizer or only the checkpoint has."""

    missing: tuple[str, ...]
    """Parameters of the optimizer that the checkpoint does not have."""
    unexpected: tuple[str, ...]
    """Names in the checkpoint that no parameter has."""


def match_by_name(
    state_dict: dict[str, Any], groups: Sequence[dict[str, Any]], strict: bool
) -> tuple[dict[str, Any], Mismatch]:
    """Reorder a checkpoint as these groups are, and return what it has no counterpart for."""
    if not all("param_names" in group for group in (*groups, *state_dict["param_groups"])):
        raise ValueError(
            "match='names' needs names on both sides: make the optimizer, and the one that was saved, from "
            "model.named_parameters()."
        )
    saved = {
        name: (group, index)
        for group in state_dict["param_groups"]
        for name, index in zip(group["param_names"], group["params"])
    }
    wanted = [name for group in groups for name in group["param_names"]]
    found = Mismatch(tuple(n for n in wanted if n not in saved), tuple(n for n in saved if n not in set(wanted)))
    if strict and any(found):
        raise ValueError(
            f"the checkpoint does not match by name: missing {list(found.missing)}, unexpected "
            f"{list(found.unexpected)}. With strict=False, missing parameters start fresh and unexpected ones "
            f"are ignored."
        )
    places = {name: i for i, name in enumerate(wanted)}
    state = {
        places[name]: state_dict["state"][index]
        for name, (_, index) in saved.items()
        if name in places and index in state_dict["state"]
    }
    others = {key: value for key, value in state_dict["state"].items() if not isinstance(key, int)}
    param_groups = []
    for group in groups:
        names = group["param_names"]
        source = next((saved[name][0] for name in names if name in saved), group)
        order = {"params": [places[name] for name in names], "param_names": list(names)}
        param_groups.append({**source, **order})
    return {**state_dict, "state": {**state, **others}, "param_groups": param_groups}, found


def restore_dtypes(state: Any, groups: Sequence[dict[str, Any]], state_dict: dict[str, Any]) -> None:
    """Put the checkpoint's tensors in place of those that were cast to their parameters' dtypes."""
    params = [p for group in groups for p in group["params"]]
    ids = [index for group in state_dict["param_groups"] for index in group["params"]]
    for param, index in zip(params, ids):
        for name, value in state_dict["state"].get(index, {}).items():
            if isinstance(value, Tensor) and name != "step":
                state[param][name] = value.to(param.device, copy=True)
