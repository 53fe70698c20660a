"""`ift merge`: the folder appears only if the merged model gives the adapter's outputs."""

import json

import pytest
import torch

from ift.models import merging
from ift.models.loading import LoadOptions, load_network
from ift.models.outputs import compute_logits

LORA = {"use_peft": "true", "lora_r": 2, "lora_target_modules": "all-linear", "learning_rate": 0.1}
FLOAT32 = LoadOptions(dtype="float32")


def test_a_merged_adapter_gives_the_same_outputs_and_stops_where_the_template_ends(
    run_tiny, ift, write_rows, tmp_path
):
    """The tiny template ends a turn with <|im_end|>, id 4; the base alone stops at </s>, id 1."""
    trained = run_tiny(**LORA)
    assert trained.code == 0, trained.err
    done = ift("merge", trained.folder, output_dir=tmp_path / "deep" / "merged", rows=write_rows("Alpaca"))
    assert done.code == 0, done.err
    assert "on 3 rows of " in done.out
    merged = tmp_path / "deep" / "merged"
    ids = [list(range(5, 40))]
    both = [compute_logits(load_network(str(one), FLOAT32), ids)[0] for one in (trained.folder, merged)]
    torch.testing.assert_close(*both, atol=1e-4, rtol=1e-4)
    assert not (merged / "adapter_config.json").exists()
    assert {1, 4} <= set(json.loads((merged / "generation_config.json").read_text())["eos_token_id"])
    assert [path.name for path in merged.parent.iterdir()] == ["merged"]
    assert f"chat      ift chat {merged}\n" in done.out
    assert f"push      hf upload USER/{merged.name} {merged}\n" in done.out
    modes = {path.name: path.stat().st_mode for path in (*merged.iterdir(), *trained.folder.glob("*.*"))}
    assert len(set(modes.values())) == 1, modes  # safetensors writes files for their owner alone
    assert ift("chat", merged, "--prompt", "Hi", "--max_new_tokens", "2").code == 0


def test_other_outputs_are_refused_and_leave_nothing(run_tiny, ift, tmp_path, monkeypatch):
    trained = run_tiny(**LORA)
    monkeypatch.setattr(merging, "merge_adapter", lambda model: model.unload())
    done = ift("merge", trained.folder, output_dir=tmp_path / "new" / "merged")
    assert done.code == 1
    assert "this adapter gives other outputs (largest" in done.err
    assert "Fix: continue training the adapter" in done.err
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("case", ["a full model", "a folder that is not empty", "a typo"])
def test_what_cannot_be_merged_is_refused(run_tiny, ift, chat_model, tmp_path, case):
    if case == "a full model":
        done = ift("merge", chat_model, output_dir=tmp_path / "merged")
        said = "this is not an adapter, so there is nothing to merge"
    elif case == "a typo":
        done = ift("merge", "alinged", output_dir=tmp_path / "merged")
        said = "alinged: there is no such folder, and no adapter of this name was found on the Hub. Fix: correct the"
    else:
        trained = run_tiny(**LORA)
        done = ift("merge", trained.folder, output_dir=chat_model)
        said = "exists and is not an empty folder. Fix: name another --output_dir"
    assert done.code == 1
    assert said in done.err


def test_rows_to_compare_on_may_have_columns_of_their_own(run_tiny, ift, tmp_path):
    """Red when: the reason why the rows cannot be read is swallowed."""
    trained = run_tiny(**LORA)
    rows = tmp_path / "rows.csv"
    rows.write_text("Frage;Antwort\nHi;Hello\nAnd?;Yes\n")
    done = ift("merge", trained.folder, output_dir=tmp_path / "merged", rows=rows)
    assert done.code == 1
    assert "no known data format: found columns Antwort, Frage" in done.err
    done = ift("merge", trained.folder, "--dataset_columns", "Frage=instruction", "Antwort=output",
               output_dir=tmp_path / "merged", rows=rows)  # fmt: skip
    assert done.code == 0, done.err
    assert "on 2 rows of " in done.out
    done = ift("merge", trained.folder, "--dataset_columns", "a=b", output_dir=tmp_path / "other")
    assert "there are no rows to rename" in done.err
