"""The computation graph: nothing is computed that nobody reads, nothing is kept that is cheaper to compute again.

::

    graph/
    ├── lazy.py        the last block for read tokens only
    ├── embeddings.py  gradients of embedding rows in place
    ├── dropout.py     quick dropout masks
    ├── recompute.py   activations computed again in the backward pass
    ├── compiled.py    blocks compiled once for all
    ├── analyse.py     one micro-batch under observation: what it costs, and what nobody reads
    ├── trace.py       every operation of it, and whose work it is
    ├── flow.py        what depends on what, and what was computed before
    ├── places.py      names for parts of a model
    └── findings.py    from a trace to sentences
"""
