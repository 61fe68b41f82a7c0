"""The heart: one update of the weights from one global batch, and a record of it.

::

    together.py    one model, all ranks; its update on one screen: count, accumulate, reduce, check, clip, move, record
    executor.py    micro-batches -> gradients: the plain rule, and who drives rules; the one place that sums
    tree.py        an executor with sums in the order of a tree: the same bits on any number of ranks
    coupled.py     an executor for a loss that needs all outputs of the batch, in two passes
    adversarial.py two passes of each micro-batch: its tokens as they are, and moved against each sample
    nudge.py       a small move of every embedded token, and its gradient by sample
    sam.py         the gradient where the loss nearby is worst: each update walks its micro-batches twice
    masks.py       the generator's seed of each micro-batch, a pure function of the recipe and the position
    loss_scale.py  fp16: the factor on the loss, halved at an overflow, doubled after a while
    noise.py       what the gradients of a batch's random parts say about its noise
    groups.py      embeddings, each block, head: groups of parameters that figures are given for
    apart.py       replicas that train apart, in turn
    update.py      what both share: the record, the optimiser's step, the loss scale's news
    ahead.py       the next micro-batches are cut while the present ones are computed
    again.py       micro-batches that can be walked again
    by_source.py   the loss of each source of a mixture, beside the gradient
    replicas.py    what each replica holds, and their meetings
"""
