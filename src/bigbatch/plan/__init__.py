"""How a recipe will be computed: arithmetic over facts, no torch. Every number comes with its reason.

::

    plan/
    ├── frozen.py    Plan: named choices, frozen; to and from plan.json
    ├── planner.py   recipe + facts (hardware, model, lengths, probe, calibration) -> Plan
    ├── choices.py   the choices one by one: value, reason, who said so
    ├── batches.py   a typical global batch, and the micro-batches it is cut into
    ├── precision.py which number format, and what stays fp32 all the same
    ├── forward.py   how a micro-batch runs through the model; ways.py chooses it
    ├── recompute.py which activations are computed again, when they do not fit
    ├── memory.py    peak memory as a sum of named parts; what would fit
    ├── fit.py       the micro-batch, and what backward computes again, that fit the memory
    ├── gradients.py what another gradient than the plain one costs
    ├── noise.py     whether the gradient noise is measured, and its memory
    ├── timing.py    seconds of training and of evaluation
    ├── explain.py   the plan as lines for people
    ├── graph.py     what one micro-batch computes: the record of an analysis
    ├── graph_words.py  that, as lines for people
    └── dry.py       what one rank of many would hold and send: the record of a dry run, and its lines
"""
