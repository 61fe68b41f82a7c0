"""A run: from its recipe to an iterator of records.

::

    signals.py       the first Ctrl-C is a request, the second an exit
    guard.py         counts non-finite updates, ends a run that diverged
    choice.py        which weights are kept: evaluations paired row by row
    plateau.py       `epochs: auto`: when validation no longer improves
    forecast.py      the time that is left, held against the updates
    start.py         who lives in the directory, the lock, the parts, the newest checkpoint
    homes.py         a directory that holds another run
    rate_test.py     the learning rate, tried from small to large before update 1
    run.py           a run as Python sees it
    stages.py        `stages:`: runs one behind the other in one folder
    loop.py          the iterator of records, on one screen
    between.py       what happens between two updates: evaluations, checkpoints, requests
    awaited.py       shards of a stream are there before an update, or are waited for
    boundary.py      what the ranks tell each other there, and where each may leave after a signal
    evaluated.py     the records of a split that was evaluated, and of its sources
    events.py        events in words
    beat.py          signs of life of this rank
    ramp.py          the size of the next batch, where a ramp decides it
    baseline/        simple models of the same rows, fitted once and kept
    samples.py       which evaluations write texts, and prompts that are continued
    excerpt.py       a question with the part of its text that its answers stand in
    finish.py        best weights, final evaluation, model folder, result.json
    adapters.py      what the adapters of a run belong to
    verdict.py       the sentence that a finished run ends with
    about.py         a run in words for people
    card.py          the model card
    drawn.py         images with boxes, as the report shows them
"""
