"""What a forward computes, and in which numbers: nothing that nobody reads, nothing kept that is cheap to do again.

::

    graph/
    ├── lazy.py        the last block for read tokens only
    ├── embeddings.py  gradients of embedding rows in place
    ├── dropout.py     quick dropout masks
    ├── recompute.py   activations computed again in the backward pass
    ├── compiled.py    blocks compiled once for all
    ├── policy.py      which module computes in which format: by role, overridden by pattern
    ├── casting.py     puts that into effect around a forward pass; weights and gradients stay fp32
    ├── tf32.py        the switch of tf32, readable by both of torch's sets of names
    ├── float8.py      fp8 through torchao, where there is a GPU for it
    ├── analyse.py     one micro-batch under observation: what it costs, and what nobody reads
    ├── trace.py       every operation of it, and whose work it is
    ├── flops.py      how many FLOPs an operation takes
    ├── flow.py        what depends on what, and what was computed before
    ├── places.py      names for parts of a model
    └── findings.py    from a trace to sentences
"""
