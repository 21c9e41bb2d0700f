"""A trainer that knows nothing of spunge: gradient difference with transformers' own Trainer, saved as a checkpoint.

python train.py --model FOLDER --forget FILE.parquet --retain FILE.parquet --output FOLDER --steps 10 --seed 0
"""

import argparse

import pandas
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments


class GradientDifference(Trainer):
    """Raise the loss on what is to be forgotten, lower it on what is to be kept."""

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        loss = model(**inputs["retain"]).loss - model(**inputs["forget"]).loss
        return (loss, None) if return_outputs else loss


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "forget", "retain", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--steps", required=True, type=int)
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    arguments = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(arguments.model, padding_side="right")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    texts = {kind: pandas.read_parquet(getattr(arguments, kind))["text"].tolist() for kind in ("forget", "retain")}
    rows = [{kind: texts[kind][row % len(texts[kind])] for kind in texts} for row in range(len(texts["forget"]))]

    def collate(batch):
        result = {}
        for kind in texts:
            tokens = tokenizer([row[kind] for row in batch], padding=True, truncation=True, return_tensors="pt")
            labels = torch.where(tokens["attention_mask"].bool(), tokens["input_ids"], -100)
            result[kind] = {**tokens, "labels": labels}
        return result

    settings = TrainingArguments(
        output_dir=arguments.output,
        max_steps=arguments.steps,
        per_device_train_batch_size=4,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    GradientDifference(model, settings, train_dataset=rows, data_collator=collate).train()
    model.save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
