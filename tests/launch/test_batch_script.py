"""The batch job's text, word for word; and that bash does with it what is written there."""

from __future__ import annotations

import subprocess

import pytest

from bigbatch.launch.batch_script import batch_script
from bigbatch.recipe.slurm import SlurmSpec

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
