"""Optimisers: which parameters they touch, how they move them, and their state as named tensors.

::

    optim/
    ├── groups.py   parameters with and without weight decay, names kept
    ├── lamb.py     LAMB; knows nothing about sharding
    ├── build.py    recipe -> torch optimiser; setting the learning rate
    └── state.py    optimiser state <-> flat dictionary of "<state>/<parameter name>"
"""
