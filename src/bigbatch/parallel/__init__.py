"""The ranks that share one update. The only room that may import torch.distributed.

::

    agent.py     starts the workers of one machine, and starts them again
    meeting.py   where agents and workers find each other: in a folder of their user alone
    signed.py    a connection for holders of a key; served.py and store.py are its two ends
    enter.py     into the group
    single.py    one process: every reduction is the identity
    undivided.py what every world does whose ranks hold the whole model
    group.py     several processes, each with the whole model
    gradients.py gradients travel in buckets, while backward computes the others
    bitwise.py   what ranks have summed is joined in the order of a tree
    mesh.py      ranks in a mesh: replicate, shard, tensor
    axes.py      its process groups, left and opened again; alarm.py tells accelerators that a rank has left
    shard.py     parameters in parts (torch's FSDP2)
    tensor.py    matrix products in parts (Megatron's scheme)
    roles.py     which products of a block read the residual stream, and which write to it
    agree.py     ranks finish together, or leave together
    periodic.py  the mean of replicas that train apart, the same bits on any number of ranks
    outer.py     the step that DiLoCo makes towards that mean
    dry.py       a group whose other ranks are imagined, and what each collective weighs
"""
