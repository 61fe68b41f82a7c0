"""oneDNN keeps few of the programs that it writes for matrix products.

It writes one for every shape, and micro-batches without padding have nearly as many shapes as there are of them. By
default it and torch's layer above it keep 1,024 each, of about a MiB: a run's memory would double. The shapes of one
micro-batch, some ten, are all that is worth keeping; writing them anew takes no time that could be measured.

The libraries read these variables once, when torch is loaded: `import bigbatch` sets them first of all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Container, MutableMapping

FEW = {"LRU_CACHE_CAPACITY": "16", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16"}


def keep_few(environ: MutableMapping[str, str], loaded: Container[str]) -> bool:
    """Have few programs kept in this process and those that it starts.

    Args:
        environ: of this process. What the user has set stays.
        loaded: names of the modules that are loaded.

    Returns:
        Whether few are kept, or as many as the user wants; False: torch had been loaded before.
    """
    if "torch" in loaded and not all(name in environ for name in FEW):
        return False
    for name, count in FEW.items():
        environ.setdefault(name, count)
    return True


FEW_ARE_KEPT = keep_few(os.environ, sys.modules)
"""Whether oneDNN's memory is bounded in this process."""
