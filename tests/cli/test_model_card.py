"""README.md of a trained model: valid metadata, code that runs, no empty section, the base's licence."""

import re
import shutil

import pytest
from huggingface_hub import ModelCard

from ift.lab.testbed import tiny_base_path
from ift.models.record import ModelRecord, write_record
from ift.runs.model_card import _licence, _licence_words, shown_base

CARD = "---\nlicense: apache-2.0\n---\n# base\n"


@pytest.mark.parametrize("lora", [True, False])
def test_the_card_of_a_trained_model(run_tiny, chat_model, tmp_path, lora, capfd, monkeypatch):
    """Its code is run, in the folder above the model."""
    base = shutil.copytree(chat_model, tmp_path / "base")
    (base / "README.md").write_text(CARD)
    done = run_tiny(
        model_name_or_path=base, adam_beta2=0.95, adam_beta1=0.9, **({"use_peft": "true"} if lora else {})
    )
    assert done.code == 0, done.err
    card = ModelCard.load(done.folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == ("peft" if lora else "transformers")
    assert {"ift", "trl"} <= set(card.data.tags)
    assert card.data.pipeline_tag == "text-generation"
    sections = re.split(r"^## ", card.text, flags=re.M)[1:]
    assert [one.partition("\n")[0] for one in sections] == [
        "How to load it", "Data", "Method", "Versions", "License", "Citation",
    ]  # fmt: skip
    assert all(len(one.partition("\n")[2].strip()) > 20 for one in sections)
    assert "None" not in card.text
    assert str(tmp_path) not in card.content
    assert "trained tokens" in card.text
    assert "| `residual_lambda` | 0.2 |" in card.text
    assert "| `adam_beta2` | 0.95 |" in card.text
    assert "adam_beta1" not in card.text  # the usual value
    assert ("| `lora_r` | 16 |" in card.text) == lora
    assert ("max_new_tokens=64, eos_token_id=[" in card.text) == lora  # peft saves no generation config
    (code,) = re.findall(r"```python\n(.*?)```", card.text, flags=re.S)
    monkeypatch.chdir(done.folder.parent)
    capfd.readouterr()
    exec(compile(code, "card", "exec"), {})
    assert capfd.readouterr().out.endswith("\n")


@pytest.mark.parametrize("card", ["as ift writes it", "of another tool", "none"])
def test_a_merged_model_has_a_card_of_its_own(run_tiny, ift, chat_model, tmp_path, monkeypatch, capfd, card):
    """With what the adapter's card says about the training; its code is run."""
    base = shutil.copytree(chat_model, tmp_path / "base")
    (base / "README.md").write_text(CARD)
    done = run_tiny(model_name_or_path=base, use_peft="true")
    assert done.code == 0, done.err
    if card != "as ift writes it":
        (done.folder / "README.md").unlink()
    if card == "of another tool":
        (done.folder / "README.md").write_text("---\nlicense: mit\n---\n# x\n\n## Uses\n\nMore is needed\n")
    merged = tmp_path / "merged"
    assert ift("merge", done.folder, output_dir=merged).code == 0
    found = ModelCard.load(merged / "README.md")
    headings = re.findall(r"^## (.+)$", found.text, flags=re.M)
    assert found.data.library_name == "transformers"
    assert "lora" not in found.data.tags
    what = f"The adapter `{done.folder.name}`, merged by `ift merge` into its base, `base` (a local folder"
    assert what in found.text
    assert "The weights are in float32." in found.text
    assert str(tmp_path) not in found.content
    if card == "as ift writes it":
        assert found.data.license == "apache-2.0"
        assert headings == ["How to load it", "Data", "Method", "Versions", "License", "Citation"]
        assert "| `lora_r` | 16 |" in found.text
    else:
        assert headings == ["How to load it"]
        assert found.data.license == ("mit" if card == "of another tool" else None)
    assert "peft" not in found.text.partition("## Versions")[0]
    (code,) = re.findall(r"```python\n(.*?)```", found.text, flags=re.S)
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    exec(compile(code, "card", "exec"), {})
    assert capfd.readouterr().out.endswith("\n")


@pytest.mark.parametrize(
    ("given", "other"), [("num_train_epochs", "max_steps"), ("max_steps", "num_train_epochs")]
)
def test_the_card_names_the_length_that_decided(run_tiny, given, other):
    done = run_tiny(**{"max_steps": -1, given: 2})
    text = ModelCard.load(done.folder / "README.md").text
    assert f"| `{given}` | 2" in text
    assert other not in text


def test_a_base_without_a_licence_is_to_be_filled_in(tmp_path):
    assert _licence(str(tmp_path)) == ""
    assert _licence_words("", "some/base").startswith(
        "To be filled in: no licence was found in the card of `base`"
    )


@pytest.mark.parametrize("name", ["tiny_base", "the folder"])
def test_a_base_in_the_package_is_no_local_folder(name):
    """Red when: the card asks for the Hub id of a model that the package brings along."""
    base = str(tiny_base_path()) if name == "the folder" else name
    assert shown_base(base, None) == "`tiny_base`, a tiny model in the package `intuitive-fine-tuning`"
    assert "a local folder" in shown_base("/somewhere/tiny_base", None)


def test_the_card_of_a_second_stage_names_the_first_model(tmp_path):
    """Red when: the card of `sft+dpo` says only that its base is a folder."""
    write_record(tmp_path, ModelRecord(trained_from="owner/base"))
    assert f"`{tmp_path.name}` (a local folder, trained from `owner/base`:" in shown_base(str(tmp_path), None)
