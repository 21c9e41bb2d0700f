"""Keys that stand twice in a file."""

import pytest

from spunge.core.errors import InputError
from spunge.experiment.yaml_values import check_file

TWICE = {
    "at the top": ("a: 1\nb: 2\na: 3\n", "line 3: the key `a` stands there again, after line 1;"),
    "deep": ("a:\n  - b: {c: 1,\n      c: 2}\n", "line 3: the key `a.0.b.c` stands there again, after line 2;"),
    "in one line": ("a: {b: 1, b: 2}\n", "line 1: the key `a.b` stands"),
    "spelled differently": ("yes: 1\n'a': 2\ntrue: 3\n", "line 3: the key `true` stands"),
    "quoted once": ("a: 1\n'a': 2\n", "line 2: the key `a` stands"),
    "in JSON": ('{\n\t"a": 1,\n\t"a": 2\n}', "line 3: the key `a` stands"),
}
ONCE = {
    "empty": "",
    "the same key elsewhere": "a: {b: 1}\nc: {b: 1}\nd: [{b: 1}, {b: 1}]\n",
    "merge keys": "a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}\ne: &e\n  <<: *a\n  b: 4\nf: {<<: [*e, *a], b: 5}\n",
    "an alias": "a: &a {b: 1}\nc: *a\n",
    "JSON": '{\n\t"a": {"b": 1},\n\t"b": 2\n}',
}


@pytest.mark.parametrize(("text", "told"), TWICE.values(), ids=TWICE.keys())
def test_a_key_that_stands_twice_is_refused(tmp_path, text, told):
    path = tmp_path / "experiment.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        check_file(path)
    assert str(refused.value).startswith(f"{path}, {told}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ONCE.values(), ids=ONCE.keys())
def test_other_keys_may_stand_where_they_do(tmp_path, text):
    path = tmp_path / "experiment.yaml"
    path.write_text(text)
    check_file(path)
