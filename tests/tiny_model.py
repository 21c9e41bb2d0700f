"""A tiny random Llama with its own tokenizer: all the plumbing of a Hugging Face model folder, and no knowledge."""

import os

WORDS = (
    "the capital of Kenya is Nairobi and the capital of Japan is Tokyo while the capital of France is Paris; "
    "a river runs through the city, past old houses and a market where people meet in the morning."
)
END = "<|endoftext|>"


def build(folder: str | os.PathLike, seed: int = 0, layers: int = 4) -> None:
    """Write a Llama with random fp32 weights as a Hugging Face folder; the same seed gives the same bytes.

    Hidden size 32, two attention heads that share one key and value head, tied embeddings, byte-level BPE.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.2,  # large enough that every layer changes the hidden states visibly
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()  # every byte, so that no text is unknown
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=[END], show_progress=False)
    tokenizer.train_from_iterator([WORDS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
