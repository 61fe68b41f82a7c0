"""Train any Transformer in large batches, and get the same model whichever way the work was split."""

__version__ = "0.1.0"
