"""Number formats: what is computed in which, the loss scale, and what a format does to this model.

::

    precision/
    ├── policy.py      which module computes in which format: by role, overridden by pattern
    ├── casting.py     puts that into effect around a forward pass; weights and gradients stay fp32
    ├── loss_scale.py  fp16: the factor on the loss, halved at an overflow, doubled after a while
    ├── speed.py       seconds of the same matrix product in each format, on this machine
    ├── tf32.py        the switch of tf32, readable by both of torch's sets of names
    ├── float8.py      fp8 through torchao, where there is a GPU for it
    └── audit.py       error, overflow, underflow and lost updates for each block, with a verdict in words
"""
