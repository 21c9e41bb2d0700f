"""Which files make an exported folder."""

# What a model needs besides its weights; a base folder may hold more, such as its own evaluations.
LOADED = ["generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*"]
LOADED += [
    "merges.txt",
    "*.model",
    "*.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
]
COPIED = [*LOADED, "LICENSE*", "NOTICE*"]
WEIGHTS = "model{suffix}.safetensors"
INDEX = "model.safetensors.index.json"
CARD, CONFIG, MERGEKIT = "README.md", "config.json", "mergekit.yaml"
TOKENIZER_CONFIG = "tokenizer_config.json"
WEIGHT_FILES = ["model.safetensors", "model-*-of-*.safetensors", INDEX]
EXPORTED = [*WEIGHT_FILES, CONFIG, *COPIED, CARD, MERGEKIT]
