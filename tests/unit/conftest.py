"""A tiny model for every test that needs one."""

import signal

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
