"""A tiny random BERT that tells two classes apart by nothing at all, and a tokenizer for it in a folder of its own."""

import os
import string

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LONGEST = 24  # tokens: longer texts must be truncated, for there are no more positions


def build(folder: str | os.PathLike, seed: int = 0) -> None:
    """Write a BERT with two classes and random fp32 weights as safetensors, without a tokenizer.

    Its scores spread over 0 to 1; the same seed gives the same bytes. Token ids are those of `build_tokenizer`.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LONGEST,
        initializer_range=0.5,  # large enough that scores differ from text to text
        num_labels=2,
        pad_token_id=0,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
    model.save_pretrained(folder)


def build_tokenizer(folder: str | os.PathLike) -> None:
    """Write a tokenizer of lower-case characters, as BERT's own: [CLS] before a text and [SEP] after it."""
    from transformers import BertTokenizer

    vocabulary = {token: number for number, token in enumerate(_vocabulary())}
    BertTokenizer(vocab=vocabulary, model_max_length=LONGEST).save_pretrained(folder)


def _vocabulary() -> list[str]:
    characters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    return [*SPECIAL, *characters, *(f"##{character}" for character in characters)]
