"""tools/versions.py: which versions it tests."""

import re

import versions


def test_the_oldest_are_the_lower_bounds_and_the_newest_what_is_allowed(tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\ndependencies = ["transformers>=5.1,<6", "trl>=1.2.1,<2", "accelerate>=1", "peft>=0.3"]\n'
    )
    assert versions.requirements("oldest", project) == [
        "trl==1.2.1",
        "transformers==5.1",
        "accelerate==1",
        "peft==0.3",
    ]
    newest = ["trl>=1.2.1,<2", "transformers>=5.1,<6", "accelerate>=1", "peft>=0.3"]
    assert versions.requirements("newest", project) == newest


def test_each_of_the_projects_has_a_lower_bound():
    """Red when: a bound is dropped, and with it the test of the oldest version."""
    assert [re.split("==", one)[0] for one in versions.requirements("oldest")] == list(versions.PACKAGES)
