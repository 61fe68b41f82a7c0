"""A run: from its recipe to an iterator of records.

::

    signals.py       the first Ctrl-C is a request, the second an exit
    guard.py         counts non-finite updates, ends a run that diverged
    watched.py       which figure `best`, `early_stopping` and `gate` mean
    choice.py        which weights are kept: evaluations paired row by row
    inputs.py        recipe -> checked rows and labels
    live.py          what Python brings: its part of the fingerprint, a live model's weights
    ready.py         model, tokenizer, task and tokens, made to fit each other
    graph.py         what one micro-batch of this run computes
    planning.py      measure a little, then plan
    budget.py        how long that may take
    forecast.py      the time that is left, held against the updates
    dry.py           a few updates of one rank among many, for their shapes alone
    clocks.py        how many updates, the schedule over them, how the batch grows
    build.py         facts -> probe -> plan -> parts
    coupling.py      what a loss that couples the batch can be combined with, and what it costs
    start.py         who lives in the directory, the lock, the parts, the newest checkpoint
    run.py           a run as Python sees it
    loop.py          the iterator of records
    beat.py          signs of life of this rank
    growth.py        the size of the next batch, where a ramp decides it
    noise.py         when the gradient noise is measured, and what is remembered of it
    baselines.py     simple models of the same rows, fitted once and kept
    finish.py        best weights, final evaluation, model folder, result.json
    verdict.py       the sentence that a finished run ends with
    about.py         a run in words for people
    card.py          the model card
"""
