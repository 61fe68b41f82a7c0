"""Data that lies elsewhere: fetched into a cache of the user's own, whole or not at all; never run.

::

    addresses.py   what is an address; how it is shown and filed without its secrets
    web.py         one GET: redirects, ranges, packed bodies, what a status means
    stores.py      S3 and Google Cloud Storage, through pyarrow
    hub.py         data sets of the Hugging Face hub, at a commit
    keep.py        the cache: partial files, checksums, one process at a time
    fetch.py       an address -> files of the cache
    exact.py       one file whose size is known before: shards of a stream
"""
