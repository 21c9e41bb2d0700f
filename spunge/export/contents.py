"""Which files make an exported folder."""

# What a model needs besides its weights; a base folder may hold more, such as its own evaluations.
COPIED = ["generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*"]
COPIED += ["merges.txt", "*.model", "*.jinja", "chat_template.json", "preprocessor_config.json"]
COPIED += ["processor_config.json", "LICENSE*", "NOTICE*"]
WEIGHTS = "model{suffix}.safetensors"
INDEX = "model.safetensors.index.json"
CARD, CONFIG, MERGEKIT = "README.md", "config.json", "mergekit.yaml"
TOKENIZER_CONFIG = "tokenizer_config.json"
WEIGHT_FILES = ["model.safetensors", "model-*-of-*.safetensors", INDEX]
EXPORTED = [*WEIGHT_FILES, CONFIG, *COPIED, CARD, MERGEKIT]
