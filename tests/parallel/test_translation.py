"""Translation among ranks: gradients are those of one process, texts and figures do not depend on who writes them."""

from __future__ import annotations

import pytest

EQUALITY = "tests.parallel.translation_jobs:equality"
EVALUATED = "tests.parallel.translation_jobs:evaluated"
SHARD = {"plan": {"mesh": {"shard": 2}}}


@pytest.mark.world_size(2)
@pytest.mark.parametrize("dtype", ["fp64", "fp32"])
@pytest.mark.parametrize(("family", "keys"), [("bart", {}), ("bart", SHARD), ("t5", SHARD)], ids=str)
def test_ranks_and_a_divided_model_equal_the_whole_batch(ranks, tmp_path, family, keys, dtype):
    found = ranks.run(EQUALITY, 2, tmp_path, family=family, dtype=dtype, **keys)
    assert found[0]["error"] <= found[0]["bound"]
    assert found[0]["tensor"] <= 1


@pytest.mark.world_size(2)
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_ranks_write_the_same_texts_alone_together_and_divided(ranks, tmp_path, family):
    pytest.importorskip("sacrebleu", reason="an extra: bigbatch[seq2seq]")
    keys = {"family": family, "metrics": ["bleu", "chrf", "perplexity"]}
    alone = ranks.run(EVALUATED, 1, tmp_path, **keys)
    together = ranks.run(EVALUATED, 2, tmp_path, **keys)
    divided = ranks.run(EVALUATED, 2, tmp_path, **keys, **SHARD)
    assert all(each == alone[0] for each in (*together, *divided))
    assert len({tuple(ids) for ids in alone[0]["texts"]}) > 3
