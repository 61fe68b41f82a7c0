"""Of what the suite takes a sample: cases that `make stress` runs alone, so that `make test` stays under 15 minutes.

A row is a file, a test and patterns of its cases' ids (`*`: all of it; then the comment says what stands for it in the
suite). What is long by its nature carries its marker in its own file instead.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest

ONLY_STRESS: dict[str, tuple[str, ...]] = {
    "graph/test_compiled.py::test_evaluation_and_a_second_model_use_up_nothing": ("*",),  # test_same_numbers_and_few_graphs
    "launch/test_strangers.py::test_files_in_the_users_folder_and_beside_the_recipe_are_not_modules": ("plan", "predict"),
    "parallel/test_adapters.py::test_updates_equal_the_whole_batch": ("*fp32*",),
    "parallel/test_bitwise.py::test_many_updates_end_in_one_hash": ("20",),
    "parallel/test_group.py::test_twenty_updates_equal_the_whole_batch": ("*fp32-3", "*fp64-2", "packed-fp64-3", "padded-fp32-4"),
    "parallel/test_leave.py::test_ways_out_at_places_on_every_rank": ("*",),  # test_all_ranks_leave_together_…
    "parallel/test_mesh.py::test_blocks_whose_parameters_are_shared_are_compiled": ("*",),  # graph/test_compiled.py
    "parallel/test_mesh.py::test_updates_equal_the_whole_batch": ("*'tensor': 2}-fp32", "{'shard': 3}*", "*'shard': 4}*"),
    "parallel/test_optimizers.py::test_two_ranks_move_as_one_in_fp32": ("*",),  # its sibling in fp64
    "run/test_auto.py::test_two_ranks_test_the_rate_as_one": ("*",),  # test_two_ranks_decide_as_one_…
    "run/test_kill.py::test_killed_again_and_again_in_every_phase": ("the*",),
    "run/test_leave.py::test_other_arrangements": ("*replicate*",),
    "run/test_ramp_by_noise.py::test_a_run_that_was_killed_makes_the_same_changes": ("between*", "as*"),
    "run/test_resume.py::test_a_signal_drops_the_half_done_update_and_the_same_command_goes_on": ("*-143",),
    "step/test_coupled.py::test_every_split_equals_the_whole_batch": ("fp32*padded*", "fp64*100000*", "fp32*packed-plain"),
    "step/test_language_split.py::test_every_split_equals_the_whole_batch": ("*512-packed*", "*padded-fp32"),
    "step/test_prefer_split.py::test_every_split_equals_the_whole_batch": ("*padded-fp32",),
    "step/test_split.py::test_every_split_equals_the_whole_batch": ("*2048*", "*16384-p*ed-fp32", "*512-padded-fp32"),
    "step/test_translation_split.py::test_every_split_equals_the_whole_batch": ("*padded*fp32",),
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


def unknown(tests: set[str]) -> list[str]:
    """Rows of which there is no such test; `tests` are `FILE::NAME`."""
    return sorted(name for name in ONLY_STRESS if name not in tests)


def names_in(file: str, text: str) -> set[str]:
    return {f"{file}::{name}" for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
