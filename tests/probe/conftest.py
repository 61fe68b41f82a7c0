"""The fixture `small`: a tiny classifier with its anatomy."""

from tests.small import small

__all__ = ["small"]
