"""The tables from the names of other libraries to ours.

Each line is ``theirs | ours | a note``: names of theirs that share a row, names of ours (after ``fx.``), and what to
know. ``*`` stands for all other names of the module, which are listed when the library is installed.
``tests/docs/test_docs.py`` holds the tables against the installed libraries.
"""

import importlib
import warnings
from types import ModuleType
from typing import NamedTuple

from docstrings import documented

Tables = dict[str, str]
"""For each module of a library, its lines."""


class Library(NamedTuple):
    """A library that people come from."""

    name: str
    introduction: str
    tables: Tables


class Line(NamedTuple):
    """One line of a table."""

    theirs: list[str]
    ours: list[str]
    note: str


TORCH = {
    "torch.optim": """
        SGD | optim.SGD sgd |
        ASGD | optim.ASGD asgd |
        Adam | optim.Adam adam |
        AdamW | optim.AdamW adamw |
        Adamax | optim.Adamax adamax |
        NAdam | optim.NAdam nadam |
        RAdam | optim.RAdam radam |
        SparseAdam | optim.SparseAdam sparse_adam |
        RMSprop | optim.RMSprop rmsprop |
        Adagrad | optim.Adagrad adagrad |
        Adadelta | optim.Adadelta adadelta |
        Adafactor | optim.Adafactor adafactor |
        Rprop | optim.Rprop rprop |
        LBFGS | optim.LBFGS lbfgs | The function takes `value_and_grad_fn=` in place of a closure.
        Muon | optim.Muon muon | The function takes stacks of matrices too.
        Optimizer | optim.Optimizer optim.TransformOptimizer | `TransformOptimizer` makes one of any \
            transformation.
        lr_scheduler | optim.lr_scheduler schedules | Below.
        swa_utils | optim.swa_utils ema_params swa_params | Below.
        swap_in_optimizer_params_and_state | | Parameters and state are arguments of the pure functions.
    """,
    "torch.optim.lr_scheduler": """
        LRScheduler | optim.lr_scheduler.LRScheduler | As a function: any function of the step.
        LambdaLR | optim.lr_scheduler.LambdaLR schedules.lambda_schedule |
        MultiplicativeLR | optim.lr_scheduler.MultiplicativeLR schedules.multiplicative | The function needs \
            `total_steps`.
        StepLR | optim.lr_scheduler.StepLR schedules.step_decay |
        MultiStepLR | optim.lr_scheduler.MultiStepLR schedules.multi_step |
        ConstantLR | optim.lr_scheduler.ConstantLR schedules.constant |
        LinearLR | optim.lr_scheduler.LinearLR schedules.linear |
        ExponentialLR | optim.lr_scheduler.ExponentialLR schedules.exponential |
        PolynomialLR | optim.lr_scheduler.PolynomialLR schedules.polynomial |
        CosineAnnealingLR | optim.lr_scheduler.CosineAnnealingLR schedules.cosine_annealing |
        CosineAnnealingWarmRestarts | optim.lr_scheduler.CosineAnnealingWarmRestarts \
            schedules.cosine_annealing_warm_restarts |
        CyclicLR | optim.lr_scheduler.CyclicLR schedules.cyclic | The function is of one hyperparameter: momentum \
            takes another.
        OneCycleLR | optim.lr_scheduler.OneCycleLR schedules.one_cycle | The same.
        SequentialLR | optim.lr_scheduler.SequentialLR schedules.join |
        ChainedScheduler | optim.lr_scheduler.ChainedScheduler | As functions: multiply them.
        ReduceLROnPlateau | optim.lr_scheduler.ReduceLROnPlateau inject_hyperparams | Not a function of the step: \
            replace `state.hyperparams["lr"]`; as a link, `reduce_on_plateau`.
    """,
    "torch.optim.swa_utils": """
        AveragedModel | optim.swa_utils.AveragedModel ema_params swa_params | The links keep the average in the \
            state.
        SWALR | optim.swa_utils.SWALR |
        update_bn | optim.swa_utils.update_bn |
        get_ema_avg_fn | optim.swa_utils.get_ema_avg_fn |
        get_ema_multi_avg_fn | optim.swa_utils.get_ema_multi_avg_fn |
        get_swa_avg_fn | optim.swa_utils.get_swa_avg_fn |
        get_swa_multi_avg_fn | optim.swa_utils.get_swa_multi_avg_fn |
    """,
}

OPTAX = {
    "optax": """
        GradientTransformation GradientTransformationExtraArgs | GradientTransformation | Every `update` takes \
            extra keywords, and `inplace=`.
        with_extra_args_support | | Not needed.
        apply_updates | apply_updates step | `step` is `update` and `apply_updates` in one, and rounds as torch \
            does.
        EmptyState init_empty_state | EmptyState |
        chain | chain |
        named_chain | named_chain |
        masked MaskedState MaskedNode MaskOrFn | masked | What is masked out is `None` in the state.
        partition multi_transform PartitionState MultiTransformState | partition |
        selective_transform | selective_transform |
        freeze | freeze |
        inject_hyperparams InjectHyperparamsState | inject_hyperparams | Numbers become 0-d tensors in \
            `state.hyperparams`.
        inject_stateful_hyperparams InjectStatefulHyperparamsState | inject_stateful_hyperparams |
        WrappedSchedule | | A schedule is a function of the step.
        adabelief | adabelief |
        adadelta | adadelta |
        adafactor | adafactor | torch's definition: a different `eps` and learning rate.
        adagrad | adagrad | `eps` outside the root, and a sum that begins at 0.
        adam | adam |
        adamax | adamax |
        adamaxw | adamaxw |
        adamw | adamw | The default decay is 1e-2. For `mask`: `partition`.
        adan | adan |
        amsgrad | amsgrad | The maximum is taken before the bias correction.
        lamb | lamb |
        lars | lars | For its masks: `partition`.
        lbfgs | lbfgs | torch's: many iterations in an update. Optax's is `chain(scale_by_lbfgs(), scale(-1.0), \
            scale_by_zoom_linesearch(20, initial_guess_strategy="one"))`.
        scale_by_lbfgs ScaleByLBFGSState | scale_by_lbfgs |
        lion | lion | The default decay is 0.
        nadam nadamw | nadam nadamw | torch's definition: the momentum grows.
        novograd | novograd |
        radam | radam | `eps` is added before the second moment is corrected.
        rmsprop | rmsprop | `decay` is `alpha`; `eps` stands outside the root, `eps_root` inside.
        rprop | rprop | Optax 0.2 gives each step one call late.
        sgd | sgd | `momentum` may be 0, not `None`.
        sign_sgd | signsgd |
        signum | signum |
        yogi | yogi |
        optimistic_gradient_descent | optimistic_gradient_descent |
        optimistic_adam_v2 | optimistic_adam_v2 | As with `nesterov=False`.
        fromage | fromage |
        noisy_sgd | noisy_sgd | Other random numbers.
        dpsgd | dpsgd | Other random numbers.
        polyak_sgd | polyak_sgd | `max_learning_rate` is `max_lr`.
        sm3 | sm3 |
        optimistic_adam | optimistic_adam_v2 | The name that Optax deprecates.
        lookahead LookaheadState | lookahead | The slow parameters are in the state.
        LookaheadParams | | The slow parameters are in the state of `lookahead`.
        identity | identity |
        set_to_zero | set_to_zero |
        stateless stateless_with_tree_map | stateless | The function gets whole trees.
        scale ScaleState | scale |
        scale_by_learning_rate | scale_by_lr |
        scale_by_schedule ScaleByScheduleState | scale_by_schedule |
        scale_by_adam | scale_by_adam |
        scale_by_amsgrad | scale_by_amsgrad | The maximum is taken before the bias correction.
        scale_by_adamax | scale_by_adamax |
        scale_by_adan | scale_by_adan |
        scale_by_belief | scale_by_belief |
        scale_by_yogi | scale_by_yogi |
        scale_by_novograd | scale_by_novograd |
        scale_by_radam | scale_by_radam | `eps` as in `radam`.
        scale_by_rms | scale_by_rms | `eps` as in `rmsprop`.
        scale_by_stddev | scale_by_stddev | `eps` as in `rmsprop`.
        scale_by_rss | scale_by_rss | `eps` stands outside the root; the sum begins with 0.
        scale_by_adadelta | scale_by_adadelta |
        scale_by_lion | scale_by_lion |
        scale_by_sign | scale_by_sign |
        scale_by_rprop ScaleByRpropState | scale_by_rprop | Optax 0.2 gives each step one call late.
        scale_by_trust_ratio ScaleByTrustRatioState | scale_by_trust_ratio |
        scale_by_param_block_norm | scale_by_param_block_norm |
        scale_by_param_block_rms | scale_by_param_block_rms |
        normalize_by_update_norm | normalize_by_update_norm |
        scale_by_optimistic_gradient | scale_by_optimistic_gradient |
        scale_by_sm3 | scale_by_sm3 |
        scale_by_polyak | scale_by_polyak | `max_learning_rate` is `max_lr`.
        scale_by_factored_rms | scale_by_factored_rms | `epsilon` is `eps`.
        scale_by_distance_over_gradients | scale_by_distance_over_gradients |
        scale_gradient | | In the loss: `torch.autograd.Function`, or `x * s + (x - x * s).detach()`.
        scale_by_backtracking_linesearch ScaleByBacktrackingLinesearchState | scale_by_backtracking_linesearch | \
            Without `verbose`; the state tells.
        scale_by_zoom_linesearch ScaleByZoomLinesearchState ZoomLinesearchInfo | scale_by_zoom_linesearch | Without \
            `verbose`; the state tells.
        value_and_grad_from_state | value_and_grad_from_state |
        trace TraceState | momentum |
        ema EmaState | ema |
        tree_map_params | tree_map_params | Without `is_leaf`.
        incremental_update | incremental_update | As a link, `ema_params`: the average is in the state.
        periodic_update | periodic_update |
        add_decayed_weights AddDecayedWeightsState | add_decayed_weights |
        clip ClipState | clip_by_value |
        clip_by_global_norm ClipByGlobalNormState | clip_by_global_norm |
        global_norm | global_norm |
        adaptive_grad_clip AdaptiveGradClipState | adaptive_grad_clip | Units are in the first dimension, as torch's \
            layers have them.
        clip_by_block_rms | clip_by_block_rms |
        per_example_global_norm_clip | per_example_global_norm_clip |
        per_example_layer_norm_clip | per_example_layer_norm_clip |
        differentially_private_aggregate DifferentiallyPrivateAggregateState | differentially_private_aggregate | \
            Other random numbers.
        zero_nans ZeroNansState | zero_nans | Remembers nothing; `monitor` counts.
        centralize | centralize |
        keep_params_nonnegative NonNegativeParamsState | keep_params_nonnegative |
        add_noise AddNoiseState | add_noise | Other random numbers.
        MultiSteps MultiStepsState | multi_steps | On the mean; `every` is a number.
        apply_every ApplyEvery | apply_every |
        ShouldSkipUpdateFunction skip_large_updates skip_not_finite | skip_large_updates skip_not_finite |
        apply_if_finite ApplyIfFiniteState | apply_if_finite |
        microbatch | | Sum up gradients in the loop, or with `multi_steps`.
        conditionally_mask ConditionallyMaskState | conditionally_mask |
        conditionally_transform ConditionallyTransformState | conditionally_transform |
        monitor MonitorState | monitor snapshot | `monitor` measures norms, their ratio to the parameters', and what \
            is not finite; `snapshot`, what you give it.
        snapshot SnapshotState | snapshot |
        measure_with_ema | measure_with_ema | For `snapshot`.
        flatten | flatten | Not needed for speed: executors join small leaves.
        constant_schedule | | A number will do; `fx.schedules.constant` is torch's `ConstantLR`.
        linear_schedule | schedules.linear | In factors of `lr`.
        cosine_decay_schedule | schedules.cosine_annealing | Up again after `T_max`, as torch's; `alpha` is \
            `eta_min / lr`.
        sgdr_schedule | schedules.cosine_annealing_warm_restarts | Without warmup.
        exponential_decay | schedules.exponential schedules.step_decay | `step_decay` is the staircase.
        polynomial_schedule | schedules.polynomial | Down to 0.
        piecewise_constant_schedule | schedules.multi_step | With one factor for all boundaries.
        piecewise_interpolate_schedule warmup_exponential_decay_schedule | schedules.join | Of schedules that you \
            have.
        warmup_constant_schedule | schedules.linear | With `start_factor=`, `total_iters=`.
        warmup_cosine_decay_schedule | schedules.warmup_cosine | Counts its steps alike: `total_steps` is \
            `decay_steps`.
        cosine_onecycle_schedule linear_onecycle_schedule | schedules.one_cycle | `anneal_strategy="cos"` or \
            `"linear"`; torch's knots.
        join_schedules | schedules.join |
        Params Updates OptState Schedule ScalarOrSchedule TransformInitFn TransformUpdateFn \
            TransformUpdateExtraArgsFn | typing.Params typing.Updates typing.State typing.Schedule \
            typing.Hyper typing.TransformInit typing.TransformUpdate |
        ScaleByAdaDeltaState ScaleByAdamState ScaleByAdanState ScaleByAmsgradState ScaleByBeliefState \
            ScaleByLionState ScaleByNovogradState ScaleByRmsState ScaleByRssState \
            ScaleByRStdDevState ScaleBySM3State FactoredState | | States have torch's names: \
            `optimfx.rules.adam.AdamState` and so on.
        bias_correction update_moment update_infinity_moment update_moment_per_elem_norm \
            safe_increment safe_int32_increment safe_norm safe_root_mean_squares matrix_inverse_pth_root \
            power_iteration multi_normal nnls | | For the mathematics of a rule of your own: `fx.ops`.
        ctc_loss ctc_loss_with_forward_probs convex_kl_divergence cosine_distance cosine_similarity \
            generalized_kl_divergence hinge_loss huber_loss kl_divergence l2_loss log_cosh ntxent \
            safe_softmax_cross_entropy sigmoid_binary_cross_entropy sigmoid_focal_loss smooth_labels \
            softmax_cross_entropy softmax_cross_entropy_with_integer_labels squared_error | | Losses: \
            `torch.nn.functional`.
    """,
    "optax.contrib": """
        ademamix ScaleByAdemamixState | ademamix |
        scale_by_ademamix | scale_by_ademamix |
        scale_by_adopt | scale_by_adopt | `clip` is `use_clipping`.
        adopt | adopt | `clip` is `use_clipping`.
        muon scale_by_muon MuonState MuonDimensionNumbers | muon as_matrices | torch's definition: a different \
            average. `as_matrices` says which dimensions are a matrix; for other leaves: `partition`.
        reduce_on_plateau ReduceLROnPlateauState | reduce_on_plateau optim.lr_scheduler.ReduceLROnPlateau |
        cocob COCOBState | cocob |
        scale_by_cocob | scale_by_cocob |
        dadapt_adamw DAdaptAdamWState | dadapt_adamw | The state holds the estimate of the last step.
        prodigy ProdigyState | prodigy | The same; it scales `eps`, too.
        dog DoGState | dog | For its mask: `masked`.
        dowg DoWGState | dowg | For its mask: `masked`.
        madgrad MadgradState | madgrad |
        scale_by_madgrad | scale_by_madgrad |
        momo MomoState | momo |
        momo_adam MomoAdamState | momo_adam |
        normalize NormalizeState | normalize |
        split_real_and_imaginary SplitRealAndImaginaryState | | Not needed: complex parameters step as pairs of \
            reals.
        acprop | acprop |
        scale_by_acprop | scale_by_acprop |
        simplified_ademamix | simplified_ademamix |
        scale_by_simplified_ademamix ScaleBySimplifiedAdEMAMixState | scale_by_simplified_ademamix |
        schedule_free ScheduleFreeState | schedule_free | `b1` is `beta`; a schedule weighs a step by its own rate.
        schedule_free_sgd | schedule_free_sgd |
        schedule_free_adamw | schedule_free_adamw |
        schedule_free_eval_params | schedule_free_eval_params |
        sam SAMState | sam | Without `batch_axis_name`.
        mechanize MechanicState | mechanize |
        sophia SophiaState | sophia scale_by_sophia | `b1, b2` are `betas`.
        hutchinson_estimator_diag_hessian HutchinsonState | hutchinson_estimator_diag_hessian | Other random signs.
        galore GaLoreState | galore | The base optimizer sees stacks of matrices, too.
        scale_by_galore GaLoreDimensionNumbers | scale_by_galore as_matrices | `as_matrices` says which dimensions are \
            a matrix.
        * | | Names of the modules above.
    """,
    "optax.schedules": """
        StatefulSchedule | typing.StatefulSchedule | For `inject_stateful_hyperparams`.
    """,
    "optax.transforms": "* | | The same.",
    "optax.microbatching": "* | | Sum up gradients in the loop, or with `fx.multi_steps`.",
    "optax.losses": "* | | `torch.nn.functional` has losses.",
    "optax.tree": """
        get | tree_get | Without a filter.
        get_all_with_path | tree_get_all_with_path | Places are strings.
        set | tree_set | Without a filter.
        map_params | tree_map_params | Without `is_leaf`.
        * | | `torch.utils._pytree` and `optree` map over trees; `fx.global_norm` is a tree's 2-norm.
    """,
    "optax.tree_utils": """
        tree_get | tree_get | Without a filter.
        tree_get_all_with_path | tree_get_all_with_path | Places are strings.
        tree_set | tree_set | Without a filter.
        tree_map_params | tree_map_params | Without `is_leaf`.
        * | | The same.
    """,
    "optax.projections": """
        projection_box | projections.projection_box |
        projection_halfspace | projections.projection_halfspace |
        projection_hypercube | projections.projection_hypercube |
        projection_hyperplane | projections.projection_hyperplane |
        projection_l1_ball | projections.projection_l1_ball |
        projection_l1_sphere | projections.projection_l1_sphere |
        projection_l2_ball | projections.projection_l2_ball |
        projection_l2_sphere | projections.projection_l2_sphere |
        projection_linf_ball | projections.projection_linf_ball |
        projection_non_negative | projections.projection_non_negative |
        projection_simplex | projections.projection_simplex |
        projection_vector | projections.projection_vector |
    """,
    "optax.second_order": "* | | `torch.func.jvp` of `torch.func.grad`.",
    "optax.assignment": "* | | `scipy.optimize.linear_sum_assignment`.",
    "optax.perturbations": "* | | Perturbed functions: no optimization; write them with `torch.func.vmap`.",
}

TORCHOPT = {
    "torchopt": """
        sgd | sgd |
        adam | adam |
        adamw | adamw |
        adamax | adamax |
        radam | radam |
        rmsprop | rmsprop |
        adagrad | adagrad |
        adadelta | adadelta |
        SGD | optim.SGD |
        Adam | optim.Adam | `use_accelerated_op=True` is `fused=True`.
        AdamW | optim.AdamW |
        AdaMax Adamax | optim.Adamax |
        RAdam | optim.RAdam |
        RMSProp RMSprop | optim.RMSprop |
        AdaGrad Adagrad | optim.Adagrad |
        AdaDelta Adadelta | optim.Adadelta |
        MetaSGD | sgd | Pure functions are differentiable as they are: parameters and state are arguments and \
            results.
        MetaAdam | adam |
        MetaAdamW | adamw |
        MetaAdaMax MetaAdamax | adamax |
        MetaRAdam | radam |
        MetaRMSProp MetaRMSprop | rmsprop |
        MetaAdaGrad MetaAdagrad | adagrad |
        MetaAdaDelta MetaAdadelta | adadelta |
        MetaOptimizer FuncOptimizer | step | With any transformation.
        Optimizer | optim.TransformOptimizer | With any transformation; it is a `torch.optim.Optimizer`.
        apply_updates | apply_updates step |
        chain | chain |
        clip_grad_norm | clip_by_global_norm |
        nan_to_num | stateless | Of a function that maps it over the tree.
        register_hook | | `torch.Tensor.register_hook`.
        accelerated_op_available | explain | Says which executor runs, and why.
        extract_state_dict recover_state_dict stop_gradient | | A state is a value: keep it; `detach` its leaves.
        module_clone module_detach_ | | `torch.func.functional_call` with another tree of parameters.
    """,
    "torchopt.base": """
        GradientTransformation ChainedGradientTransformation | GradientTransformation |
        EmptyState UninitializedState | EmptyState |
        identity | identity |
    """,
    "torchopt.combine": "chain_flat | chain | Executors join leaves themselves.",
    "torchopt.transform": """
        trace | momentum |
        scale | scale |
        scale_by_schedule | scale_by_schedule |
        add_decayed_weights | add_decayed_weights |
        masked | masked |
        scale_by_adam scale_by_accelerated_adam | scale_by_adam |
        scale_by_rms | scale_by_rms |
        scale_by_stddev | scale_by_stddev |
        scale_by_adamax | scale_by_adamax |
        scale_by_adadelta | scale_by_adadelta |
        scale_by_radam | scale_by_radam |
        scale_by_rss | scale_by_rss |
    """,
    "torchopt.schedule": """
        linear_schedule | schedules.linear | In factors of `lr`.
        polynomial_schedule | schedules.polynomial | Down to 0.
        exponential_decay | schedules.exponential schedules.step_decay | `step_decay` is the staircase.
    """,
    "torchopt.hook": "* | | torch's hooks: `Tensor.register_hook`.",
    "torchopt.diff.implicit": "* | | No implicit differentiation.",
    "torchopt.diff.zero_order": "* | | No gradients by evaluation.",
    "torchopt.nn": "* | | Modules of meta-gradients: `torch.func.functional_call`.",
    "torchopt.linalg": "* | | `torch.linalg`.",
    "torchopt.linear_solve": "* | | `torch.linalg.solve`.",
    "torchopt.visual": "* | | Graphs of autograd: torchviz draws them.",
    "torchopt.distributed": "* | | `torch.distributed`; FSDP2 shards the classes.",
    "torchopt.utils": "ModuleState | | A dict of parameters.",
    "torchopt.typing": """
        Params Updates OptState Scalar Schedule ScalarOrSchedule | typing.Params typing.Updates \
            typing.State typing.Scalar typing.Schedule typing.Hyper |
        * | | `optimfx.typing` has the types to annotate with.
    """,
    "torchopt.pytree": "* | | `optree`, which both libraries are built on.",
}

LIBRARIES = {
    "torch-optim": Library(
        "torch.optim",
        """
`import optimfx.optim as optim`, and nothing else has to change: classes, schedulers and averages have torch's names,
arguments, groups, state and checkpoints. The lower-case names are the same algorithms as pure functions. Clipping is a
link here: `fx.clip_by_global_norm` and `fx.clip_by_value`, before the optimizer in a `fx.chain`, for
`torch.nn.utils.clip_grad_norm_` and `clip_grad_value_`.
""",
        TORCH,
    ),
    "optax": Library(
        "Optax",
        """
The language is the same, with torch's words: `learning_rate` is `lr`, `b1` and `b2` are `betas`, and the state has
torch's names. `lr` has a default. The gradient is `torch.func.grad`, `jax.jit` is `torch.compile`, and `fx.step` does
what `update` and `apply_updates` do. A name that several modules have is in the first table.
""",
        OPTAX,
    ),
    "torchopt": Library(
        "TorchOpt",
        """
Transformations are pure and differentiable, unless they are given `inplace=True`; there are no separate classes for
meta-learning. `fx.step` takes trees: a dict of `model.named_parameters()`, not a module.

A library that drives TorchOpt's transformations, such as posteriors, drives these. Two things it may take for granted:
that `update` writes in place unless told not to, as does
`fx.GradientTransformation(tx.init, functools.partial(tx.update, inplace=True))`; and that gradients may be a tuple
where the parameters are a list, which here must be of one structure.
""",
        TORCHOPT,
    ),
}


def lines(table: str) -> list[Line]:
    """Write the lines of a table."""
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines() if line.strip()]
    return [Line(theirs.split(), ours.split(), " ".join(note.split())) for theirs, ours, note in rows]


def public(module: str) -> set[str] | None:
    """List the public names of an installed module that are not modules themselves; None if it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are on their way out
        try:
            found = importlib.import_module(module)
        except ImportError:
            return None
        declared = set(getattr(found, "__all__", ()))
        if module.startswith("torch."):
            return declared
        # Optax declares less than its pages show.
        package = module.partition(".")[0]
        names = declared if declared and package != "optax" else {name for name in dir(found) if name[0] != "_"}
        return {
            name
            for name in declared | names
            if not isinstance(value := getattr(found, name, None), ModuleType)
            and (name in declared or str(getattr(value, "__module__", package)).startswith(package))
        }


def page(library: str) -> str:
    """Write the page of a library."""
    name, introduction, tables = LIBRARIES[library]
    text = [f"# Coming from {name}\n", introduction]
    seen: set[str] = set()
    for module, table in tables.items():
        rows = lines(table)
        named = {name for row in rows for name in row.theirs}
        rest = sorted((public(module) or set()) - named - seen)
        seen |= named | set(rest)
        body = [_row(row, rest, module) for row in rows]
        if body:
            head = f"## {module}\n\n<div class='names' markdown>\n\n| theirs | ours | |\n|---|---|---|\n"
            text.append(head + "\n".join(body) + "\n\n</div>\n")
    return "\n".join(text)


def _row(row: Line, rest: list[str], module: str) -> str:
    theirs = (rest or [f"all of {module}"]) if row.theirs == ["*"] else row.theirs
    ours = " ".join(_ours(name) for name in row.ours) or "none"
    return f"| {' '.join(f'`{name}`' for name in theirs)} | {ours} | {row.note} |"


def _ours(name: str) -> str:
    path = documented(f"optimfx.{name}")
    return f"[`fx.{name}`][{path}]" if path else f"`fx.{name}`"
