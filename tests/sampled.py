"""Of what the suite takes a sample: cases that `make stress` runs alone, so that `make test` stays under 15 minutes.

A row is a file, a test and patterns of its cases' ids (`*`: all of it; then the comment says what stands for it in the
suite). What is long by its nature carries its marker in its own file instead.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

ONLY_STRESS: dict[str, tuple[str, ...]] = {
    "data/test_tokens.py::test_two_processes_that_fill_the_same_cache_do_not_harm_it": ("*",),  # its siblings, one process each
    "graph/test_casting.py::test_compiled_blocks_compute_in_the_format_and_share_their_graphs": ("*",),  # graph/test_compiled.py
    "graph/test_compiled.py::test_evaluation_and_a_second_model_use_up_nothing": ("*",),  # test_same_numbers_and_few_graphs
    "infer/test_generate.py::test_a_text_that_never_ends_stops_at_the_last_position_or_at_its_own_bound": ("8-mbart",),
    "launch/test_hosts.py::test_two_hosts_train_one_model": ("*",),  # two ranks of one host, test_distributed.py
    "launch/test_strangers.py::test_a_module_is_installed_or_on_the_path_and_never_in_the_users_folder": ("ranks",),
    "launch/test_strangers.py::test_files_in_the_users_folder_and_beside_the_recipe_are_not_modules": ("plan", "predict"),
    "metrics/test_row_scores.py::test_a_row_of_tags_is_a_sentence": ("*-names[1-4]",),
    "metrics/test_row_scores.py::test_figures_of_the_whole_move_with_the_weight_of_a_row": ("r2", "pearson", "expected*"),
    "model/test_narrowed.py::test_packed_and_padded_are_the_masked_model": ("gpt2-[fs]*", "bert-strided"),
    "parallel/test_adapters.py::test_updates_equal_the_whole_batch": ("*fp32*",),
    "parallel/test_empty.py::test_ranks_without_units_give_the_numbers_of_one_process": ("*'tensor': 2}-padded", "*'shard': 2}-padded"),
    "parallel/test_group.py::test_twenty_updates_equal_the_whole_batch": ("*fp32-3", "*fp64-2", "packed-fp64-3", "padded-fp32-4", "padded-fp64-3", "packed-fp64-4"),
    "parallel/test_image.py::test_updates_equal_the_whole_batch": ("*fp32",),
    "parallel/test_leave.py::test_ways_out_at_places_on_every_rank": ("*",),  # test_all_ranks_leave_together_…
    "parallel/test_long.py::test_any_way_among_ranks_is_one_process": ("tensor",),
    "parallel/test_match.py::test_a_divided_model_equals_the_whole_batch": ("*3}",),
    "parallel/test_mesh.py::test_blocks_whose_parameters_are_shared_are_compiled": ("*",),  # graph/test_compiled.py
    "parallel/test_mesh.py::test_other_families": ("*tensor*",),
    "parallel/test_mesh.py::test_updates_equal_the_whole_batch": ("*'tensor': 2}-fp32", "{'shard': 3}*", "*'shard': 4}*", "{'replicate': 2, 'tensor': 2}*"),
    "parallel/test_optimizers.py::test_two_ranks_move_as_one": ("l[ai][rsy]*-*shard*", "lion-*shard*", "keller-*shard*"),
    "parallel/test_optimizers.py::test_two_ranks_move_as_one_in_fp32": ("*",),  # its sibling in fp64
    "parallel/test_translation.py::test_ranks_and_a_divided_model_equal_the_whole_batch": ("*fp32",),
    "parallel/test_translation.py::test_ranks_write_the_same_texts_alone_together_and_divided": ("bart",),
    "run/test_apart.py::test_saved_by_two_ranks_and_gone_on_by_one": ("diloco",),
    "run/test_apart.py::test_the_same_command_goes_on_to_the_same_bits": ("diloco-killed", "average-asked*"),
    "run/test_auto.py::test_two_ranks_test_the_rate_as_one": ("*",),  # test_two_ranks_decide_as_one_…
    "run/test_kill.py::test_a_gradient_of_two_passes_is_the_same_after_a_kill_in_the_second": ("fgm",),
    "run/test_kill.py::test_killed_again_and_again_in_every_phase": ("the*",),
    "run/test_leave.py::test_other_arrangements": ("*replicate*",),
    "run/test_leave.py::test_ranks": ("*replicate*",),
    "run/test_optimizers.py::test_a_resumed_run_gives_the_same_bits": ("lars", "lion"),
    "run/test_ramp_by_noise.py::test_a_run_that_was_killed_makes_the_same_changes": ("between*", "as*"),
    "run/test_resume.py::test_a_second_signal_exits_at_once": ("15-143",),
    "run/test_resume.py::test_a_signal_drops_the_half_done_update_and_the_same_command_goes_on": ("*-143",),
    "run/test_shortage.py::test_all_ranks_halve_the_micro_batch_and_go_on": ("*tensor*", "*replicate*"),
    "run/test_translation.py::test_killed_and_gone_on_with_it_is_the_same_to_the_bit": ("*",),  # run/test_kill.py
    "step/test_adversarial.py::test_ranks_equal_the_whole_batch": ("*tensor*",),
    "step/test_coupled.py::test_a_batch_of_4096_pairs_where_64_fit": ("*",),  # the splits of 64 tokens above
    "step/test_coupled.py::test_a_guide_leaves_out_what_it_finds_nearer_than_the_right_one": ("fp32*",),
    "step/test_coupled.py::test_every_split_equals_the_whole_batch": ("fp32*padded*", "fp64*100000*", "fp32*packed-plain", "fp64-symmetric*"),
    "step/test_coupled.py::test_families_and_poolings": ("modernbert-first", "modernbert-last"),
    "step/test_image_split.py::test_every_split_equals_the_whole_batch": ("beit*fp32",),
    "step/test_language_split.py::test_every_split_equals_the_whole_batch": ("*512-packed*", "*padded-fp32"),
    "step/test_noise.py::test_ranks_say_what_one_process_says": ("tensor",),
    "step/test_prefer_split.py::test_every_split_equals_the_whole_batch": ("*padded-fp32", "dpo-1-packed-fp32"),
    "step/test_sam.py::test_every_split_equals_the_whole_batch": ("fp32*",),
    "step/test_sam.py::test_ranks_equal_the_whole_batch": ("*tensor*",),
    "step/test_split.py::test_every_split_equals_the_whole_batch": ("*2048*", "*16384-p*ed-fp32", "*512-padded-fp32", "[wprs]*ed-fp32"),
    "step/test_split.py::test_smoothing_and_the_other_optimizers_too": ("*fp32",),
    "step/test_translation_split.py::test_every_split_equals_the_whole_batch": ("*padded*fp32", "m*-padded-*"),
    "store/test_background.py::test_killed_while_the_thread_writes_the_one_before_is_found": ("[134]",),
    "store/test_checkpoints.py::test_every_crash_leaves_the_old_state_or_the_new_one": ("prune two",),
    "store/test_tensors.py::test_saved_by_some_ranks_and_loaded_by_others": ("writer4*", "writer5*"),
    "study/test_gpu.py::test_the_whole_path_runs_with_tiny_shapes": ("*",),  # the other tests of the same file
    "study/test_sweep.py::test_real_runs_killed_in_the_middle_go_on": ("*",),  # the same in one process, beside it
    "test_damaged_runs.py::test_a_damaged_file_never_ends_in_a_traceback": ("finished",),
    "test_damaged_runs.py::test_no_damage_to_any_file_ends_any_command_in_a_traceback": ("*",),  # the sample above
    "test_distributed.py::test_the_usual_calls_go_along_and_a_pipe_moves_no_cursor": ("*",),  # test_two_processes_…
}  # fmt: skip


def only_stress(node: str) -> bool:
    """Whether a test (`tests/FILE::NAME[ID]`) is among those that `make stress` runs alone."""
    name, _, case = node.removeprefix("tests/").partition("[")
    return any(fnmatchcase(case.removesuffix("]"), each) for each in ONLY_STRESS.get(name, ()))


def mark(items: list[pytest.Item]) -> None:
    for item in items:
        if only_stress(item.nodeid):
            item.add_marker(pytest.mark.stress)
