"""The contestants. Each file is run as a process of its own: `python -m … VARIANT JOB OUT`.

::

    common.py        what they share: reading rows, the clock, handing in
    trainer.py       Hugging Face's Trainer: as a newcomer runs it, and at its best
    torch_loop.py    a plain PyTorch loop, as an expert writes it
    ours.py          bigbatch
    ceiling.py       no contestant: the machine's best matrix product

`transformers.Trainer` is imported here and nowhere else.
"""
