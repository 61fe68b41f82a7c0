"""Arithmetic of training: numbers in, numbers out; no torch, nothing measured, nothing random.

::

    rules/
    ├── schedules.py    learning-rate factor of an update, at the midpoint of its samples
    ├── clocks.py       how many updates a length is; when an interval fires
    ├── warmup.py       how long a warm-up is when the batch is not the one it was tuned for
    ├── noise_scale.py  how large a batch is worth using, from gradients of parts of a batch
    ├── ramp.py         through which sizes a batch grows, and when
    ├── headline.py     which of a run's figures says most
    ├── verdict.py      a finished run in one sentence
    ├── paired.py       is one evaluation better than another on the same rows, or is it chance
    ├── first_run.py    batch, length and learning rate of a first run
    ├── critical_batch.py  what a larger batch saves in updates and costs in samples
    ├── sync.py         replicas that train apart: when they meet
    ├── tree.py         sums whose bits do not depend on who adds what
    ├── buckets.py      how many copies of gradients are on their way at a time
    └── batch_size.py   learning rate, betas and eps when the batch is not the one they were tuned for
"""
