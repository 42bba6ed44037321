"""Behaviours of torch.optim that users rely on, beyond signatures and numbers, and the tests of each."""

import ast
import functools
from pathlib import Path

import pytest

CONTRACT = {
    # construction and groups
    1: ("anything but a list of parameters is refused", ["test_parameters_are_taken_or_refused_as_by_torch"]),
    2: (
        "a parameter twice in a group is warned of and stepped twice, in two groups refused",
        ["test_parameters_are_taken_or_refused_as_by_torch", "test_a_parameter_twice_in_a_group_is_stepped_twice"],
    ),
    3: (
        "what is not a leaf is refused, unless it retains its gradient or the step is differentiable",
        ["test_parameters_are_taken_or_refused_as_by_torch", "test_a_differentiable_optimizer_takes_what_is_no_leaf"],
    ),
    4: ("all parameters have names, or none", ["test_parameters_are_taken_or_refused_as_by_torch"]),
    5: (
        "every hyperparameter has its range and its text",
        ["test_errors_are_torchs", "test_every_hyperparameter_has_torchs_range"],
    ),
    6: (
        "a tensor lr has one element, is refused with foreach, and counts as the number",
        ["test_every_hyperparameter_has_torchs_range", "test_a_tensor_lr_is_the_number"],
    ),
    7: ("betas are both numbers or both tensors", ["test_every_hyperparameter_has_torchs_range"]),
    8: (
        "flags are kept in every group, or exclude each other",
        ["test_every_combination_of_flags_is_kept_and_printed"],
    ),
    9: (
        "a group overrides any hyperparameter",
        ["test_a_group_overrides_any_hyperparameter", "test_groups_have_hyperparameters_of_their_own"],
    ),
    10: (
        "an optimizer prints its groups",
        ["test_an_optimizer_prints_its_groups", "test_every_combination_of_flags_is_kept_and_printed"],
    ),
    # a step
    11: ("no gradient: no step, no state, no count", ["test_frozen_parameters_keep_their_own_count"]),
    12: (
        "a step without gradients is not an error; numbers stay in their groups",
        ["test_nothing_to_step", "test_every_way_to_run_is_the_same", "test_fused_is_torchs_fused"],
    ),
    13: ("a gradient of zeros moves nothing", ["test_zero_gradients_change_nothing"]),
    14: (
        "the state begins with the first step, under torch's keys, and may be put there before",
        [
            "test_state_begins_with_the_first_step",
            "test_a_state_that_is_put_there_is_used",
            "test_classes_are_bit_equal_to_torch",
        ],
    ),
    15: (
        "a count is a tensor of the default dtype, on the host unless it is captured",
        [
            "test_counts_have_the_default_dtype",
            "test_steps_do_not_depend_on_the_default_dtype",
            "test_steps_do_not_depend_on_the_default_device",
            "test_counts_live_with_the_parameters_if_they_are_captured",
            "test_an_old_checkpoint_without_newer_keys",
        ],
    ),
    16: (
        "foreach, fused and the loop agree, in parameters and state",
        ["test_every_way_to_run_is_the_same", "test_fused_is_torchs_fused"],
    ),
    17: (
        "fused on the meta device says so, and works afterwards",
        ["test_fused_on_the_meta_device_says_so_and_works_afterwards"],
    ),
    18: (
        "complex parameters step as their parts, or are refused",
        ["test_complex_is_the_run_on_its_parts", "test_a_step_raises_torchs_error_texts"],
    ),
    19: (
        "sparse gradients step as dense ones, or are refused",
        [
            "test_uncoalesced_sparse_gradients",
            "test_a_long_sparse_run_is_the_dense_one",
            "test_sparse_gradients_are_refused_in_torchs_words",
            "test_a_step_raises_torchs_error_texts",
        ],
    ),
    20: ("views are stepped in place", ["test_views_are_stepped_in_place"]),
    21: ("maximize climbs", ["test_maximize_climbs", "test_classes_are_bit_equal_to_torch"]),
    22: (
        "a closure has gradients enabled, and its value comes back",
        ["test_closures_are_called_as_by_torch", "test_every_step_of_lbfgs_returns_the_first_loss"],
    ),
    23: (
        "a step can be differentiated",
        [
            "test_a_step_can_be_differentiated",
            "test_a_step_can_be_differentiated_by_its_state",
            "test_two_steps_can_be_differentiated_by_hyperparameters",
        ],
    ),
    24: (
        "capture needs capturable, or torch warns",
        [
            "test_a_step_looks_whether_it_is_captured",
            "test_capturable_steps_alike_without_a_graph",
            "test_a_captured_step_is_the_step",
            "test_a_capture_without_capturable_is_refused",
        ],
    ),
    # hooks and profiling
    25: ("step hooks in order, once", ["test_step_hooks_in_order", "test_hooks_of_a_subclass_fire_as_often_as_torchs"]),
    26: (
        "a hook may replace the arguments; a profiler shows torch's names",
        ["test_a_pre_hook_may_replace_the_arguments", "test_profiler_names"],
    ),
    27: ("the state takes other keys", ["test_state_takes_other_keys", "test_state_dict_hooks"]),
    28: ("hooks of state_dict and load_state_dict", ["test_state_dict_hooks", "test_load_state_dict_hooks"]),
    # state_dict, pickling, copies
    29: ("parameters are packed by their first places", ["test_parameters_are_packed_by_their_first_places"]),
    30: (
        "old checkpoints load",
        [
            "test_an_old_checkpoint_without_newer_keys",
            "test_each_key_that_a_checkpoint_lacks_gets_torchs_value",
        ],
    ),
    31: (
        "loading casts, and leaves the checkpoint as it is; other groups and other algorithms are refused",
        [
            "test_loading_copies_and_casts_as_torch_does",
            "test_loading_moves_counts_that_are_captured",
            "test_other_groups_are_refused",
            "test_the_checkpoint_of_another_algorithm",
        ],
    ),
    32: ("names survive a load", ["test_names_survive_a_load"]),
    33: ("checkpoints hold plain values", ["test_a_checkpoint_moves_mid_run"]),
    34: ("copies keep what torch's keep", ["test_copies_keep_state_and_groups", "test_copies_step_alike"]),
    35: (
        "the state and the groups are the truth",
        ["test_edits_of_groups_and_state_are_used", "test_edits_of_groups_are_used_by_every_class"],
    ),
    # schedulers and averages
    36: (
        "a tensor rate is written in place, and kept as copies",
        [
            "test_a_tensor_rate_is_written_in_place_and_used",
            "test_tensor_rates_are_written_in_place",
            "test_get_lr_returns_copies",
        ],
    ),
    37: (
        "calls of step are counted, a wrong order is warned of, and nothing is kept alive",
        [
            "test_a_wrong_order_is_warned_of_once",
            "test_a_step_that_is_replaced_is_warned_of",
            "test_a_scheduled_optimizer_is_freed_at_once",
            "test_the_optimizer_is_freed_at_once",
        ],
    ),
    38: (
        "step(epoch) takes the closed form, with a warning",
        [
            "test_schedulers_equal_their_closed_form",
            "test_closed_form_is_there_where_torch_has_it",
            "test_get_lr_outside_of_step_warns",
        ],
    ),
    39: (
        "schedulers of schedulers, functions and plateaus",
        [
            "test_composed_schedulers_equal_torch",
            "test_checkpoints_of_compositions",
            "test_a_sequence_takes_its_start_from_the_initial_rates",
            "test_state_of_callables",
            "test_plateau_equals_torch",
            "test_plateau_checkpoints_go_both_ways",
            "test_a_trainer_recognises_the_plateau",
            "test_schedulers_refuse_bad_arguments",
        ],
    ),
    40: (
        "cycles write momentum, and end",
        [
            "test_momentum_is_cycled_where_there_is_one",
            "test_rates_equal_torch_step_by_step",
            "test_copies_go_on_by_themselves",
            "test_schedulers_refuse_bad_arguments",
            "test_a_new_group_is_followed_where_torch_follows_it",
        ],
    ),
    41: (
        "averages of models",
        [
            "test_groups_by_device_and_dtype",
            "test_first_update_copies_and_the_model_is_not_shared",
            "test_average_of_buffers",
            "test_averages_live_on_their_device",
            "test_copied_averages_go_on",
            "test_update_bn",
        ],
    ),
}
"""Each behaviour in a few words, with the names of the tests that would fail without it."""


@functools.cache
def names():
    """The names of all tests."""
    files = [ast.parse(path.read_text()) for path in Path(__file__).parents[1].rglob("test_*.py")]
    return {node.name for file in files for node in file.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("number", CONTRACT)
def test_the_tests_of_each_behaviour_exist(number):
    assert set(CONTRACT[number][1]) <= names()
