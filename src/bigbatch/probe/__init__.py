"""The probe room: measures on the real machine, compares shortcuts with the plain path, leaves no trace.

::

    probe/
    ├── exactness.py   packed against padded on real samples: logits and gradient
    ├── precision.py   errors of a format's logits and gradients
    ├── audit.py       the same for each block, with overflow, underflow and lost updates, and a verdict in words
    ├── watching.py    outputs and gradients of blocks, seen by hooks
    ├── speed.py       seconds of the same matrix product in each format, on this machine
    ├── products.py    which library multiplies matrices faster, tried on a layer of the model
    ├── bench.py       runs micro-batches, reads the clock and counts bytes
    ├── hardware.py    what the machine is and has
    ├── calibrate.py   seconds and bytes per token of a few real micro-batches
    ├── stand_in.py    tensors under a model's names, without the model
    ├── load.py        what else the machine did meanwhile
    └── dry.py         shapes without memory: bytes that would be alive, collectives that would be sent
"""
