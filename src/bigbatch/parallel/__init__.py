"""The ranks that share one update. The only room that may import torch.distributed.

::

    agent.py     starts the workers of one machine, and starts them again
    meeting.py   where agents and workers find each other: in a folder of their user alone
    signed.py    a connection for holders of a key; served.py and store.py are its two ends
    enter.py     into the group
    single.py    one process: every reduction is the identity
    periodic.py  the mean of replicas that train apart, the same bits on any number of ranks
    outer.py     the step that DiLoCo makes towards that mean
    dry.py       a group whose other ranks are imagined, and what each collective weighs
"""
