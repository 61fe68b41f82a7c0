"""Many runs: sweeps of one recipe; bigbatch and other trainers on the same samples, side by side.

::

    bench.py          the rounds, the contestants taking turns; saves as it goes
    runner.py         their processes: one at a time, each in a fresh folder
    jobs.py           what a contestant is told, and what it hands back (JSON files)
    prepare.py        recipe -> one CSV, one model folder, one order of samples that everybody uses
    work.py           useful FLOPs of those samples, counted once for everybody
    results.py        results.json: medians, ranges, ratios of each round
    tables.py         the same for people: console and results.md
    contestants/      each is run as a process of its own
    sweep_command.py  `bigbatch sweep`: from words to a sweep
    points.py         axes and their product
    sweep.py          the points' runs, what is left of them, and the results after each
    children.py       runs as processes, several at a time; signals passed on
    share.py          what each of them may use of the machine
    pace.py           how long it will take
    branch.py         `--from`: the weights that all runs of a study start from
    scale.py          `bigbatch scale`: several batches trained to a target
    targets.py        when a run reached it
    scaling.py        from those to a trade-off, a table and a recommendation
"""
