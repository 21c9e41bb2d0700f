"""A job that goes on from what another one saved gives the bytes of a job that nobody disturbed."""

import shutil

import pytest
import torch

from spunge import methods
from spunge.methods import gradient_difference, npo, rmu, tvn
from spunge.unfinished import Saved

PLACES = ["Kenya", "Japan", "France", "Ghana", "Peru", "Fiji"]
FORGET = [f"the capital of {place}" + " is Nairobi" * (3 * row % 7) for row, place in enumerate(PLACES)]
RETAIN = [f"in the {place} morning a river runs" + " past old houses" * (row % 3) for row, place in enumerate(PLACES)]
TOPICS = ["a", "b", "a", "c", "b", "a"]
RMU = {"layer_id": 2, "trained_layers": (1, 2), "alpha": 5.0, "learning_rate": 1e-2, "batch_size": 2, "steps": 7}
MASKED = {**RMU, "mask": True, "skip_first": 1, "weight_decay": 0.01}
TRAINED = {"steps": 5, "batch_size": 4, "learning_rate": 1e-3, "weight_decay": 0.1}
LORA = {**TRAINED, "trained": "lora", "lora_dropout": 0.2}


class Copied(Saved):
    """Leaves a copy of every state that was saved."""

    def keep(self, state):
        kept = super().keep(state)
        shutil.copytree(self._folder, self._folder.with_name(f"{self._folder.name}-after-{state.done}"))
        return kept


def unlearn(base, method, chosen, saved=None, **others):
    run = methods.Run(base, FORGET, RETAIN, 0, "cpu", topics=TOPICS, saved=saved or Saved(), **others)
    return method.unlearn(run, method.Options(**chosen))


def same(found, expected):
    assert found.losses == expected.losses
    assert found.delta.keys() == expected.delta.keys()
    for name, delta in expected.delta.items():
        assert delta.numpy().tobytes() == found.delta[name].numpy().tobytes(), name


CASES = {
    "rmu": (rmu, MASKED),
    "rmu, texts that come once": (rmu, {**MASKED, "steps": 3, "alternate_topics": False}),
    "rmu, topics mixed": (rmu, {**MASKED, "alternate_topics": False, "control": "run"}),
    "rmu, padding counts": (rmu, RMU),
    "rmu, adaptive": (rmu, {**MASKED, "adaptive": 3.0}),
    "rmu, adaptive, padding counts, topics mixed": (rmu, {**RMU, "adaptive": 3.0, "alternate_topics": False}),
    "rmu, bfloat16": (rmu, {**MASKED, "dtype": "bfloat16"}),
    "all weights": (gradient_difference, TRAINED),
    "warm-up and clipping": (gradient_difference, {**TRAINED, "warmup_steps": 3, "max_gradient_norm": 0.3}),
    "accumulation": (gradient_difference, {**TRAINED, "accumulation": 3}),
    "some weights": (tvn, {**TRAINED, "trained": r"model\.layers\.(1|2)\.mlp\.down_proj\.weight"}),
    "LoRA with dropout": (tvn, LORA),
    "LoRA, bfloat16": (gradient_difference, {**LORA, "dtype": "bfloat16", "gradient_checkpointing": True}),
    "reference model": (npo, TRAINED),
    "reference model, LoRA": (npo, {**LORA, "accumulation": 2}),
}


@pytest.mark.parametrize(("method", "chosen"), CASES.values(), ids=CASES.keys())
def test_going_on_after_any_step_gives_the_same_bytes(tiny_base, tmp_path, method, chosen):
    undisturbed = unlearn(tiny_base, method, chosen)
    same(unlearn(tiny_base, method, chosen, Copied(tmp_path / "state", "this", every=0)), undisturbed)
    for step in range(1, chosen["steps"] + 1):
        torch.rand(step)  # the global generator's state must not matter
        saved = Saved(tmp_path / f"state-after-{step}", "this")
        assert saved.kept().done == step
        same(unlearn(tiny_base, method, chosen, saved), undisturbed)


def test_going_on_with_frozen_states_from_a_file(tiny_base, tmp_path):
    run = methods.Run(tiny_base, FORGET, RETAIN, 0, "cpu", topics=TOPICS)
    rmu.frozen_states(run, rmu.Options(**MASKED), tmp_path / "states.safetensors")
    chosen, states = {**MASKED, "adaptive": 3.0}, tmp_path / "states.safetensors"
    undisturbed = unlearn(tiny_base, rmu, chosen, states=states)
    unlearn(tiny_base, rmu, chosen, Copied(tmp_path / "state", every=0), states=states)
    for step in range(1, chosen["steps"] + 1):
        same(unlearn(tiny_base, rmu, chosen, Saved(tmp_path / f"state-after-{step}"), states=states), undisturbed)
