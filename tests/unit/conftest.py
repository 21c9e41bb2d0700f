"""A tiny model for every test that needs one."""

import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
import tiny_model

# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def signals_as_before():
    """A job that is done answers no signal any more, since it has only to exit; the next test is not done."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A Hugging Face folder of the tiny model, shared by all tests: read it, never write into it."""
    folder = tmp_path_factory.mktemp("tiny") / "hub"
    tiny_model.build(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tiny_folder):
    """The tiny model as the `model` rule prepares it, shared by all tests: read it, never write into it."""
    from spunge.models import base_model

    return base_model.prepare(str(tiny_folder), tiny_folder.with_name("prepared"))


@pytest.fixture
def hub(tmp_path, tiny_folder):
    """A Hugging Face folder of this test's own, to be spoiled."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "hub"))


@pytest.fixture(scope="module")
def model(tiny_base):
    """The tiny model in fp32, shared by a file's tests: run it, never change it."""
    import torch

    from spunge.models import base_model

    return base_model.load(tiny_base, torch.float32, "cpu")


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    """The tiny model's tokenizer, shared by a file's tests: never change it."""
    from spunge.models import base_model

    return base_model.load_tokenizer(tiny_base)


@pytest.fixture
def run_in(tiny_base):
    """Return a function that makes a shard's run, with its files in a folder, as scripts/unlearn.py does."""
    from spunge import methods

    def make(folder, forget, retain, label):
        (folder / "scratch").mkdir(parents=True)
        pd.DataFrame({"text": forget, "attribute": "a"}).to_parquet(folder / "forget.parquet")
        pd.DataFrame({"text": retain}).to_parquet(folder / "retain.parquet")
        return methods.Run(
            tiny_base,
            forget,
            retain,
            seed=3,
            device="cpu",
            label=label,
            split="attribute",
            shard="a",
            forget_file=folder / "forget.parquet",
            retain_file=folder / "retain.parquet",
            scratch=folder / "scratch",
        )

    return make
