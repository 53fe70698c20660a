"""What counts of a file of the user's own: a change of something else does not make it another function."""

import hashlib

import pytest

from ift.user_code import code_sha256, code_that_counts, file_sha256

CODE = '''"""Weights."""

import torch

SCALE = 2.0


def helper(losses):
    return losses * SCALE


# weights that grow
def first(losses, layout):
    return helper(losses).detach()


def second(losses, layout):
    return torch.ones_like(losses)
'''


def counts(code, *functions):
    return code_that_counts(code.encode(), functions or ["first"]).decode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.ones_like(losses)", "losses.detach()"),  # another function
        ("\n\ndef second", "\n\n# about it\ndef second"),  # its comment
        ("    return torch.ones_like(losses)\n", "    return 1\n\n\ndef third():\n    return second()\n"),
        ('"""Weights."""\n', '"""Weights."""\n\n\nasync def zeroth(x: int = 3) -> None:\n    return None\n'),
    ],
)
def test_a_function_that_is_not_used_does_not_count(old, new):
    assert old in CODE
    assert counts(CODE.replace(old, new)) == counts(CODE)
    assert "second" not in counts(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("helper(losses).detach()", "helper(losses).detach() + 1"),  # the function
        ("losses * SCALE", "losses * SCALE ** 2"),  # one that it calls
        ("SCALE = 2.0", "SCALE = 3.0"),  # a constant
        ("import torch", "import torch\n\ntorch.manual_seed(1)"),  # a statement that runs at the import
        ("import torch", "import torch as t"),
        ("def second", "@torch.no_grad()\ndef second"),  # its decorator runs at the import
        ("def second(losses, layout)", "def second(losses, layout=print(1))"),  # and so does this
        ("helper(losses).detach()", "helper(losses).detach() * second(losses, layout)"),
        ("helper(losses).detach()", "globals()['sec' + 'ond'](losses, layout)"),  # found as the code runs
        ("SCALE = 2.0", "SCALE = 2.0\nTABLE = {'s': 'second'}"),  # a name in a string may be looked up
    ],
)
def test_what_the_function_may_use_counts(old, new):
    assert old in CODE
    assert counts(CODE.replace(old, new)) != counts(CODE)


def test_functions_that_use_each_other_are_followed():
    chain = CODE.replace("losses * SCALE", "third(losses)") + "\n\ndef third(losses):\n    return losses\n"
    assert "def third" in counts(chain)
    assert "def second" not in counts(chain)
    assert counts(CODE, "first", "second") == CODE


@pytest.mark.parametrize("code", ["def first(:\n", "first = 1\n", ""])
def test_all_of_a_file_counts_where_nothing_can_be_left_out(code):
    assert counts(code) == code


def test_the_hash_of_a_file_with_one_function_is_that_of_its_bytes(tmp_path):
    """So that studies and runs of earlier versions go on."""
    file = tmp_path / "w.py"
    file.write_text(CODE.partition("\n\ndef second")[0] + "\n")
    whole = hashlib.sha256(file.read_bytes()).hexdigest()
    assert file_sha256(str(file)) == file_sha256(f"{file}:first") == code_sha256(file, ["first"]) == whole
    assert file_sha256("first") == file_sha256(f"{tmp_path}/no.py:first") == file_sha256("") == ""
    file.write_text(CODE)
    assert file_sha256(f"{file}:second") != file_sha256(f"{file}:first") != file_sha256(str(file))
