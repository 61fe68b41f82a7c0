from __future__ import annotations

import errno
import json
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from bigbatch.errors import CheckpointError, DiskError
from bigbatch.store.checkpoints import (
    CheckpointState,
    checkpoint_bytes,
    list_checkpoints,
    load_newest,
    read_checkpoint,
    verify,
)
from bigbatch.store.durable import FileOps
from bigbatch.store.saving import clean_checkpoints, save_checkpoint
from tests.store.crashes import Disk, FailingOps, RecordingOps, crash_states, same


def make_state(step: int, *, run_id: str = "run-1", mark: int = 0) -> CheckpointState:
    """All dtypes, a scalar, an empty tensor, a transposed one and a tied one; different for every step."""
    generator = torch.Generator().manual_seed(1000 * mark + step)
    weight = torch.randn(6, 4, generator=generator)
    return CheckpointState(
        step=step,
        run_id=run_id,
        tensors={
            "model/embed.weight": weight,
            "model/turned.weight": torch.randn(3, 5, generator=generator).t(),
            "model/half.weight": torch.randn(7, generator=generator).to(torch.bfloat16),
            "model/mask": torch.randn(3, generator=generator) > 0,
            "model/nothing": torch.empty(0, 4),
            "exp_avg/embed.weight": weight.double() / 3,
            "step/embed.weight": torch.tensor(float(step)),
        },
        aliases={"model/head.weight": "model/embed.weight"},
        state={"position": 8 * step, "best": {"f1_macro": step / 7, "mark": mark}, "guard": []},
    )


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


# ---------------------------------------------------------------- what a checkpoint is


def test_a_saved_state_comes_back_bit_for_bit(tmp_path):
    state = make_state(12)
    path = save_checkpoint(tmp_path, state, keep=2)
    found, notes = load_newest(tmp_path, run_id="run-1")
    assert path == tmp_path / "step-000012"
    assert found is not None and same(found, state) and notes == []
    found.tensors["model/embed.weight"].add_(1)  # training goes on in it


def test_shards_are_safetensors_files_that_the_library_reads(tmp_path):
    state = make_state(3)
    path = save_checkpoint(tmp_path, state, keep=1, shard_bytes=100)
    files = sorted(path.glob("*.safetensors"))
    library = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert len(files) > 2
    assert library.keys() == state.tensors.keys()
    assert all(torch.equal(library[name], tensor) for name, tensor in state.tensors.items())
    found, _ = load_newest(tmp_path)
    assert found is not None and same(found, state)


def test_index_names_dtype_shape_and_slices(tmp_path):
    path = save_checkpoint(tmp_path, make_state(3), keep=1)
    index = json.loads((path / "index.json").read_text())
    entry = index["tensors"]["model/embed.weight"]
    (piece,) = entry["slices"]
    assert (entry["dtype"], entry["shape"]) == ("float32", [6, 4])
    assert (piece["file"], piece["offset"], piece["shape"]) == ("tensors-00001.safetensors", [0, 0], [6, 4])
    assert index["aliases"] == {"model/head.weight": "model/embed.weight"}
    state = json.loads((path / "state.json").read_text())
    assert (state["step"], state["run_id"], state["position"]) == (3, "run-1", 24)


def test_only_safetensors_and_json_are_in_a_checkpoint(tmp_path):
    path = save_checkpoint(tmp_path, make_state(3), keep=1)
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


def test_predicted_bytes_bound_the_real_ones(tmp_path):
    state = make_state(3)
    path = save_checkpoint(tmp_path, state, keep=1)
    real = sum(file.stat().st_size for file in path.iterdir())
    assert real <= checkpoint_bytes(state.tensors) <= real + 2**16 + 300 * len(state.tensors)


def test_the_newest_is_found_by_reading_and_older_ones_go(tmp_path):
    for step in (1, 2, 10, 100):
        save_checkpoint(tmp_path, make_state(step), keep=2)
    assert names(tmp_path) == ["step-000010", "step-000100"]
    found, _ = load_newest(tmp_path)
    assert found is not None and found.step == 100


def test_more_than_a_million_updates_sort_by_number(tmp_path):
    for step in (999_999, 1_000_000):
        save_checkpoint(tmp_path, make_state(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-999999", "step-1000000"]


def test_an_incomplete_checkpoint_does_not_count_as_kept(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, make_state(step), keep=3)
    (tmp_path / "step-000002" / "index.json").unlink()
    save_checkpoint(tmp_path, make_state(3), keep=2)
    assert names(tmp_path) == ["step-000001", "step-000003"]


def test_saving_after_a_fall_back_removes_the_past_that_was_left(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, make_state(step), keep=2)
    damage(tmp_path / "step-000002" / "state.json")
    save_checkpoint(tmp_path, make_state(1, mark=1), keep=1)
    found, notes = load_newest(tmp_path)
    assert found is not None and same(found, make_state(1, mark=1)) and notes == []
    assert names(tmp_path) == ["step-000001"]


def test_leftovers_of_a_kill_are_removed_on_start(tmp_path):
    save_checkpoint(tmp_path, make_state(1), keep=2)
    shutil.copytree(tmp_path / "step-000001", tmp_path / ".tmp-step-000002")
    shutil.copytree(tmp_path / "step-000001", tmp_path / ".old-step-000001")
    assert clean_checkpoints(tmp_path) == [".old-step-000001", ".tmp-step-000002"]
    assert names(tmp_path) == ["step-000001"]
    assert clean_checkpoints(tmp_path / "missing") == []


def test_a_checkpoint_that_stood_aside_gets_its_name_back(tmp_path):
    save_checkpoint(tmp_path, make_state(1), keep=2).rename(tmp_path / ".old-step-000001")
    found, _ = load_newest(tmp_path)
    assert found is not None and same(found, make_state(1))
    assert clean_checkpoints(tmp_path) == []
    assert names(tmp_path) == ["step-000001"]


# ---------------------------------------------------------------- damage


def damage(file: Path, bit: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[(bit // 8) % len(data)] ^= 1 << (bit % 8)
    file.write_bytes(data)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("two")
    for step in (100, 120):
        save_checkpoint(root, make_state(step), keep=2, shard_bytes=200)
    return root


@pytest.fixture
def damaged(two_checkpoints, tmp_path) -> Path:
    return shutil.copytree(two_checkpoints, tmp_path / "checkpoints")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_anywhere_is_found(two_checkpoints, data):
    folder = two_checkpoints / "step-000120"
    file = data.draw(st.sampled_from(sorted(folder.iterdir())))
    bit = data.draw(st.integers(0, 8 * file.stat().st_size - 1))
    original = file.read_bytes()
    try:
        damage(file, bit)
        with pytest.raises(CheckpointError, match=file.name.removesuffix(".safetensors")):
            verify(folder)
        found, notes = load_newest(two_checkpoints)
    finally:
        file.write_bytes(original)
    assert found is not None and same(found, make_state(100))
    assert notes[0].startswith(f"checkpoint step-000120 rejected: {file.name}")
    assert notes[1] == "falling back to checkpoint step-000100: 20 updates are lost and done again"


@pytest.mark.parametrize(
    "file", ["tensors-00001.safetensors", "tensors-00002.safetensors", "index.json", "state.json"]
)
@pytest.mark.parametrize("cut", ["one byte less", "one byte more", "empty", "missing", "a folder"])
def test_a_file_of_another_size_is_rejected_by_name(damaged, file, cut):
    path = damaged / "step-000120" / file
    content = path.read_bytes()
    path.unlink()
    if cut == "a folder":
        path.mkdir()
    elif cut != "missing":
        path.write_bytes({"one byte less": content[:-1], "one byte more": content + b"\0", "empty": b""}[cut])
    found, notes = load_newest(damaged)
    assert found is not None and same(found, make_state(100))
    assert file in notes[0] and "20 updates are lost" in notes[1]
    assert ("incomplete" in notes[0]) == (cut == "missing")


def test_no_complete_checkpoint_is_none_with_reasons(damaged, tmp_path):
    for path in damaged.iterdir():
        (path / "index.json").unlink()
    found, notes = load_newest(damaged)
    assert found is None
    assert notes == [
        "checkpoint step-000120 rejected: incomplete: index.json is missing",
        "checkpoint step-000100 rejected: incomplete: index.json is missing",
        "no complete checkpoint is left: 120 updates are lost",
    ]
    assert load_newest(tmp_path / "missing") == (None, [])


def test_a_checkpoint_of_another_run_is_refused(damaged):
    with pytest.raises(
        CheckpointError, match=r"step-000120 was written by another run \(run-1, this one is run-2\)"
    ):
        load_newest(damaged, run_id="run-2")


def test_a_renamed_folder_is_rejected(damaged):
    (damaged / "step-000120").rename(damaged / "step-000130")
    found, notes = load_newest(damaged)
    assert found is not None and found.step == 100
    assert "index.json is of step 120, the folder's name says 130" in notes[0]


def rewrite_index(folder: Path, change) -> None:
    """An index that somebody wrote on purpose: its checksum is right."""
    from bigbatch.store.stored_index import index_bytes

    index = json.loads((folder / "index.json").read_text())
    del index["sha256"]
    change(index)
    (folder / "index.json").write_bytes(index_bytes(index))


def test_an_index_that_points_outside_its_folder_is_rejected(damaged):
    def change(index):
        index["files"]["../../secret.safetensors"] = {"bytes": 0, "header_sha256": ""}

    rewrite_index(damaged / "step-000120", change)
    with pytest.raises(CheckpointError, match="points outside its folder"):
        read_checkpoint(damaged / "step-000120")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda index: index.update(format=2), "format 2; this version reads 1"),
        (
            lambda index: index["tensors"]["model/embed.weight"].update(dtype="int32"),
            "does not hold model/embed",
        ),
        (lambda index: index["tensors"]["model/embed.weight"].update(shape=[6, 5]), "do not cover"),
        (
            lambda index: index["tensors"].update(ghost=index["tensors"]["model/embed.weight"]),
            "not hold ghost",
        ),
    ],
)
def test_an_index_that_contradicts_the_files_is_rejected(damaged, change, message):
    rewrite_index(damaged / "step-000120", change)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(damaged / "step-000120")


OPENED: list[str] | None = None


def _note_opened(event: str, arguments: tuple) -> None:
    if event == "open" and OPENED is not None:
        OPENED.append(str(arguments[0]))


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_pickle_in_the_folder_is_never_opened(damaged, tmp_path):
    global OPENED
    marker = tmp_path / "exploded"
    for place in (damaged, damaged / "step-000120", damaged / "step-000100"):
        for name in ("canary.pt", "optimizer.bin", "rng_state.pth"):
            (place / name).write_bytes(pickle.dumps(_Bomb(marker)))
    sys.addaudithook(_note_opened)
    OPENED = []
    try:
        found, _ = load_newest(damaged)
        save_checkpoint(damaged, make_state(130), keep=2)
    finally:
        opened, OPENED = OPENED, None
    assert found is not None and same(found, make_state(120))
    assert any(path.endswith("index.json") for path in opened)
    assert not [path for path in opened if path.endswith((".pt", ".bin", ".pth"))]
    assert not marker.exists()


# ---------------------------------------------------------------- crashes


def _saves(tmp_path: Path, scene: str) -> tuple[Path, CheckpointState, CheckpointState, int]:
    """A folder before a save: (root, the state that is newest, the state to save, keep)."""
    root = tmp_path / "checkpoints"
    if scene == "first":
        return root, make_state(0), make_state(5), 1
    steps = {"next": (4,), "prune two": (2, 4), "same step again": (3, 5)}[scene]
    for step in steps:
        save_checkpoint(root, make_state(step), keep=9)
    return root, make_state(steps[-1]), make_state(5, mark=1), 2 if scene == "same step again" else 1


@pytest.mark.parametrize("scene", ["first", "next", "prune two", "same step again"])
def test_every_crash_leaves_the_old_state_or_the_new_one(tmp_path, scene):
    root, old, new, keep = _saves(tmp_path, scene)
    before = Disk.of(tmp_path)
    ops = RecordingOps()
    save_checkpoint(root, new, keep=keep, shard_bytes=250, ops=ops)
    durable_at = max(
        number
        for number, op in enumerate(ops.log)
        if op.kind == "rename" and op.target.endswith("step-000005")
    )
    seen = {"old": 0, "new": 0}
    for number, (what, disk, unsynced) in enumerate(crash_states(before, ops.log)):
        case = tmp_path / f"case-{number}"
        disk.write_to(case, tmp_path, unsynced)
        for path in list_checkpoints(case / "checkpoints"):
            verify(path)  # complete, or absent
        found, _ = load_newest(case / "checkpoints")
        if found is None:
            assert scene == "first", what
            which = "old"
        else:
            which = "new" if same(found, new) else "old"
            assert which == "new" or same(found, old), f"{what}: neither the old state nor the new one"
        seen[which] += 1
        done = int(what.split(" operations")[0].split()[-1]) if " operations" in what else 0
        if done > durable_at + 1:  # the fsync of the folder came right after the rename
            assert which == "new", f"{what}: a durable checkpoint was lost"
        save_checkpoint(
            case / "checkpoints", make_state(6, mark=2), keep=1, ops=RecordingOps()
        )  # without waiting for the disk
        following, notes = load_newest(case / "checkpoints")
        assert following is not None and same(following, make_state(6, mark=2)) and notes == [], what
        assert names(case / "checkpoints") == ["step-000006"], what
        shutil.rmtree(case)
    assert seen["old"] > 20 and seen["new"] > 5


def test_the_crash_model_catches_a_save_without_fsync(tmp_path):
    """The enumeration must be able to fail: the same save, minus the fsync of its files."""

    class Careless(RecordingOps):
        def fsync(self, handle):
            pass

    root, _, new, keep = _saves(tmp_path, "next")
    before = Disk.of(tmp_path)
    ops = Careless()
    save_checkpoint(root, new, keep=keep, ops=ops)
    lost = 0
    for number, (_, disk, unsynced) in enumerate(crash_states(before, ops.log)):
        case = tmp_path / f"case-{number}"
        disk.write_to(case, tmp_path, unsynced)
        found, _ = load_newest(case / "checkpoints")
        lost += found is None
    assert lost > 0


@pytest.mark.parametrize("scene", ["first", "next", "prune two", "same step again"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_at_any_operation_leaves_the_old_intact(tmp_path, scene, code):
    root, old, new, keep = _saves(tmp_path, scene)
    template = shutil.copytree(root, tmp_path / "template") if root.exists() else None
    counter = RecordingOps()
    save_checkpoint(root, new, keep=keep, ops=counter)
    total = len([op for op in counter.log if op.kind != "remove"])
    for fail_at in range(1, total + 1):
        shutil.rmtree(root, ignore_errors=True)
        if template:
            shutil.copytree(template, root)
        with pytest.raises(DiskError) as error:
            save_checkpoint(root, new, keep=keep, ops=FailingOps(fail_at, code))
        found, _ = load_newest(root)
        if found is None:
            assert scene == "first"
        else:
            assert same(found, old) or same(found, new)
        if fail_at > 2 or template:  # before that, the folder itself could not be made
            assert "needs" in str(error.value) and "free" in str(error.value)
        save_checkpoint(
            root, make_state(6, mark=2), keep=1, ops=RecordingOps()
        )  # without waiting for the disk
        assert names(root) == ["step-000006"]


def test_a_file_size_limit_in_the_middle_of_a_save(tmp_path):
    save_checkpoint(tmp_path, make_state(1), keep=2)
    big = CheckpointState(step=2, tensors={"model/w": torch.zeros(100_000)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, before[1]))
    try:
        with pytest.raises(
            DiskError, match=r"File too large \(needs .* \(4\d\d,\d\d\d bytes\), .* are free\)"
        ):
            save_checkpoint(tmp_path, big, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["step-000001"]
    found, notes = load_newest(tmp_path)
    assert found is not None and same(found, make_state(1)) and notes == []


def test_an_exception_of_any_kind_removes_the_temporary_folder(tmp_path):
    class Interrupted(FileOps):
        def fsync(self, handle):
            raise KeyboardInterrupt

    save_checkpoint(tmp_path, make_state(1), keep=2)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, make_state(2), keep=2, ops=Interrupted())
    assert names(tmp_path) == ["step-000001"]


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from bigbatch.store.checkpoints import CheckpointState, load_newest
from bigbatch.store.saving import save_checkpoint
torch.set_num_threads(1)
root, moments = Path(sys.argv[1]), random.Random(7)

def state(step):
    tensors = {f"model/{i}": torch.full((50, 50), float(step)) + i for i in range(4)}
    return CheckpointState(step=step, tensors=tensors, state={"position": 8 * step}, run_id="r")

def check(at_least):
    found, notes = load_newest(root, run_id="r")
    step = found.step if found else 0
    assert notes == [], notes
    assert step >= at_least, (step, at_least)
    if found:
        assert found.state == {"position": 8 * step}
        assert all(torch.equal(found.tensors[n], t) for n, t in state(step).tensors.items())
    return step

last = 0
for kill in range(20):
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        step = check(last)
        while True:
            step += 1
            save_checkpoint(root, state(step), keep=2, shard_bytes=20_000)
            os.write(send, step.to_bytes(4, "little"))
    os.close(send)
    told = os.read(receive, 4)      # the child is at work
    time.sleep(moments.random() * 0.03)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while rest := os.read(receive, 4):
        told = rest
    os.close(receive)
    last = check(int.from_bytes(told, "little"))
    assert not [p for p in root.iterdir() if p.name.startswith("step-") and not (p / "index.json").exists()]
print("killed 20 times, step", last)
"""


def test_killed_twenty_times_while_saving(tmp_path):
    """A checkpoint whose save returned is never lost; what is found is whole, with the position that fits."""
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("killed 20 times, step ")
    assert int(done.stdout.split()[-1]) >= 20


@pytest.mark.parametrize("step", [1, 3])
def test_a_checkpoint_in_which_a_folder_lies_is_set_aside_and_not_removed(tmp_path, step):
    """An old one, and one that is written again."""
    for each in (1, 3):
        save_checkpoint(tmp_path, make_state(each), keep=2)
    mine = tmp_path / f"step-{step:06d}" / "index.json"
    mine.unlink()
    mine.mkdir()
    (mine / "notes").write_text("mine")
    for _ in range(2):
        save_checkpoint(tmp_path, make_state(3), keep=1)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted({"step-000003", f"step-{step:06d}.damaged-1"})
    assert (tmp_path / f"step-{step:06d}.damaged-1" / "index.json" / "notes").read_text() == "mine"
    found, _ = load_newest(tmp_path)
    assert found is not None and found.step == 3
