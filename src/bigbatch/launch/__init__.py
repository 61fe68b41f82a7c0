"""Starts processes, on one machine or on several, and maps their ends to an exit code.

::

    start.py      whether to start processes, and where
    local.py      several on this machine: an agent starts them, watches them and starts them again
    hosts.py      several machines: who is lost, who goes on
    ssh.py        how a host is asked, and an agent started there
    slurm.py      a batch job, or one agent a node inside an allocation; slurm_node.py is its other end
    slurm_step.py tasks of srun that find each other without an agent
    batch_script.py  the text of a batch job
    address.py    how other machines reach this one, and the interface that the collectives are kept to
    python.py     where Python looks for modules, here and in all that is started
    parts.py      a command in parts, side by side
    passed.py     what travels to the processes that are started, and the check that all of it came
    facts.py      what must be equal on every host
    sent.py       distributed_train: objects to workers, the run back
    bundle.py     what Python brings, in a folder: weights as safetensors, rows as Arrow, the rest as JSON
    worker.py     one worker of a group: it says where it is, keeps a log, leaves its ending
    signs.py      who writes signs of life where, and who watches them
    watch.py      which rank has fallen silent, which one the others wait for
    endings.py    what each rank left behind -> one exit code and one sentence
    place.py      where this process stands among others
"""
