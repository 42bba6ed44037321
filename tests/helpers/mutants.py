"""Small bugs, put into a copy of the package one by one: which tests see them?

``python tests/helpers/mutants.py`` tries all, and with a word (``clip``) those whose file or change has it in it. Each
takes the time that its tests take, up to the first that fails. It fails itself if fewer than 95 % are seen.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SHARE = 0.95


class Mutant(NamedTuple):
    """A change of one line, and the tests that should see it."""

    file: str  # in the package
    old: str
    new: str
    tests: str  # in tests/


def mutants(file: str, tests: str, *changes: tuple[str, str]) -> list[Mutant]:
    return [Mutant(file, old, new, tests) for old, new in changes]


MUTANTS = [
    *mutants(
        "rules/adam.py",
        "rules/test_parity_torch.py",
        ("exp_avg = ops.lerp(exp_avg, grad, s.weight1)", "exp_avg = ops.lerp(exp_avg, grad, s.weight2)"),
        ("bias_correction2_sqrt=bias_correction2**0.5", "bias_correction2_sqrt=bias_correction2"),
        ("ops.maximum(max_exp_avg_sq, exp_avg_sq)", "ops.maximum(exp_avg_sq, exp_avg_sq)"),
    ),
    *mutants(
        "rules/rmsprop.py", "rules/test_parity_torch.py", ("square_avg * s.alpha, grad, grad", "square_avg, grad, grad")
    ),
    *mutants("rules/lion.py", "rules/test_parity_optax.py", ("grad, s.weight1)", "grad, s.weight2)")),
    *mutants(
        "schedules.py",
        "core/test_schedules.py lr_scheduler/test_lr_scheduler.py",
        ("ops.where(step < total_iters, factor, 1)", "ops.where(step <= total_iters, factor, 1)"),
        ("gamma ** (step // step_size)", "gamma ** (step / step_size)"),
        ("1 / 2.0 ** (cycle - 1)", "1 / 2.0**cycle"),
    ),
    *mutants(
        "transforms/clip.py",
        "transforms/test_clip.py rules/test_derivatives_at_zero.py",
        ("within = size <= most", "within = size < most"),
        ("most / ops.where(within, 1, size)", "most / size"),
    ),
    *mutants("transforms/zero_nans.py", "transforms/test_guards.py", ("update == update", "update != update")),
    *mutants(
        "core/tree.py",
        "transforms/test_clip.py",
        (
            "return _combine_norms([norm(leaf) for leaf in leaves]) if total.is_cpu and total.isinf() else total",
            "return total",
        ),
        ("torch.linalg.vector_norm(leaf / largest) * largest", "torch.linalg.vector_norm(leaf / largest)"),
        ("return total.float() if narrow and tracing.active() else total", "return total"),
    ),
    *mutants(
        "core/lowering.py",
        "transforms/test_lowering.py",
        ("self.places & places", "places"),
        ("begin = end\n", "begin = begin\n"),
    ),
    *mutants(
        "execution/plan/stages.py",
        "transforms/test_lowering.py",
        ("and not rule.measures", ""),
        ("for first in sorted(stages)", "for first in sorted(stages, reverse=True)"),
        ("lanes.setdefault((lane, ends is None", "lanes.setdefault((lane[:1], ends is None"),
        ("Segment(order, sorted(places), last)", "Segment(order, places[::-1], True)"),
    ),
    *mutants(
        "execution/staged.py",
        "transforms/test_lowering.py core/test_purity.py optim/test_optim_transform.py",
        ("self._measure(stage, links, columns, current)", "self._measure(stage[:1], links, columns, current)"),
        ("x if self.ends >> i & 1 else y", "x"),
        ("columns = columns.with_grads(writable(grads))", "pass"),
        ("            if spare_updates:", "            if False:"),
        ("results[i] = tree.add_in_dtype(params[i], current[i], self.inplace)", "results[i] = params[i]"),
        ("after[k] = [segment.put(*each) for each in zip(after[k], *own)]", "after[k] = list(own[1])"),
    ),
    *mutants(
        "execution/lowered.py",
        "transforms/test_lowering.py core/test_purity.py optim/test_optim_transform.py",
        ("ends = touched & ~later if stepping else 0", "ends = touched if stepping else 0"),
        ("stepping=ends == touched", "stepping=False"),
        ("    if inplace and len(calls) > 1:", "    if False:"),
        ("if inplace and spare_updates and not", "if False and not"),
    ),
    *mutants(
        "execution/plan/columns.py",
        "execution/test_plans.py core/test_errors.py transforms/test_combine.py",
        ("if 0 in grad.stride() or place in seen:", "if 0 in grad.stride():"),
        ("if 0 in grad.stride() or place in seen:", "if place in seen:"),
        ("slot.shape != grad.shape", "False"),
    ),
    *mutants(
        "execution/plan/passes.py",
        "execution/test_mixtures.py execution/test_plans.py",
        ("for t in (grad, *rest)])", "for t in (grad, *rest[:1])])"),
        ("known[2] != static or known[1] != like", "known[1] != like"),
    ),
    *mutants(
        "execution/engine.py",
        "execution/test_plans.py core/test_purity.py",
        ("torch.is_grad_enabled(), requested_executors(), missing)", "missing)"),
        ("if place is not None and param.numel() and first", "if False and first"),
        ("            torch._C._set_grad_enabled(recording)", "            pass"),
    ),
    *mutants(
        "execution/advance.py",
        "execution/test_plans.py execution/test_execution.py core/test_numbers.py",
        ("(own[0] + 1, *own[1:])", "(own[0], *own[1:])"),
        ("has_own = len(set(map(id, before))) == len(before)", "has_own = True"),
        ("value > EXACT[torch.float32]", "False"),
    ),
    *mutants(
        "execution/memory/guard.py",
        "execution/test_plans.py",
        ("return _aliases(tensors) == self.aliases and", "return"),
        ("if len(tensors) != self.count:", "if False:"),
    ),
    *mutants(
        "execution/memory/packing.py",
        "execution/test_mixtures.py execution/test_flat.py execution/test_plans.py",
        (
            "_scatter(outs, places[pack.begin : pack.end], news)",
            "_scatter(outs, places[: pack.end - pack.begin], news)",
        ),
        ('torch.empty_like(first, device="meta").stride() == strides', "True"),
        ("if addresses == self.addresses:", "if self.addresses:"),
        ("part if old.is_contiguous() else", "part if True else"),
    ),
    *mutants(
        "execution/executors/aten.py",
        "execution/test_fused.py",
        (
            'step.rule.aten == "adam" or _is_plain_sgd(step)',
            'step.rule.aten in ("adam", "adagrad") or _is_plain_sgd(step)',
        ),
        ("is_first_step=step.count == 1", "is_first_step=False"),
    ),
    *mutants("ops/rounding.py", "transforms/test_precision.py", ("^ whole_like(step, x)) ^ place", ") ^ place")),
    *mutants(
        "combinators/multi_steps.py",
        "transforms/test_multi_steps.py transforms/test_guards.py",
        ("tracing.read_number(step) % self.every == 0", "tracing.read_number(step) % self.every == 1"),
        ("s / self.every", "s"),
        ("choose(~skip,", "choose(skip,"),
    ),
    *mutants(
        "combinators/apply_if_finite.py",
        "transforms/test_guards.py",
        ("in_a_row > self.max_consecutive_errors", "in_a_row >= self.max_consecutive_errors"),
        ("torch.where(finite, 0,", "torch.where(finite, 1,"),
    ),
    *mutants(
        "combinators/inject.py",
        "transforms/test_combine.py",
        ("value(as_step_number(state.step))", "value(as_step_number(state.step) + 1)"),
    ),
    *mutants(
        "combinators/partition.py", "transforms/test_combine.py", ("places[label] |= 1 << i", "places[label] = 1 << i")
    ),
    *mutants(
        "execution/advance.py",
        "execution/test_totals.py",
        ("for column in slots[: len(rule.slots)]", "for column in slots[:0]"),
        ("scalars_at(known[name], i)", "known[name]"),
    ),
    *mutants(
        "execution/staged.py",
        "execution/test_totals.py",
        ("add_up_processes(sum(values))", "add_up_processes(values[0])"),
    ),
    *mutants("ops/random.py", "transforms/test_noise.py", ("^ leaf) ^ place", ") ^ place")),
    *mutants(
        "surgery.py",
        "core/test_surgery.py",
        ("torch.cat([x, rows.to(x)])", "torch.cat([rows.to(x), x])"),
        ("given = edits if of_state is None", "given = edits if of_state is not None"),
    ),
    *mutants("combinators/conditional.py", "transforms/test_conditional.py", ("inplace and known", "inplace")),
    *mutants("core/tree.py", "transforms/test_combine.py", ("if there else ()", "")),
    *mutants(
        "optim/adapter/checkpoint.py",
        "optim/test_optim_checkpoint.py",
        ("{**state, **others}", "state"),
        ('name != "step"', "True"),
    ),
    *mutants(
        "optim/adapter/group_step.py",
        "optim/test_machines.py optim/test_optim_groups.py",
        ("runs.setdefault(owner.key, [])", "runs.setdefault(first, [])"),
        ("if keys == self.keys:", "if self.keys:"),
    ),
    *mutants(
        "optim/adapter/settings.py",
        "optim/test_machines.py optim/test_optim_groups.py",
        ("if self.hyper is not None and values == self.values:", "if self.hyper is not None:"),
    ),
    *mutants(
        "optim/lr_scheduler/base.py",
        "lr_scheduler",
        ("if wrote_last:", "if True:"),
        ("if wrote_last:", "if False:"),
    ),
    *mutants(
        "optim/lr_scheduler/compose.py",
        "lr_scheduler",
        ("min(end - 1, self.last_epoch) - begin", "self.last_epoch - begin"),
    ),
    *mutants(
        "optim/adapter/group_step.py",
        "optim/test_optim_checkpoint.py",
        ("if type(value) in NUMBERS and dtypes is None:", "if False:"),
        ("mixed = dtypes is not None and len(set(dtypes)) > 1", "mixed = False"),
    ),
    *mutants(
        "transforms/zoom_linesearch.py",
        "transforms/test_linesearch.py",
        ("high=ops.select_tree(is_high, here, ops.select_tree(has_turned, low, high))", "high=high"),
        ("is_safe & (trial.value < now.safe.value)", "is_safe & (trial.value > now.safe.value)"),
        ("((now.safe.lr > 0) | now.decrease_error.isinf())", "(now.safe.lr > 0)"),
    ),
    *mutants(
        "transforms/galore.py",
        "transforms/test_low_rank.py",
        ("state.step % self.update_proj_gap == 0", "state.step == 0"),
    ),
    *mutants(
        "transforms/apollo.py",
        "transforms/test_low_rank.py",
        ("max_growth * norms[i]", "norms[i]"),
        ("state.step // self.update_proj_gap", "state.step"),
    ),
    *mutants(
        "rules/kron.py",
        "rules/test_matrix_rules.py",
        ("rate = s.rate / new_bound", "rate = s.rate / top"),
        ("ops.where(rms == 0, 1.0, rms)", "rms"),
    ),
    *mutants(
        "combinators/inject_stateful.py",
        "transforms/test_flatten.py",
        ("self.injected[name].update(before, **extra)", "before"),
    ),
    *mutants(
        "surgery.py",
        "core/test_surgery.py",
        ("or of_marker.shape != marker.shape", ""),
    ),
]


def is_seen(mutant: Mutant, copy: Path) -> bool:
    """Whether a test fails of the package with this change."""
    path = copy / "optimfx" / mutant.file
    text = path.read_text()
    if mutant.old not in text:
        raise LookupError(f"{mutant.file} has no {mutant.old!r} any more: change tests/helpers/mutants.py")
    path.write_text(text.replace(mutant.old, mutant.new, 1))
    tests = [str(copy / "tests" / name) for name in mutant.tests.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    path.write_text(text)
    return done.returncode == 1


def main() -> int:
    """Try the mutants, and say which survive."""
    words = sys.argv[1:]
    chosen = [m for m in MUTANTS if all(any(word in part for part in m) for word in words)]
    survivors = []
    with TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("optimfx", "tests", "pyproject.toml"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        for mutant in chosen:
            seen = is_seen(mutant, copy)
            print(
                "seen    " if seen else "SURVIVES",
                f"{mutant.file}: {mutant.old.strip()}  ->  {mutant.new.strip()}",
                flush=True,
            )
            survivors += [] if seen else [mutant]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} seen")
    return int(len(survivors) > (1 - SHARE) * len(chosen))


if __name__ == "__main__":
    sys.exit(main())
