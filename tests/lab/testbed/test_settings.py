"""The settings: the same rows every time, exactly as much noise as promised, settings that differ in one thing."""

import pytest

from ift.lab.testbed.settings import NOISES, SIZES, right_problems, rows_hash, setting_problems, settings

PINNED = {  # hashes of all rows of the small settings at seed 0
    "arithmetic-small-clean": "07e11cd76609bfb06e8ae631862bc3c21096edd2e7b156634cf6b3583114fded",
    "arithmetic-small-noisy": "26d7715c2b5621691f07bdecf67297e4c6b6a6454d7690fd045fda89684a47ec",
    "relation-small-clean": "e8da3380ee3b8259f5a9a4af94523fa8521841a23f3d29f802887b0ecc563a12",
    "relation-small-noisy": "2626fdc72c78674c89a6e94738fd952b24e9f56ce6fc3e7589befbe33c21aebf",
}


def test_every_combination_has_a_name():
    made = settings()
    assert len(made) == 2 * len(SIZES) * len(NOISES) == 8
    assert made["relation-large-noisy"].n_rows == SIZES["large"]
    assert made["relation-large-noisy"].noise == NOISES["noisy"]
    assert all(name == setting.name for name, setting in made.items())


@pytest.mark.parametrize("name", settings())
def test_noise_is_exactly_the_share_and_changes_solutions_only(name):
    setting = settings()[name]
    right, made = right_problems(setting, 1), setting_problems(setting, 1)
    assert len(made) == setting.n_rows
    assert [problem.question for problem in made] == [problem.question for problem in right]
    wrong = [a for a, b in zip(made, right, strict=True) if a != b]
    assert len(wrong) == round(setting.noise * setting.n_rows)
    assert all(a.answer != b.answer for a, b in zip(made, right, strict=True) if a != b)


def test_small_is_the_beginning_of_large():
    made = settings()
    for family in ("arithmetic", "relation"):
        small, large = (setting_problems(made[f"{family}-{size}-clean"]) for size in ("small", "large"))
        assert large[: len(small)] == small


def test_hash_by_hand():
    """The SHA-256 of `{"a": 1}` and a line feed."""
    assert rows_hash([{"a": 1}]) == "e8c628edc9968ef0c668f54e0ba2636b35503357eb1aca0ddc828aeace432f67"


@pytest.mark.parametrize(("name", "sha256"), PINNED.items())
def test_rows_are_pinned(name, sha256):
    assert rows_hash([problem.row for problem in setting_problems(settings()[name])]) == sha256
