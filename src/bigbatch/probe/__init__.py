"""The probe room: measures on the real machine, compares shortcuts with the plain path, leaves no trace.

::

    probe/
    ├── exactness.py   packed against padded on real samples: logits and gradient
    ├── hardware.py    what the machine is and has
    ├── calibrate.py   seconds and bytes per token of a few real micro-batches
    ├── load.py        what else the machine did meanwhile
    └── dry.py         shapes without memory: bytes that would be alive, collectives that would be sent
"""
