"""The batch job's text, word for word; and that bash does with it what is written there."""

from __future__ import annotations

import subprocess

import pytest
from pydantic import ValidationError

from bigbatch.errors import UsageError
from bigbatch.launch.batch_script import batch_script
from bigbatch.recipe.machine import SlurmSpec

GOLDEN = """\
#!/bin/bash
#SBATCH --job-name=bigbatch-tweets
#SBATCH --partition=gpu
#SBATCH --account=lab
#SBATCH --time=04:00:00
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
#SBATCH --gpus-per-node=4
module load cuda

# Bash hears a signal only between two commands: so the command runs beside it, and is waited for.
child= told=
trap 'told=1; [ -z "$child" ] || kill -TERM $child 2>/dev/null' TERM
python -m bigbatch train tweets.yaml 'run.dir=my runs/a' --slurm &
child=$!
[ -z "$told" ] || kill -TERM $child 2>/dev/null
wait $child; code=$?
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done

# Saved, or something broke that another try may not meet. A cancelled job is no longer RUNNING.
case $code in 6|130|143)
  if [ "${SLURM_RESTART_COUNT:-0}" -lt 3 ] &&
     [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    echo "exit code $code: back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
  fi ;;
esac
exit $code
"""


def test_the_text():
    spec = SlurmSpec(
        partition="gpu",
        account="lab",
        time="04:00:00",
        nodes=2,
        options=["--gpus-per-node=4"],
        setup=["module load cuda"],
    )
    command = ["python", "-m", "bigbatch", "train", "tweets.yaml", "run.dir=my runs/a", "--slurm"]
    assert batch_script(spec, command, name="bigbatch-tweets", grace_seconds=30.0, max_requeues=3) == GOLDEN


def test_what_is_null_is_left_to_the_cluster():
    text = batch_script(SlurmSpec(), ["true"], name="x", grace_seconds=30.0, max_requeues=3)
    assert not any(word in text for word in ("--partition", "--account", "--time"))


UNSEEN = ["\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029", "\0", "\x1b"]


@pytest.mark.parametrize("unseen", UNSEEN, ids=ascii)
def test_no_line_break_reaches_the_script(unseen):
    """Whoever reads lines in whatever way reads those that were meant."""
    evil = f"x{unseen}touch owned"
    for key, value in {"partition": evil, "account": evil, "time": f"1{unseen}touch owned"}.items():
        with pytest.raises(ValidationError):
            SlurmSpec(**{key: value})
    for key in ("options", "setup"):
        with pytest.raises(ValidationError, match=r"one line|one option"):
            SlurmSpec(**{key: [f"--{evil}"]})
    with pytest.raises(UsageError, match="one line"):
        batch_script(SlurmSpec(), ["true", evil], name="x", grace_seconds=30.0, max_requeues=3)
    text = batch_script(SlurmSpec(), ["true"], name=evil, grace_seconds=30.0, max_requeues=3)
    assert "#SBATCH --job-name=x-touch-owned\n" in text and text.splitlines() == text.split("\n")[:-1]


@pytest.mark.parametrize("value", ["gpu --wrap=x", "gpu;x", "-gpu", "$(x)", "gpu\tx", "gpu'", "#", ""])
def test_a_partition_is_a_name(value):
    for key in ("partition", "account", "time"):
        with pytest.raises(ValidationError):
            SlurmSpec(**{key: value})


def test_a_job_without_the_variables_of_its_submission_ends_with_2(tmp_path):
    text = batch_script(
        SlurmSpec(), ["touch", "ran"], name="x", grace_seconds=1.0, max_requeues=0, needed=["BIGBATCH_TOKENS"]
    )
    for environ, code in (({}, 2), ({"BIGBATCH_TOKENS": "20000"}, 0)):
        environ["PATH"] = "/usr/bin:/bin"
        done = subprocess.run(["bash", "-c", text], cwd=tmp_path, env=environ, capture_output=True, text=True)
        assert done.returncode == code and (tmp_path / "ran").exists() == (code == 0)
        assert ("BIGBATCH_TOKENS was set when" in done.stderr) == (code != 0)


@pytest.mark.parametrize(
    ("code", "restarts", "state", "requeued"),
    [
        (0, 0, "RUNNING", False),
        (1, 0, "RUNNING", False),
        (2, 0, "RUNNING", False),
        (4, 0, "RUNNING", False),
        (5, 0, "RUNNING", False),
        (6, 0, "RUNNING", True),
        (130, 0, "RUNNING", True),
        (143, 2, "RUNNING", True),
        (143, 3, "RUNNING", False),
        (143, 0, "CANCELLED", False),
    ],
)
def test_which_exit_codes_put_the_job_back(tmp_path, code, restarts, state, requeued):
    """Under real bash, with stand-ins for Slurm's two commands."""
    for name, said in (("squeue", f"echo {state}"), ("scontrol", 'echo "$@" >> asked')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{said}\n")
        (tmp_path / name).chmod(0o755)
    text = batch_script(
        SlurmSpec(), ["bash", "-c", f"exit {code}"], name="x", grace_seconds=1.0, max_requeues=3
    )
    environ = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SLURM_JOB_ID": "12",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    done = subprocess.run(["bash", "-c", text], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "asked").exists() == requeued
    if requeued:
        assert (tmp_path / "asked").read_text() == "requeue 12\n"


def test_a_signal_reaches_the_command_and_its_own_exit_code_counts(tmp_path):
    """The command needs a second to save; bash waits for it, whatever its first `wait` returned."""
    command = [
        "bash",
        "-c",
        "trap 'sleep 1; touch saved; exit 5' TERM; touch ready; while :; do sleep 0.1; done",
    ]
    text = batch_script(SlurmSpec(), command, name="x", grace_seconds=1.0, max_requeues=0)
    with subprocess.Popen(["bash", "-c", text], cwd=tmp_path) as process:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
        process.terminate()
        assert process.wait(20) == 5
    assert (tmp_path / "saved").exists()
