"""Guesses kept for a row's later visits: the same rows in any batch, what is mixed in then, and runs that go on."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from safetensors.numpy import save_file

import ift.trainer
import models
import reference
from ift import IFTConfig, enable_residual, ift_loss
from ift.functional import row_layout
from ift.lookahead_cache import FILE, FIRST_TOKENS, Guesses, LookAheadCache, documents_of
from ift.precompute import precompute_look_aheads
from ift.support import evaluating
from models import dataset_of, logged, tiny_model, trained, uneven_rows

EPOCHS = {"max_steps": -1, "num_train_epochs": 3, "per_device_train_batch_size": 3, "shuffle_dataset": True}


@pytest.fixture
def cache(tmp_path):
    return LookAheadCache(models.VOCABULARY, tmp_path / "store")


@pytest.fixture(scope="module")
def rows():
    return uneven_rows(tiny_model())


def documents(batch, tokens=None):
    layout = row_layout(batch["labels"], batch.get("attention_mask"), batch.get("position_ids"))
    return documents_of(batch["input_ids"], layout, tokens), layout


# --- the store --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["left", "right", "packed", "reversed"])
def test_a_row_is_known_in_whatever_batch_it_comes(cache, rows, shape):
    ids, labels = rows
    cache.put(documents(batch := models.padded(ids, labels), batch["input_ids"] + 1)[0])
    assert len(cache) == len(ids)
    assert cache.tokens == int(documents(batch)[0].counts.sum())
    if shape == "reversed":
        batch = models.padded(ids[::-1], labels[::-1])
    else:
        batch = models.packed(ids, labels) if shape == "packed" else models.padded(ids, labels, shape)
    wanted, layout = documents(batch)
    assert torch.equal(cache.find(wanted), batch["input_ids"][layout.trained] + 1)


def test_other_tokens_and_other_labels_are_other_rows(cache, rows):
    ids, labels = rows
    batch = models.padded(ids[:1], labels[:1])
    cache.put(documents(batch, batch["input_ids"])[0])
    assert cache.find(documents(batch)[0]) is not None
    ids = batch["input_ids"].clone()
    ids[0, 0] += 1
    assert cache.find(documents({**batch, "input_ids": ids})[0]) is None
    longer = models.padded(*(rows[0][1:2], rows[1][1:2]))
    assert cache.find(documents(longer)[0]) is None
    fewer = longer["labels"].clone()
    fewer[0, -1] = -100
    cache.put(documents(longer, longer["input_ids"])[0])
    assert cache.find(documents({**longer, "labels": fewer})[0]) is None
    elsewhere = fewer.clone()  # as many trained, others
    elsewhere[0, -1], elsewhere[0, -2] = longer["labels"][0, -1], -100
    cache.put(documents({**longer, "labels": fewer}, longer["input_ids"])[0])
    assert cache.find(documents({**longer, "labels": fewer})[0]) is not None
    assert cache.find(documents({**longer, "labels": elsewhere})[0]) is None
    both = models.padded(rows[0][:3], rows[1][:3])  # the third is not known: nothing is given
    assert cache.find(documents(both)[0]) is None


def test_a_later_guess_takes_the_place_of_an_earlier_one_and_the_file_grows(tmp_path):
    cache = LookAheadCache(1 << 17, tmp_path)  # four bytes a token
    drawn = torch.Generator().manual_seed(0)
    kept = {}
    for key, count in enumerate([FIRST_TOKENS - 1, 1, 1, 5 * FIRST_TOKENS, 7]):
        kept[key] = torch.randint(1 << 17, (count,), generator=drawn)
        cache.put(Guesses(torch.tensor([key]), torch.tensor([count]), kept[key]))
    kept[1] = torch.tensor([131_071])
    cache.put(Guesses(torch.tensor([1]), torch.tensor([1]), kept[1]))
    assert cache.tokens == sum(map(len, kept.values()))
    for key, guesses in kept.items():
        assert torch.equal(cache.find(Guesses(torch.tensor([key]), torch.tensor([len(guesses)]))), guesses)
    assert list(tmp_path.iterdir()) == []  # the file has no name, and is gone with the process


def test_what_is_saved_is_what_is_loaded_beside_what_was_there(cache, rows, tmp_path):
    batch = models.padded(*(part[:4] for part in rows))
    cache.put(documents(batch, batch["input_ids"])[0])
    cache.save(tmp_path / "kept" / FILE, {"model": "some/model"})
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [FILE]
    other = LookAheadCache(models.VOCABULARY, tmp_path)
    rest = models.padded(*(part[4:] for part in rows))
    other.put(documents(rest, rest["input_ids"])[0])
    assert other.load(tmp_path / "kept" / FILE)["model"] == "some/model"
    assert len(other) == len(rows[0])
    every, layout = documents(whole := models.padded(*rows))
    assert torch.equal(other.find(every), whole["input_ids"][layout.trained])


def test_a_file_that_is_none_of_ours_is_refused_by_name(cache, tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        cache.load(tmp_path / "none.safetensors")
    file = tmp_path / "other.safetensors"
    file.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"other\.safetensors: cannot be read"):
        cache.load(file)
    save_file({"keys": torch.zeros(1).numpy()}, file)
    with pytest.raises(ValueError, match="holds no look-aheads"):
        cache.load(file)
    LookAheadCache(50, tmp_path).save(file, {})
    with pytest.raises(ValueError, match="look-aheads over 50 tokens, the model has 97"):
        cache.load(file)


# --- the step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right", "packed"])
def test_a_step_with_guesses_made_before_is_the_references(rows, side):
    model = tiny_model()
    twin = models.double(model)
    place = models.packed if side == "packed" else lambda *rows: models.padded(*rows, side)
    batch = place(*rows)
    drawn = torch.randint(3, 97, (sum(map(len, rows[0])),), generator=torch.Generator().manual_seed(2))
    guesses = place([*drawn.split([len(row) for row in rows[0]])], rows[1])["input_ids"]
    found = ift_loss(model, batch, residual_lambda=0.3, guesses=guesses)
    found.loss.backward()
    wanted = reference.ift_step(twin, **batch, residual_lambda=0.3, lookahead_ids=guesses)
    wanted.loss.backward()
    assert found.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-5)
    assert models.gradient_error(model, twin) < 1e-5
    trained_at = found.layout.trained
    assert torch.equal(found.scores.lookahead_ids[trained_at], guesses[trained_at])
    assert found.scores.nll is None
    assert found.scores.shared_prefix is None


def test_a_step_with_guesses_runs_the_backbone_once(rows):
    model, calls = tiny_model(), []
    enable_residual(model)  # looks at the head
    model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    batch = models.padded(*rows)
    ift_loss(model, batch, guesses=batch["input_ids"])
    assert len(calls) == 1


@pytest.mark.parametrize("residual_lambda", [0.0, 0.6])
def test_the_predictions_are_the_argmax_under_the_mixed_input(rows, residual_lambda):
    model = tiny_model()
    batch = models.padded(*rows)
    plain = ift_loss(model, batch, residual_lambda=residual_lambda)
    assert plain.scores.predicted_ids is None
    scores = ift_loss(model, batch, residual_lambda=residual_lambda, predictions=True).scores
    trained_at = plain.layout.trained
    embed = model.get_input_embeddings()
    mixed = embed(batch["input_ids"])
    if residual_lambda:
        guessed = embed(scores.lookahead_ids)
        mixed = torch.where(trained_at[..., None], mixed.lerp(guessed, residual_lambda), mixed)
    logits = model(inputs_embeds=mixed, attention_mask=batch["attention_mask"]).logits
    assert torch.equal(
        scores.predicted_ids[:, 1:][trained_at[:, 1:]], logits[:, :-1].argmax(-1)[trained_at[:, 1:]]
    )
    assert torch.equal(scores.predicted_ids[~trained_at], batch["input_ids"][~trained_at])


# --- the trainer ------------------------------------------------------------------------------------------------------


@pytest.fixture
def visits(monkeypatch):
    """What each call of `ift_loss` by a trainer gave: a dict by row, of the guess mixed in and of the prediction."""
    seen = []

    def recorded(model, batch, **options):
        result = ift_loss(model, batch, **{**options, "predictions": True})
        if model.training:
            visit = {"cached": options["guesses"] is not None}
            for row, label, mixed, predicted in zip(
                batch["input_ids"], batch["labels"], result.scores.lookahead_ids, result.scores.predicted_ids,
                strict=True,
            ):  # fmt: skip
                at = label != -100
                visit[tuple(row[row != 0].tolist())] = mixed[at].tolist(), predicted[at].tolist()
            seen.append(visit)
        return result

    monkeypatch.setattr(ift.trainer, "ift_loss", recorded)
    return seen


@pytest.mark.parametrize("kind", ["epoch", "mixed"])
def test_a_row_is_given_what_its_earlier_visit_left(tmp_path, rows, visits, kind):
    run = trained(tmp_path, tiny_model(), rows, lookahead_cache=kind, **EPOCHS, learning_rate=0.5)
    assert [visit.pop("cached") for visit in visits] == 3 * [False] + 6 * [True]
    first, second, third = (
        {row: found for visit in visits[n : n + 3] for row, found in visit.items()} for n in (0, 3, 6)
    )
    assert first.keys() == second.keys() == third.keys()
    assert len(first) == len(rows[0])
    source = 1 if kind == "mixed" else 0
    assert {row: found[0] for row, found in second.items()} == {
        row: found[source] for row, found in first.items()
    }
    assert {row: found[0] for row, found in third.items()} == {
        row: found[source] for row, found in second.items()
    }
    assert any(first[row][1] != second[row][1] for row in first)  # the model did learn
    assert logged(run, "lookahead_cached") == 3 * [0.0] + 6 * [1.0]
    entries = [entry for entry in run.state.log_history if "loss" in entry]
    assert ["nll" in entry for entry in entries] == 3 * [True] + 6 * [False]
    assert all("lookahead_accuracy" in entry and "residual_nll" in entry for entry in entries)


def test_the_first_epoch_is_exact_and_a_refresh_at_every_step_is_the_method(tmp_path, rows):
    runs = {
        name: trained(tmp_path / name, tiny_model(), rows, **EPOCHS, **options)
        for name, options in {
            "off": {},
            "epoch": {"lookahead_cache": "epoch"},
            "refreshed": {"lookahead_cache": "epoch", "lookahead_refresh": 1.0},
        }.items()
    }
    losses = {name: logged(run, "loss") for name, run in runs.items()}
    assert losses["epoch"][:3] == losses["off"][:3]
    assert losses["epoch"][3:] != losses["off"][3:]
    assert losses["refreshed"] == losses["off"]
    for ours, expected in zip(runs["refreshed"].gradients, runs["off"].gradients, strict=True):
        assert all(torch.equal(ours[name], expected[name]) for name in expected)
    agreement = logged(runs["refreshed"], "lookahead_agreement")
    assert len(agreement) == 6
    assert all(0 < share <= 1 for share in agreement)


def test_some_steps_refresh_whole_and_leave_what_they_found(tmp_path, rows, visits):
    options = {
        **EPOCHS,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 12,
    }
    told = {"lookahead_cache": "epoch", "lookahead_refresh": 0.5, "learning_rate": 0.5}
    trained(tmp_path, tiny_model(), rows, **{**options, **told})
    cached = [visit.pop("cached") for visit in visits]
    assert cached[:4] == 4 * [False]
    assert cached[::2] == cached[1::2]  # both micro-batches of a step
    assert 4 <= sum(cached[::2]) <= 18
    latest, first = {}, {}
    for visit, known in zip(visits, cached, strict=True):
        for row, (mixed, _) in visit.items():
            assert not known or mixed == latest[row]
            latest[row] = mixed
            first.setdefault(row, mixed)
    assert latest != first


def test_adapters_keep_guesses_too(tmp_path, rows, visits):
    adapter = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"])
    trained(tmp_path, tiny_model(), rows, lookahead_cache="epoch", peft_config=adapter, **EPOCHS)
    assert [visit["cached"] for visit in visits] == 3 * [False] + 6 * [True]


def test_evaluation_looks_ahead(tmp_path, rows):
    run = trained(
        tmp_path, tiny_model(), rows, evaluation=dataset_of(*rows), lookahead_cache="epoch", **EPOCHS
    )
    found = run.evaluate()
    wanted = ift_loss(run.model.eval(), models.padded(*rows))
    assert found["eval_loss"] == pytest.approx(wanted.loss.item(), rel=1e-5)
    assert found["eval_nll"] == pytest.approx(
        wanted.scores.nll.sum().item() / wanted.layout.trained.sum().item(), rel=1e-5
    )


@pytest.mark.parametrize("kind", ["epoch", "mixed"])
def test_a_run_that_goes_on_is_the_run_that_did_not_stop(tmp_path, rows, kind):
    options = {
        **EPOCHS,
        "lookahead_cache": kind,
        "save_strategy": "steps",
        "save_steps": 5,
        "learning_rate": 0.3,
    }
    straight = trained(tmp_path, tiny_model(), rows, **options)
    again = trained(tmp_path / "again", tiny_model(), rows, run=False, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    for ours, expected in zip(again.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(ours, expected)
    (tmp_path / "checkpoint-5" / FILE).unlink()  # the guesses are what makes them one
    other = trained(tmp_path / "other", tiny_model(), rows, run=False, **options)
    other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert not all(map(torch.equal, other.model.parameters(), straight.model.parameters()))


# --- made before ------------------------------------------------------------------------------------------------------


def test_precomputed_guesses_are_the_models_look_ahead_and_spare_the_first_epoch(
    tmp_path, rows, cache, visits, caplog
):
    file = tmp_path / "made.safetensors"
    maker = trained(tmp_path, tiny_model(), rows, run=False, **EPOCHS)
    steps = []
    told = precompute_look_aheads(maker, file, steps.append)
    batch = models.padded(*rows)
    every, layout = documents(batch)
    with evaluating(model := tiny_model()), torch.no_grad():
        wanted = model(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits.argmax(-1)
    wanted = wanted[:, :-1][layout.trained[:, 1:]]
    cache.load(file)
    assert torch.equal(cache.find(every), wanted)
    hits = int((wanted == batch["labels"][layout.trained]).sum())
    assert told == {"rows": 8, "tokens": len(wanted), "new": len(wanted), "hits": hits}
    assert sum(steps) == 8
    again = precompute_look_aheads(trained(tmp_path, tiny_model(), rows, run=False, **EPOCHS), file)
    assert again == {"rows": 8, "tokens": len(wanted), "new": 0, "hits": 0}

    run = trained(
        tmp_path / "run",
        tiny_model(),
        rows,
        lookahead_cache="epoch",
        lookahead_cache_path=str(file),
        **EPOCHS,
    )
    assert [visit["cached"] for visit in visits] == 9 * [True]
    assert "look-aheads" not in caplog.text
    exact = trained(tmp_path / "exact", tiny_model(), rows, **EPOCHS)
    assert logged(run, "loss")[0] == pytest.approx(logged(exact, "loss")[0], rel=1e-6)


def test_what_was_made_is_kept_when_the_work_is_cut_short(tmp_path, rows):
    file = tmp_path / "made.safetensors"

    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        precompute_look_aheads(trained(tmp_path, tiny_model(), rows, run=False, **EPOCHS), file, stop)
    told = precompute_look_aheads(trained(tmp_path, tiny_model(), rows, run=False, **EPOCHS), file)
    assert told["rows"] == 8
    assert 0 < told["new"] < told["tokens"]


def test_guesses_of_another_model_are_not_added_to(tmp_path, rows):
    file = tmp_path / "made.safetensors"
    LookAheadCache(models.VOCABULARY, tmp_path).save(file, {"model": "other/model"})
    with pytest.raises(ValueError, match="holds look-aheads of other/model"):
        precompute_look_aheads(trained(tmp_path, tiny_model(), rows, run=False, **EPOCHS), file)


def test_a_file_that_does_not_know_the_rows_is_said(tmp_path, rows, caplog):
    file = tmp_path / "made.safetensors"
    LookAheadCache(models.VOCABULARY, tmp_path).save(file, {"model": "m"})
    options = {"lookahead_cache": "epoch", "lookahead_cache_path": str(file)}
    trained(tmp_path, tiny_model(), rows, **options)
    assert caplog.text.count("does not know the rows of the first batch") == 1
    assert caplog.text.count("holds look-aheads of m; the model that trains is") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lookahead_cache": "epoch", "lookahead": "sample"}, "Set lookahead='greedy'"),
        ({"lookahead_cache": "often"}, "choose one of off, epoch, mixed"),
        ({"lookahead_refresh": 0.5}, "need a cache"),
        ({"lookahead_cache_path": "x"}, "need a cache"),
        ({"lookahead_cache": "epoch", "lookahead_refresh": 1.5}, r"give a value in \[0, 1\]"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        IFTConfig(str(tmp_path), **options)
