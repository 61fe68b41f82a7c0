"""The model room: load a model with the task's head, know its parts, run it padded or packed, write it out.

::

    model/
    ├── anatomy.py     embeddings, block applications, norm, head, tied weights: found by one small trial run
    ├── tokenizer.py   load a tokenizer
    ├── dit.py         a diffusion transformer: velocities of noisy images
    ├── letters.py     tokenizers of nucleotides and amino acids
    ├── names.py       parameter names without wrapper prefixes; tied tensors once
    ├── layout.py      where each sample of a packed micro-batch lies; computed once a micro-batch
    ├── attention.py   attention over packed samples, behind transformers' attention interface
    ├── patterns.py    which tokens of a sample see which; handed down to attention by a hook
    ├── memory.py      tokens in front of a piece that are read without gradient
    ├── narrowed.py    a model that is given a pattern: whether it can have one, and does what it says
    ├── sparse.py      attention by a pattern in tiles: pairs that nobody sees are never computed
    ├── pieces.py      attention over a pack in pieces: all pairs, or those of a pattern
    ├── feeds.py       what a model is fed from a micro-batch, padded or packed, and where each unit's output is
    ├── pairs.py       an encoder's and a decoder's streams, packed: layouts, positions, T5's bias
    ├── runner.py      Runner: a module, how it is fed and how its outputs are read
    ├── packing.py     can_pack: by structure and a trial
    ├── logits.py      in front of logits that nobody reads whole
    ├── encoder.py     a model without head: the states of tokens
    ├── pooling.py     states of tokens -> one vector a text
    ├── source.py      folders and hub names; errors of transformers in our words
    ├── folder.py      which files of a model folder may be opened, and a view of it that has no others
    ├── clean.py       configurations without the keys that name code, other files, or ways to compute
    ├── size.py        parameters counted before they are allocated
    ├── new_head.py    new layers for another number of labels
    ├── adapters.py    low-rank adapters: which layers, put in, merged
    ├── quantised.py   linear layers in 8 or 4 bits, for adapters beside them
    ├── adapter_folder.py  folders of adapters as PEFT has them, read and written
    ├── load.py        load_model: weights, head, labels
    ├── adjust.py      dropout, trainable patterns, configuration overrides
    ├── low_entropy.py  cross-entropy over a vocabulary whose product is made in 16 bits
    ├── sequential.py  models over items, and the tokenizer that knows each by its name
    ├── vision.py      models that look at images: their size and positions, and what cannot be split
    ├── checks.py      pad token, vocabulary, positions against the tokenizer and the data
    ├── untouched.py   running a model without leaving a trace in it
    ├── sentence_files.py  the files with which sentence-transformers opens a folder
    └── export.py      save_model: a folder that opens with transformers
"""
