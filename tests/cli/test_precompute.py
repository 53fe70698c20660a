"""`ift precompute-lookahead`: guesses before a run, and a run that begins with them."""

from __future__ import annotations

import pytest

from ift.lookahead_cache import FILE


def test_guesses_made_before_serve_every_epoch(ift, run_tiny, chat_model, write_rows, tmp_path):
    data = write_rows()
    words = {"model_name_or_path": chat_model, "dataset_name": data, "report_to": "none"}
    made = ift("precompute-lookahead", **words)
    assert made.code == 0, made.err
    assert "guesses for 8 rows" in made.out
    assert f"--lookahead_cache epoch --lookahead_cache_path {FILE}" in made.out
    assert (tmp_path / FILE).exists()
    assert "(0 new)" in ift("precompute-lookahead", **words).out

    exact = run_tiny(out="exact", dataset_name=data)
    run = run_tiny(
        "--lookahead_cache", "epoch", "--lookahead_cache_path", FILE, out="kept", dataset_name=data
    )
    first, *_ = (entry for entry in run.metrics if "loss" in entry)
    assert first["loss"] == pytest.approx(exact.metrics[0]["loss"], rel=1e-5)
    assert all(entry["lookahead_cached"] == 1 for entry in run.metrics if "loss" in entry)
    assert "guesses kept (epoch, 0% refreshed)" in " ".join(run.out.split())
    card = (run.folder / "README.md").read_text()
    assert "| `lookahead_cache` | epoch |" in card
    assert FILE not in card  # a path of this machine


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "sft"], "only ift looks ahead"),
        (["--method", "sft+ift"], "only ift looks ahead"),
        (["--num_processes", "2"], "accelerate launch"),
        (["--outptu", "x"], "unknown flag --outptu"),
    ],
)
def test_what_it_cannot_do_is_refused(ift, chat_model, write_rows, words, said):
    told = ["--model_name_or_path", chat_model, "--dataset_name", write_rows()]
    done = ift("precompute-lookahead", *told, *words)
    assert done.code == 2
    assert said in done.err


def test_rows_that_ift_train_would_refuse_are_refused(ift, chat_model, write_rows, tmp_path):
    words = {"model_name_or_path": chat_model, "dataset_name": write_rows(), "max_length": 28}
    done = ift("precompute-lookahead", **words)
    assert done.code == 1
    assert "max_length 28 cuts" in done.err
    assert not (tmp_path / FILE).exists()


def test_a_file_of_another_model_is_refused_and_kept(
    ift, run_tiny, chat_model, base_model, write_rows, tmp_path
):
    data = write_rows("prompt-completion, text")
    assert ift("precompute-lookahead", model_name_or_path=base_model, dataset_name=data).code == 0
    before = (tmp_path / FILE).read_bytes()
    done = ift("precompute-lookahead", model_name_or_path=chat_model, dataset_name=data)
    assert done.code == 1
    assert "holds look-aheads of" in done.err
    assert (tmp_path / FILE).read_bytes() == before


def test_a_missing_file_is_said_before_a_step(run_tiny, tmp_path):
    done = run_tiny("--lookahead_cache", "epoch", "--lookahead_cache_path", "none.safetensors")
    assert done.code == 1
    assert "none.safetensors: there is no such file" in done.err
    assert "Traceback" not in done.err
