"""The scripts of experiments/: rows from small files in the data sets' own formats, and the record of a study."""

import csv
import importlib.util
import json
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from ift.cli.compare import parse
from ift.lab.compare.user_data import UserData
from ift.lab.testbed import tiny_base_path
from ift.step import StepSettings, ift_loss
from ift.step.lookahead import LookAhead
from ift.step.rows import row_layout

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def script(monkeypatch, path):
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), EXPERIMENTS / f"{path}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_rows_of_e2e(monkeypatch, tmp_path):
    def write(name, inputs):
        with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as file:
            lines = csv.writer(file)
            lines.writerows([("mr", "ref"), *inputs])
        return tmp_path / name

    dev = write("dev.csv", [("name[A]", "A is."), ("name[A]", "It is A."), ("name[B]", "B, it is.")])
    test = write("test.csv", [("name[C]", "C is."), ("name[C]", "It is C.")])
    script(monkeypatch, "e2e/make_rows").write_rows(dev, test, tmp_path / "rows")
    train, held_out = (rows_of(tmp_path / "rows" / f"{name}.jsonl") for name in ("train", "test"))
    assert {row["completion"][0]["content"] for row in train} <= {"A is.", "It is A.", "B, it is."}
    assert [row["prompt"][0]["content"].splitlines()[-1] for row in train].count("name[A]") == 1
    assert held_out[0]["references"] == ["C is.", "It is C."]
    assert held_out[0]["completion"] == [{"role": "assistant", "content": "C is."}]


@pytest.mark.parametrize("name", ["e2e", "geoquery", "gsm8k"])
def test_the_settings_of_a_study_are_read(name):
    file = EXPERIMENTS / name / "compare.yaml"
    flags = ["--model_name_or_path", str(tiny_base_path()), "--methods", "sft,ift", "--output_dir", "out"]
    args, words = parse("compare", ["--config", str(file), *flags])
    (stage,) = UserData(words, ["sft", "ift"], {}, "text", None, 9).stages("ift", {}, "unused")
    assert args.methods == "sft,ift"
    assert (
        stage.config.per_device_train_batch_size
        == yaml.safe_load(file.read_text())["per_device_train_batch_size"]
    )


RESTAURANT = (
    "Describe it.\nname[The Mill], food[English], priceRange[cheap], customer rating[3 out of 5], area[riverside], "
    "familyFriendly[no], near[Raja Indian Cuisine]"
)
ALL_FACTS = (
    "The Mill, by the river near Raja Indian Cuisine, has low-priced British food, is rated three of five and not for "
    "kids."
)


@pytest.mark.parametrize(
    ("answer", "stated", "nothing_false"),
    [
        (ALL_FACTS, 7, 1),
        ("The Mill is near Raja Indian Cuisine.", 2, 1),
        ("The Mill is a child friendly place.", 1, 0),
        ("The Mill has Indian food.", 1, 0),
        ("The Mill is in the city centre.", 1, 0),
        ("The Mill is by the riverside, close to the city centre.", 2, 1),
        ("", 0, 1),
    ],
    ids=["all", "neighbour", "children", "food", "area", "both areas", "empty"],
)  # fmt: skip
def test_the_facts_of_an_e2e_answer(monkeypatch, answer, stated, nothing_false):
    """The neighbour's name has a kind of food in it, which the answer does not state."""
    found = script(monkeypatch, "e2e/slots").slots(
        "", answer, {"prompt": [{"role": "user", "content": RESTAURANT}]}
    )
    assert found == {"facts stated": pytest.approx(stated / 7), "nothing false": nothing_false}


def test_rows_of_geoquery(monkeypatch, tmp_path):
    with sqlite3.connect(tmp_path / "geo.sqlite") as connection:
        connection.execute("CREATE TABLE city (name TEXT)")
        connection.execute("INSERT INTO city VALUES ('rome')")
    connection.close()

    def sentence(part, **variables):
        return {"text": f"is {' or '.join(variables)} there", "variables": variables, "question-split": part}

    entries = [
        {"sql": ['SELECT name FROM city WHERE name = "var1" ;'],
         "sentences": [sentence("train", var1="rome"), sentence("test", var1="paris"), sentence("dev", var1="rome")]},
        {"sql": ['SELECT name FROM city WHERE name IN ("var1", "var10") ;'],
         "sentences": [sentence("test", var1="paris", var10="rome")]},
        {"sql": ["SELECT nothing FROM nowhere ;"], "sentences": [sentence("train", var1="rome")]},
    ]  # fmt: skip
    (tmp_path / "geo.json").write_text(json.dumps(entries))
    counts = script(monkeypatch, "geoquery/make_rows").write_rows(
        tmp_path / "geo.json", tmp_path / "geo.sqlite", tmp_path / "rows"
    )
    assert counts == {
        "train: kept": 1, "train: left out": 1, "test: kept": 1, "test: left out": 1, "dev: not used": 1
    }  # fmt: skip
    (row,) = rows_of(tmp_path / "rows" / "test.jsonl")
    assert row["prompt"][-1] == {"role": "user", "content": "is paris or rome there"}
    assert row["completion"][0]["content"] == 'SELECT name FROM city WHERE name IN ("paris", "rome") ;'


@pytest.fixture
def regimes(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "regimes"))
    return script(monkeypatch, "regimes/run")


def test_the_record_of_the_regimes_counts_right_answers(regimes, tmp_path):
    run = {
        "regime": "few",
        **regimes.asdict(regimes.REGIMES["few"]),
        "contender": "sft",
        "provenance": {"git_commit": "x"},
    }
    lines = [
        {**run, "seed": seed, "right": {"end": {"test": "1101", "longer": "0" * seed + "1"}}}
        for seed in (20, 21)
    ]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    regimes.pack([tmp_path / "few.jsonl"], tmp_path / "record.jsonl")
    (found,) = rows_of(tmp_path / "record.jsonl")
    assert found["seeds"] == [20, 21]
    assert found["right"] == {"end": {"test": [3, 3], "longer": [1, 1]}}
    assert (found["rows"], found["n"], found["provenance"]) == (48, regimes.PROBLEMS, {"git_commit": "x"})


def test_packing_keeps_what_the_record_has(regimes, tmp_path):
    run = {"regime": "few", **regimes.asdict(regimes.REGIMES["few"]), "provenance": {}}
    right = {"end": {"test": "1", "longer": "0"}}
    for file, seed, label in (("a", 20, "sft"), ("b", 20, "sft"), ("b", 21, "ift")):
        with (tmp_path / f"{file}.jsonl").open("a") as opened:
            opened.write(json.dumps({**run, "contender": label, "seed": seed, "right": right}) + "\n")
    for file in ("a", "b"):
        regimes.pack([tmp_path / f"{file}.jsonl"], tmp_path / "record.jsonl")
    found = rows_of(tmp_path / "record.jsonl")
    assert [(one["contender"], one["seeds"]) for one in found] == [("sft", [20]), ("ift", [21])]
    assert [one["right"]["end"] for one in found] == [{"test": [1], "longer": [0]}] * 2
    assert "rows" in found[0]
    assert "rows" not in found[1]


def test_every_contender_is_a_method_with_known_settings(regimes):
    from ift.methods.table import parse_methods

    for contender in (regimes.CONTENDERS | regimes.VARIANTS).values():
        (found,) = parse_methods(contender.method)
        assert contender.settings.keys() <= set(found.load()[1].__dataclass_fields__)


def trained_shortly(regimes, tmp_path, label, **changes):
    """The moments at which a contender was scored, and its model."""
    regime = regimes.Regime(**{"rows": 8, "steps": 2, "early": 0, **changes})
    moments = []
    contender = (regimes.CONTENDERS | regimes.VARIANTS)[label]
    model, _ = regimes.trained(
        contender, regime, 20, tmp_path, lambda when, model, tokenizer: moments.append((when, weights(model)))
    )
    return moments, weights(model)


def weights(model):
    return {name: one.detach().clone() for name, one in model.state_dict().items()}


def equal(one, other):
    return all(one[name].equal(other[name]) for name in one)


def test_early_stopping_keeps_the_best_step(regimes, tmp_path, monkeypatch, capsys):
    """Of three steps the second scores best, and the third as well: the first of equals is kept."""
    values = iter([0.5, 0.75, 0.75])
    asked = []
    monkeypatch.setattr(
        regimes,
        "score",
        lambda model, tokenizer, problems: (
            asked.append(len(problems)) or SimpleNamespace(exact_match=next(values))
        ),
    )
    moments, end = trained_shortly(regimes, tmp_path, "sft early stopping", steps=3, early=1, curve=(2, 3))
    assert [when for when, _ in moments] == ["early", "step 2", "step 3"]
    assert asked == [regimes.VALIDATION] * 3
    assert equal(end, moments[1][1])
    assert not equal(end, moments[2][1])
    assert "early stopping: step 2 of 3 is the best, 75.0%" in capsys.readouterr().out


def test_a_curve_at_equal_flops(regimes, tmp_path):
    """SFT with 4/3 of the steps is scored after 4 steps where others are after 3; noise trains to other weights."""
    moments, end = trained_shortly(regimes, tmp_path, "sft 4/3 of the steps", steps=3, curve=(3,))
    assert [when for when, _ in moments] == ["step 3"]
    assert equal(end, moments[0][1])
    ends = [
        trained_shortly(regimes, tmp_path, label)[1]
        for label in ("ift residual only", "ift noise of its norm only")
    ]
    assert not equal(*ends)


# --- The variants of the method ---------------------------------------------------------------------------------------


@pytest.fixture
def variants(monkeypatch):
    return script(monkeypatch, "regimes/contenders")


def changed(change, **attributes):
    """What a variant has set, on a stand-in for the trainer."""
    trainer = SimpleNamespace(**attributes)
    change(trainer)
    return trainer


# two rows: a prompt of one token, answers of three and two tokens
LABELS = torch.tensor([[-100, 5, 6, 7], [-100, 8, 9, -100]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
LOSSES = torch.tensor([[0.0, 3.0, 2.0, 1.0], [0.0, 4.0, 2.0, 0.0]])


def weighted(variants, name):
    """The weights, and the gradient of the mean weighted loss of each answer with respect to the losses."""
    losses = LOSSES.clone().requires_grad_()
    weights = changed(getattr(variants, name)).token_weights(losses, row_layout(LABELS, MASK))
    (weights * losses / torch.tensor([[3.0], [2.0]])).sum().backward()
    return weights.detach(), losses.grad


def test_gamma_by_length(variants):
    """The second row has gamma 1/2: sums 4 + 2/2 = 5 and 2, mean 7/2."""
    weights, _ = weighted(variants, "gamma_by_length")
    assert weights[1, 1:3].tolist() == pytest.approx([10 / 7, 4 / 7])
    sums = torch.tensor([3 + 2 * 2 / 3 + 4 / 9, 2 + 2 / 3, 1.0])  # gamma 2/3
    assert weights[0, 1:].tolist() == pytest.approx((sums / sums.mean()).tolist())


def test_batch_mean(variants):
    """All five sums have one mean, which carries no gradient: dL/dl_t is w_t + the weights' own gradient."""
    weights, gradient = weighted(variants, "batch_mean")
    sums = torch.tensor([3 + 0.95 * 2 + 0.95**2, 2 + 0.95, 1.0, 4 + 0.95 * 2, 2.0])
    found = torch.cat([weights[0, 1:], weights[1, 1:3]])
    assert found.tolist() == pytest.approx((sums / sums.mean()).tolist())
    assert gradient[1, 1].item() == pytest.approx(((4 + 0.95 * 2) + 4) / sums.mean().item() / 2)


def test_the_last_token_keeps_its_plain_gradient(variants):
    weights, gradient = weighted(variants, "released_but_the_end")
    assert weights[0, 3] == weights[1, 2] == 1
    assert (gradient[0, 3], gradient[1, 2]) == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    assert weights[1, 1].item() == pytest.approx((4 + 0.95 * 2) / (4 + 0.95 * 2 + 2) * 2)


def guess_of(ids, probabilities, top1):
    return LookAhead(
        torch.tensor(ids), torch.tensor(probabilities), torch.tensor(top1), torch.zeros(len(top1))
    )


def test_lambda_times_the_probability_of_the_guess(variants):
    """The mix of K = 2 candidates with shares p and 1 - p is (1 - lambda p) E(x) + lambda p E(guess)."""
    layout, ids = row_layout(LABELS[1:], MASK[1:]), LABELS[1:].clamp(min=0)
    guess = guess_of([[3, 8], [9, 1]], [[0.7, 0.3], [0.6, 0.4]], [3, 9])
    found = changed(variants.mixed_where_sure).change_guess(guess, ids, layout, StepSettings())
    assert found.ids.tolist() == [[3, 8], [9, 9]]
    torch.testing.assert_close(found.probabilities, torch.tensor([[0.7, 0.3], [0.6, 0.4]]))


def test_only_close_wrong_guesses_are_mixed(variants):
    """Of three wrong guesses the two most like their targets; a right guess is its target anyway."""
    table = torch.eye(10)
    table[3], table[4] = table[5] + 0.1 * table[3], table[6] + table[4]  # 3 is like 5, 4 somewhat like 6
    model = SimpleNamespace(get_input_embeddings=lambda: SimpleNamespace(weight=table))
    layout = row_layout(LABELS, MASK)
    guess = guess_of([[3], [4], [1], [8], [9]], [[1.0]] * 5, [3, 4, 1, 8, 9])
    change = changed(variants.mixed_where_close, model=model).change_guess
    assert change(guess, LABELS.clamp(min=0), layout, StepSettings()).ids[:, 0].tolist() == [3, 4, 7, 8, 9]


def test_the_second_guess_follows_the_mix_of_the_first(variants):
    """With lambda 0 the mix is the clean input, so the second guess is the first; with lambda 1 it is another."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base_path())
    ids = torch.randint(5, 200, (2, 24), generator=torch.Generator().manual_seed(0))
    layout = row_layout(ids)
    first = []
    ift_loss(
        model,
        {"input_ids": ids, "labels": ids},
        change_guess=lambda guess, *rest: first.append(guess) or guess,
    )
    change = changed(variants.two_guesses_deep, model=model).change_guess
    same, other = (change(first[0], ids, layout, StepSettings(residual_lambda=share)) for share in (0.0, 1.0))
    assert torch.equal(same.top1, first[0].top1)
    assert not torch.equal(other.top1, first[0].top1)


def test_noise_is_as_long_as_the_shift_of_the_mix(variants):
    """What the first layer gets, minus the clean embedding: at each position as long as with the guess, 0 where that is
    right or nothing is trained, and in other directions, which change with the step."""
    from ift.lab.testbed import problems
    from ift.lab.testbed.likelihood import padded_batch, rendered
    from ift.models.loading import LoadOptions, load_model

    model, tokenizer, *_ = load_model(str(tiny_base_path()), LoadOptions(dtype="float32"))
    batch = padded_batch([rendered(tokenizer, one.messages) for one in problems("test", 3)], "cpu")
    ids, trained = batch["input_ids"], batch["labels"] != -100
    ids[:, ::5] = ids.flip(1)[:, ::5]  # so that some guesses are wrong
    batch["labels"] = torch.where(trained, ids, -100)
    clean, seen, guessed = model.get_input_embeddings()(ids).detach(), [], []
    model.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))

    def shift(change, step=0):
        ift_loss(model, batch, change_guess=change, step=step, lookahead_prefix="full").loss.backward()
        return seen[-1] - clean

    own = shift(lambda guess, *rest: guessed.append(guess.top1) or guess)
    change = changed(variants.noise_of_equal_norm, model=model).change_guess
    noise, again, later = shift(change), shift(change), shift(change, step=1)
    torch.testing.assert_close(noise.norm(dim=-1), own.norm(dim=-1), rtol=1e-3, atol=1e-5)
    wrong = trained.clone()
    wrong[trained] = guessed[0] != ids[trained]
    assert torch.equal(own.norm(dim=-1) > 1e-5, wrong)
    assert 5 < wrong.sum() < trained.sum()
    assert torch.equal(noise, again)
    for other in (own, later):
        assert torch.cosine_similarity(other[wrong], noise[wrong], dim=-1).abs().mean() < 0.2


def test_clean_and_mixed_is_the_mean_of_both_losses(variants):
    """The stand-in's loss is its lambda; evaluation keeps the mixed loss alone."""
    trainer = SimpleNamespace(model=SimpleNamespace(training=True), _residual_lambda=lambda mode: 0.2)
    trainer.compute_loss = lambda model, inputs: trainer._residual_lambda("train")
    variants.clean_and_mixed(trainer)
    assert trainer.compute_loss(None, {}) == pytest.approx(0.1)
    assert trainer._residual_lambda("train") == 0.2
    trainer.model.training = False
    assert trainer.compute_loss(None, {}) == 0.2


def test_losses_by_class_of_token(monkeypatch, regimes, tmp_path):
    """The means are those of the losses of a plain forward; up to the first wrong guess the mix changes nothing."""
    from ift.lab.testbed import families
    from ift.lab.testbed.likelihood import padded_batch, rendered
    from ift.models.loading import LoadOptions, load_model

    monkeypatch.setitem(sys.modules, "run", regimes)
    classes = script(monkeypatch, "regimes/token_classes")
    base = load_model(str(tiny_base_path()), LoadOptions(dtype="float32"))
    problems = families.family_problems("arithmetic", "test", 4)
    batch = padded_batch([rendered(base.tokenizer, one.messages) for one in problems], "cpu")
    with torch.no_grad():
        logits = base.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    targets = batch["labels"][:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.mT, targets, ignore_index=-100, reduction="none")
    hits, answers = logits.argmax(-1) == targets, targets != -100
    known = torch.nn.functional.pad(hits, (1, 0))
    digit = batch["input_ids"] % 2 == 0  # any classes will do
    found = classes.measured(base.model, batch, known, digit)
    for name, chosen in {"predicted": hits, "mispredicted": ~hits, "digit": digit[:, 1:]}.items():
        one = found["classes"][name]
        assert one["tokens"] == int((answers & chosen).sum()) > 0
        assert one["mean"] == pytest.approx(losses[answers & chosen].double().mean().item(), rel=1e-4)
    after = found["mixed"]
    assert (
        after["after a wrong guess"]["tokens"] == int((answers[:, 1:] & (answers & ~hits)[:, :-1]).sum()) > 0
    )
    assert after["after a wrong guess"]["mean"] != 0
    row = next(row for row in range(4) if (~hits & answers)[row].any())
    first_miss = int((~hits & answers)[row].nonzero()[0]) + 1
    part = slice(row, row + 1), slice(0, first_miss + 1)
    to_miss = {name: value[part] for name, value in batch.items()}
    mixed = classes.measured(base.model, to_miss, known[part], digit[part])["mixed"]
    assert mixed["after a right guess"]["mean"] == pytest.approx(0, abs=1e-5)


def test_the_record_of_the_classes_is_short(monkeypatch, regimes, tmp_path):
    monkeypatch.setitem(sys.modules, "run", regimes)
    classes = script(monkeypatch, "regimes/token_classes")
    moment = {"classes": {"digit": {"mean": 0.123456789, "tokens": 7}}, "mixed": {}}
    run = {
        "regime": "few",
        "contender": "sft",
        "early": moment,
        "end": moment,
        "provenance": {"created": "x"},
    }
    for last in (20, 21):  # the second file has the first run again
        runs = [run | {"seed": seed} for seed in range(20, last + 1)]
        (tmp_path / f"{last}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in runs))
        classes.pack([tmp_path / f"{last}.jsonl"], tmp_path / "record.jsonl", classes.shorten)
    first, second = rows_of(tmp_path / "record.jsonl")
    assert first.pop("provenance") == {"created": "x"}
    assert (first | {"seed": 21}) == second
    assert second["end"]["classes"]["digit"] == {"mean": 0.12346, "tokens": 7}


@pytest.fixture
def calibrated(monkeypatch, regimes):
    monkeypatch.setitem(sys.modules, "run", regimes)
    return script(monkeypatch, "regimes/calibration")


def test_the_calibration_error_is_that_of_bins(calibrated):
    """By hand: of four tokens with .9 three are right (.15 too sure), of two with .5 both (.5 too unsure)."""
    confidence = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.5, 0.5])
    right = torch.tensor([True, True, True, False, True, True])
    assert calibrated.calibration_error(confidence, right) == pytest.approx((4 * 0.15 + 2 * 0.5) / 6)
    sure = torch.tensor([1.0, 1.0])
    assert calibrated.calibration_error(sure, torch.tensor([True, True])) == 0


def test_calibration_and_drawn_answers_of_a_model(calibrated, monkeypatch):
    from ift.lab.testbed import families
    from ift.lab.testbed.likelihood import mean_likelihood, padded_batch, rendered
    from ift.models.loading import LoadOptions, load_model

    base = load_model(str(tiny_base_path()), LoadOptions(dtype="float32"))
    problems = families.family_problems("arithmetic", "test", 3)
    batch = padded_batch([rendered(base.tokenizer, one.messages) for one in problems], "cpu")
    found = calibrated.calibration(base.model, batch)
    expected = -mean_likelihood(base.model, base.tokenizer, problems)["per_token"]
    assert found["nll"] == pytest.approx(expected, rel=1e-4)
    assert 0 <= abs(found["confidence"] - found["right"]) <= found["error"] + 1e-6
    answers = iter([["#### 1", "a", "#### 3"], ["#### 1", "b", "#### 4"]] * 2)
    monkeypatch.setattr(calibrated, "generate_answers", lambda *_, sampling_seed: (next(answers), [], []))
    wanted = [SimpleNamespace(messages=[{}], question="", solution=f"#### {one}") for one in ("1", "2", "3")]
    found = calibrated.drawn(base.model, base.tokenizer, wanted, 20)
    assert found == {
        "right": pytest.approx(0.5),
        "any right": pytest.approx(2 / 3),
        "different": pytest.approx(5 / 3),
    }


@pytest.mark.parametrize("name", ["calibration", "token_classes"])
def test_a_script_without_seeds_reads_its_problems_and_trains_nothing(name, monkeypatch, regimes, tmp_path):
    monkeypatch.setitem(sys.modules, "run", regimes)
    measured = script(monkeypatch, f"regimes/{name}")
    monkeypatch.setattr(sys, "argv", [name, "--seeds", "0", "--output", str(tmp_path / "runs.jsonl")])
    asked = []
    monkeypatch.setattr(measured, "measure_missing", lambda args, *_: asked.append(args.seeds))
    measured.main()
    assert asked == [0]


def test_runs_that_have_a_line_are_not_measured_again(calibrated, monkeypatch, tmp_path):
    measuring = sys.modules["measuring"]
    trained = []
    monkeypatch.setattr(
        measuring,
        "trained",
        lambda contender, regime, seed, starts, during: trained.append(seed) or (during("early", 0, 0), 0),
    )
    words = ["--seeds", "2", "--contenders", "sft", "--output", str(tmp_path / "runs.jsonl")]
    args = measuring.parser_of("text", "many", "ift").parse_args(words)
    for _ in range(2):
        measuring.measure_missing(args, lambda model: {"seen": model}, lambda model, seed: {"value": seed})
    rows = rows_of(tmp_path / "runs.jsonl")
    assert trained == [row["seed"] for row in rows] == [20, 21]
    assert [(row["early"], row["end"]) for row in rows] == [
        ({"seen": 0}, {"value": seed}) for seed in trained
    ]
