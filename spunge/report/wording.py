"""The sentences of the findings: a template holds their words, and Python gives it numbers and facts."""

import functools
import re
from pathlib import Path

import jinja2

SENTENCES = Path(__file__).parent / "findings.txt"


def sentence(macro: str, facts: object) -> str:
    """Return the sentence that a macro of findings.txt makes of facts: plain text in one line, unescaped."""
    return re.sub(r"\s*\n\s*", " ", getattr(_macros(), macro)(facts)).strip()


@functools.cache
def _macros():
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(SENTENCES.parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(SENTENCES.name).module
