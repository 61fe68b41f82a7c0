"""Files' rows and objects -> tokens and targets -> order -> packs. numpy and pyarrow; never torch at import.

::

    sources.py      files and objects of any kind -> one DataTable with a column per role
    values.py       values in the form of their role: text, class name, class names, number
    conversations.py  conversations of every form as one column (`bigbatch.turns`)
    talks.py      preferences whose prompt and answers are lists of messages
    objects.py      lists of dicts, pandas, datasets.Dataset, map-style torch datasets
    tables.py       DataTable: role-named columns, and which file and row each came from
    columns.py      which column plays which role: the recipe's mapping, or the usual names
    labels.py       label sets: integers in numerical order, the rest as text
    checks.py       what is wrong with the splits, before update 1
    item_windows.py histories of items in windows that a model can see
    blocks.py       the samples that language models are trained in, cut out of tokenised documents
    masks.py        which tokens are masked, by (seed, epoch, sample)
    lists.py        candidates of a query -> a row a query -> samples that stay together
    histories.py    events of users -> a row a user, with what earlier splits say in front
    token_rows.py   what is wrong with rows that come as token ids
    split.py        a stratified share for validation
    fingerprint.py  the content of a table as one hash
    tokens.py       DataTable -> Table through a task, kept in the token cache
    cache.py        the cache's files: raw arrays and a JSON header, checksummed, written atomically
    order.py        the order of an epoch, as arithmetic
    noise.py        normal numbers of samples
    mixture.py      the order of several sources by share
    shards.py       the order of a split in many files
    parked.py       rows of one file on the disk, mapped
    shard_tokens.py tokens of many files: an entry of the cache each, and one of all
    published.py    tokens as files that are streamed: their index
    shelf.py        shards of a stream on this machine: brought ahead, checked, put away
    streamed.py     a table whose columns lie on that shelf
    joining.py      tables of several files as one
    batches.py      global batches: which samples an update consumes
    packs.py        micro-batches: how a global batch is cut for the machine
    random_parts.py a global batch in random parts, for the gradient noise scale
    texts.py        samples of several texts each, text by text
    boxes.py        what stands in a unit of an image with boxes
    pixels.py       bytes of an image -> pixels
    augment.py      images changed at random, by (seed, epoch, sample)
    rand_augment.py 14 changes of colours and shape
    mixing.py       two images as one, with both of their classes
    windows.py      windows of a question's text as samples of their own
    lengths.py      counts, percentiles and padding
    guess.py        what a file seems to be, for `bigbatch init`
    first.py        the first row of anything, before its columns have a meaning
    sampled.py      a fixed sample of the rows that it looks at
    language.py     which language texts are in, and how many words and tokens they are
"""
