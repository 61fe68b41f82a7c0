"""The ranks that share one update. The only room that may import torch.distributed.

::

    single.py    one process: every reduction is the identity
"""
