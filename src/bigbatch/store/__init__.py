"""What survives a kill: the run directory, checkpoints, the journal. It knows the ranks, never the loop or its parts.

::

    durable.py       the only file operations that must survive a crash, behind one small object
    directory.py     paths of the run directory, status.json, environment.json, the check before the start
    identity.py      what a run computes: fingerprint, differences, start | resume | finished | another name
    same_classes.py  what each output of its head stands for stays
    lock.py          one process at a time: heartbeat, stale locks taken over
    mending.py       what cannot be used is named and set aside
    journal.py       metrics.jsonl: exactly one record per update, also after resumes
    progress.py      position and clocks: state.json
    shards.py        tensors <-> safetensors files, with a checksum for each slice
    slices.py        who writes what of a tensor, and how its parts fit together again
    stored_index.py  index.json and state.json, read without trust
    checkpoints.py   complete and verified, or absent: find the newest, fall back
    saving.py        every rank writes its files, then all agree that the checkpoint exists
    background.py    saving while training goes on
    tensors.py       what of a run's tensors this rank saves and loads
    keeper.py        what the loop saves, and how it comes back
    columns.py       derived columns of a run
"""
