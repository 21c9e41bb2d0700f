"""Families of models through all methods, as the table in docs/methods.md says."""

import dataclasses
import re

import families
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from spunge import methods
from spunge.core.errors import InputError
from spunge.methods import checkpoint
from spunge.models import base_model


@pytest.fixture(scope="module", params=families.FAMILIES)
def case(request, tmp_path_factory):
    return request.param, case_of(request.param, tmp_path_factory.mktemp("family"))


def test_the_page_tells_what_each_method_makes_of_a_family(case):
    name, of_family = case
    found = families.row(name, [families.outcome(of_family, way) for way in families.WAYS])
    assert found in families.PAGE.read_text().splitlines(), "run python tests/families.py"


def case_of(name, folder):
    family = families.FAMILIES[name]
    return families.Case(family, family.build(folder), folder)


def test_an_adapter_for_files_that_lack_the_prefix(tmp_path):
    case = case_of("GPT-2, files as on the hub", tmp_path)
    config = peft.LoraConfig(target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True)
    adapted = peft.get_peft_model(case.plain(), config)
    adapted.save_pretrained(tmp_path / "adapter")
    vector = case.written(checkpoint.read(tmp_path / "adapter", case.base))
    found = families.logits(base_model.load(case.base, torch.float32, "cpu", vector))
    torch.testing.assert_close(found, families.logits(adapted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "targets", "module"),
    [
        (
            "GPT-2",
            ["lm_head"],
            "lm_head",
        ),  # the factors would change the output alone, the task vector the embedding too
        ("GPT-NeoX, Pythia", ["embed_in"], "gpt_neox.embed_in"),
        ("Mixtral", "all-linear", "model.layers.0.mlp.experts"),
    ],
)
def test_factors_that_are_no_change_of_one_tensor_are_refused(tmp_path, name, targets, module):
    case = case_of(name, tmp_path)
    with pytest.raises(InputError, match=rf"adapt {re.escape(module)}\S* of .*: name other modules"):
        families.with_gradients(case, trained="lora", lora_targets=targets)


def test_rmu_refuses_experts_that_the_files_hold_one_by_one(tmp_path):
    case = case_of("Mixtral", tmp_path)
    family = dataclasses.replace(case.family, weight="mlp.experts.down_proj")
    with pytest.raises(InputError, match=r"take in model\.layers\.0\.mlp\.experts\.down_proj, which is no tensor of"):
        families.with_rmu(dataclasses.replace(case, family=family))


def test_a_checkpoint_that_holds_one_parameter_under_two_names_is_refused(tmp_path):
    case = case_of("GPT-NeoX, Pythia", tmp_path)
    tensors = load_file(case.base.folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["embed_out.weight"] + 1
    (tmp_path / "checkpoint").mkdir()
    save_file(tensors, tmp_path / "checkpoint" / "model.safetensors")
    with pytest.raises(InputError, match=r"has embed_out\.weight and lm_head\.weight, which are one tensor"):
        checkpoint.read(tmp_path / "checkpoint", case.base)


def test_a_vector_that_changes_one_parameter_under_two_names_is_refused(tmp_path):
    case = case_of("GPT-NeoX, Pythia", tmp_path)
    change = dict.fromkeys(["embed_out.weight", "lm_head.weight"], torch.ones(320, 32))
    vector = case.written(methods.Unlearned(change, []))
    with pytest.raises(InputError, match=r"changes lm_head\.weight twice, as embed_out\.weight"):
        base_model.load(case.base, torch.float32, "cpu", vector)
