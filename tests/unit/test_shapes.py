"""A model's sizes before it is loaded: from its folder, its name or the hub."""

import json

import pytest

from spunge.models import shapes


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ({"model_type": "llama", "tie_word_embeddings": True, "num_key_value_heads": 3}, 134_515_008),
        ({"model_type": "qwen2", "tie_word_embeddings": True, "num_key_value_heads": 3}, 134_543_808),
        ({"model_type": "gpt2"}, None),
        ({"model_type": "llama", "head_dim": 128}, None),
    ],
)
def test_shapes_are_read_from_a_model_folder(tmp_path, config, parameters):
    sizes = {"hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536, "num_attention_heads": 9}
    (tmp_path / "config.json").write_text(json.dumps(sizes | {"vocab_size": 49152} | config))
    shape, origin = shapes.of_source(str(tmp_path), tmp_path / "models")
    assert shape.parameters == parameters if parameters else shape == shapes.UNKNOWN
    assert origin == "by its config.json" if parameters else str(tmp_path) in origin


def test_known_and_unknown_models(tmp_path, monkeypatch):
    shape, _ = shapes.of_source("HuggingFaceH4/zephyr-7b-beta", tmp_path)
    assert shape.parameters == 7_241_732_096
    assert shapes.LLAMA_3_2_1B.parameters == 1_235_814_400
    assert shapes.LLAMA_3_8B.parameters == 8_030_261_248
    assert shapes.QWEN_2_5_1_5B.parameters == 1_543_714_304, "with biases"
    shape, origin = shapes.of_source("wheel:other==1.0", tmp_path)
    assert shape == shapes.UNKNOWN and "before it is prepared" in origin
    monkeypatch.setattr(shapes, "from_hub", lambda source, revision: None)
    shape, origin = shapes.of_source("somebody/model", tmp_path)
    assert shape == shapes.UNKNOWN and "can't be had openly" in origin
    monkeypatch.setattr(shapes, "from_hub", lambda source, revision: {"model_type": "gemma3_text"})
    shape, origin = shapes.of_source("somebody/model", tmp_path)
    assert shape == shapes.UNKNOWN and "somebody/model is of the kind gemma3_text" in origin
