"""Optimisers: which parameters they touch, how they move them, and their state as named tensors.

::

    optim/
    ├── groups.py   parameters with and without weight decay, names kept
    ├── lamb.py     LAMB; knows nothing about sharding
    ├── rounding.py stochastic rounding to bf16; its bits are a function of (seed, update, name)
    ├── adamw_bf16.py, adamw_8bit.py    AdamW that keeps less: `optimizer.state`
    ├── build.py    recipe -> torch optimiser; setting the learning rate
    └── state.py    optimiser state <-> flat dictionary of "<state>/<parameter name>"
"""
