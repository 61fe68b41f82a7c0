"""As transformers' documentation trains a tagger of words; MODEL, DATA, DTYPE and OUT are given."""

import numpy as np
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    TrainingArguments,
)
from transformers import Trainer

names = ["O", "B-corporation", "I-corporation", "B-person", "I-person"]
features = Features({"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=names))})
wnut = Dataset.from_list(DATA, features=features).train_test_split(test_size=0.25, seed=1)
label_list = wnut["train"].features["ner_tags"].feature.names
tokenizer = AutoTokenizer.from_pretrained(MODEL)


def tokenize_and_align_labels(examples):
    tokenized_inputs = tokenizer(examples["tokens"], truncation=True, is_split_into_words=True)
    labels = []
    for i, label in enumerate(examples["ner_tags"]):
        word_ids = tokenized_inputs.word_ids(batch_index=i)
        previous_word_idx = None
        label_ids = []
        for word_idx in word_ids:
            if word_idx is None or word_idx == previous_word_idx:
                label_ids.append(-100)
            else:
                label_ids.append(label[word_idx])
            previous_word_idx = word_idx
        labels.append(label_ids)
    tokenized_inputs["labels"] = labels
    return tokenized_inputs


tokenized = wnut.map(tokenize_and_align_labels, batched=True)
data_collator = DataCollatorForTokenClassification(tokenizer=tokenizer)


def compute_metrics(p):
    predictions, labels = p
    predictions = np.argmax(predictions, axis=2)
    pairs = [
        (label_list[p], label_list[l])
        for prediction, label in zip(predictions, labels)
        for (p, l) in zip(prediction, label)
        if l != -100
    ]
    return {"accuracy": sum(found == wanted for found, wanted in pairs) / len(pairs), "words": len(pairs)}


id2label = dict(enumerate(names))
model = AutoModelForTokenClassification.from_pretrained(
    MODEL, num_labels=5, id2label=id2label, label2id={name: i for i, name in id2label.items()}, dtype=DTYPE
)

training_args = TrainingArguments(
    output_dir=OUT,
    learning_rate=2e-5,
    per_device_train_batch_size=16,
    per_device_eval_batch_size=16,
    num_train_epochs=2,
    weight_decay=0.01,
    eval_strategy="epoch",
    save_strategy="epoch",
    load_best_model_at_end=True,
    use_cpu=True,
)

trainer = Trainer(
    model=model,
    args=training_args,
    train_dataset=tokenized["train"],
    eval_dataset=tokenized["test"],
    processing_class=tokenizer,
    data_collator=data_collator,
    compute_metrics=compute_metrics,
)

trainer.train()
results = trainer.evaluate()
predictions = trainer.predict(tokenized["test"])
