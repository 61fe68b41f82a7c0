"""The ranks that share one update. The only room that may import torch.distributed.

::

    single.py    one process: every reduction is the identity
    periodic.py  the mean of replicas that train apart, the same bits on any number of ranks
    outer.py     the step that DiLoCo makes towards that mean
    dry.py       a group whose other ranks are imagined, and what each collective weighs
"""
