"""Sends runs to TensorBoard, Weights & Biases, MLflow and Trackio: from their files, in a process of its own. No torch.

::

    track/
    ├── entries.py      a record of the journal -> what trackers are sent; which were sent already
    ├── sending.py      follow a journal, send, remember: each record once, whatever is killed when
    ├── kinds.py        the trackers that there are, and what they need
    ├── tensorboard.py  event files, cut back to what was remembered
    ├── wandb.py        Weights & Biases, offline unless you are signed in
    ├── mlflow.py       metrics in batches; what is there already stays once
    ├── trackio.py      rows with names of their own, which its database takes once
    └── beside.py       the process beside a run, and what the run says of it

The run never waits: it looks at whether the process lives, and at a small file that the process leaves.
"""
