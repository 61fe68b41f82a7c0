"""A cluster on one machine, for tests and examples: hosts out of namespaces, SSH between them, Slurm on top.

::

    network.py    hosts with their own network, name and processes, behind a switch; faults that can happen to them
    secure.py     sshd on each host, with keys that are thrown away
    slurm.py      slurmctld, slurmd and munge on these hosts
    sweep.py      removes what a crashed session left

Needs Linux, root, and of Debian: `apt-get install iproute2 openssh-server slurm-wlm munge`. Everything lives in
namespaces and in one temporary folder: no address, file or service of the machine itself changes.
"""
