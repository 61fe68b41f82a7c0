"""Facts -> probe -> plan -> parts: everything between a recipe and the first update.

::

    only.py             what every start begins with; a plan, or tokens, without a run directory
    live.py             what Python brings: its task, its part of the fingerprint, a live model's weights
    inputs.py           recipe -> checked rows and labels
    ready.py            model, tokenizer, task and tokens, made to fit each other
    tokenised.py        what decides how rows become tokens
    publish.py          tokens of shards as files that are streamed
    streamed.py         a training split that is streamed
    derived.py          columns that the model which a run starts from computes once
    settled.py          what `auto` means: numbers
    defined.py          a figure that steers a run exists
    clocks.py           how many updates, the schedule over them, how the batch grows
    coupling.py         what a loss that couples the batch can be combined with, and what it costs
    bitwise.py          nothing is measured that could change a bit
    measured.py         what measuring needs, and how long it may take
    measure.py          measure a little, then plan
    writing.py          how long the texts of evaluations take
    compare.py          a way to run the model, held against the plain one
    formats.py          which number format
    compiling.py        whether compiling pays
    excerpt.py          measuring a model that ranks will divide
    first_blocks.py     a model with only its first blocks, for that
    untrained.py        whether anything has trained a model
    measured_before.py  what was measured on this machine before
    runners.py          from the plan's words to a model that runs that way
    noise.py            when the gradient noise is measured, and what is remembered of it
    graph.py            what one micro-batch of this run computes
    dry.py              a few updates of one rank among many, for their shapes alone
    strategies.py       from the recipe's words to a way to train
    parts.py            what a loop needs
    build.py            facts -> probe -> plan -> parts, on one screen
"""
