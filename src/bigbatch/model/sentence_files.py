"""The files with which sentence-transformers opens a model folder and gives the same embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping

from bigbatch.model.pooling import MODES


def folder_files(
    *, width: int, pooling: str, similarity: str, max_length: int | None, prefixes: Mapping[str, str]
) -> dict[str, str]:
    """Path in the folder -> content.

    Args:
        width: of an embedding.
        pooling: mean, first or last.
        similarity: cosine (embeddings of length 1) or dot.
        max_length: tokens kept of a text.
        prefixes: of queries and documents.
    """
    kinds = ["Transformer", "Pooling", *(["Normalize"] if similarity == "cosine" else [])]
    modules = [
        {
            "idx": place,
            "name": str(place),
            "path": "" if place == 0 else f"{place}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for place, kind in enumerate(kinds)
    ]
    modes = {"word_embedding_dimension": width, **{name: mode == pooling for name, mode in MODES.items()}}
    contents: dict[str, object] = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": {name: prefix for name, prefix in prefixes.items() if prefix},
            "default_prompt_name": None,
            "similarity_fn_name": similarity,
        },
    }
    return {name: json.dumps(content, indent=2) + "\n" for name, content in contents.items()} | {
        "1_Pooling/config.json": json.dumps(modes, indent=2) + "\n",
        **({"2_Normalize/config.json": "{}\n"} if similarity == "cosine" else {}),
    }
