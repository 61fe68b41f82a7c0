"""Optimisers: which parameters they touch, how they move them, and their state as named tensors.

::

    optim/
    ├── depths.py   where a parameter sits: embeddings, which block, head
    ├── groups.py   parameters with and without weight decay, rates by layer, names kept
    ├── blocks.py   elementwise work in pieces that fit a CPU's caches; the one buffer of momentum
    ├── debias.py   averages that go on under other betas
    ├── adam.py     Adam's averages and direction
    ├── lamb.py, lars.py    steps as long as the matrix says; they know nothing about sharding
    ├── from_zero.py    matrices that cannot say it yet
    ├── muon.py     orthogonal steps inside blocks, AdamW elsewhere
    ├── average.py  an average of the weights beside any of them
    ├── lion.py     steps of one length
    ├── schedule_free.py    AdamW with an average of the weights instead of a schedule (package schedulefree)
    ├── adamw_bf16.py, adamw_8bit.py    AdamW that keeps less: `optimizer.state`
    ├── build.py    recipe -> torch optimiser; setting the learning rate
    └── state.py    optimiser state <-> flat dictionary of "<state>/<parameter name>"
"""
