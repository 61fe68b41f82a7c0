"""The recipe: what to compute. Schema, loading, names from other tools."""
