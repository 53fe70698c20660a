"""What is known before a run: each finding from rows that have exactly that fault."""

import copy
import hashlib
import json
from types import SimpleNamespace

import pytest
from datasets import Dataset
from tokenizers import processors
from trl.scripts.utils import DatasetConfig

import models
from ift.check.findings import _many_workers
from ift.check.row_findings import _check_report, data_findings
from ift.check.rows import scan_rows
from ift.data import Part, end_of_turn_ids, prepare_dataset, prepare_mixture
from ift.data.pairs import prepare_pairs
from ift.lab.testbed import tiny_base_path


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tiny_base_path())
    loaded.chat_template = None
    return loaded


def found(
    tokenizer, train, evaluation=None, *, max_length=None, positions=None, vocabulary=521, step=1, **options
):
    """(level, about, text) of every finding about these rows."""
    given = {"train": train, **({} if evaluation is None else {"eval": evaluation})}
    sets = {
        name: prepare_dataset(
            Dataset.from_list(rows), tokenizer, name=name, max_length=max_length, positions=positions
        )
        for name, rows in given.items()
    }
    scans = {name: scan_rows(one, tokenizer, end_of_turn_ids(tokenizer)) for name, one in sets.items()}
    findings = data_findings(sets, scans, tokenizer, vocabulary=vocabulary, rows_per_step=step, **options)
    return [(one.level, one.about, one.text) for one in findings]


def test_workers_of_another_machine_are_noted_too(monkeypatch):
    """Red when: with --gpu_memory nothing is said of 16 workers, although the pages promise it."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    (note,) = _many_workers(SimpleNamespace(dataset_num_proc=16), planned=True)
    assert "this machine has 2 cores" in note.text
    assert "the machine of the run may have more. Fix: --dataset_num_proc 2" in note.text
    assert not _many_workers(
        SimpleNamespace(dataloader_num_workers=16), planned=True
    )  # none are started here


@pytest.mark.parametrize(
    ("name", "workers", "said"),
    [
        ("dataset_num_proc", 16, True),
        ("dataset_num_proc", 2, False),
        ("dataloader_num_workers", 3, True),
        ("dataset_num_proc", None, False),
    ],
)
def test_more_workers_than_cores_are_noted(monkeypatch, name, workers, said):
    """A file of another machine is taken over as it is; the check says what it means here."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    findings = _many_workers(SimpleNamespace(**{name: workers}))
    assert [one.text for one in findings] == [
        f"{name} is {workers}, and this machine has 2 cores: more processes than cores are no faster, and each needs "
        f"memory of its own. Fix: --{name} 2"
    ] * said
    assert all(one.level == "note" for one in findings)


FINE = [{"prompt": f"{n} plus {n} =", "completion": f" {2 * n}"} for n in range(10)]


def test_nothing_is_found_where_nothing_is_wrong(tokenizer):
    other = [{"prompt": f"{n} plus 9 =", "completion": f" {9 + n}"} for n in range(3)]
    assert found(tokenizer, FINE, other) == []


@pytest.mark.parametrize(
    ("long", "allowed", "level"),
    [(3, False, "refused"), (3, True, "warning"), (1, False, "warning")],
)
def test_cutting_is_told_and_from_a_fifth_on_refused(tokenizer, long, allowed, level):
    """Of 10 rows 3 or 1 are cut: 30 % or 10 %; the trained tokens lost stay below."""
    rows = [*FINE[long:], *({"prompt": "7 " * 20 + str(n), "completion": " 7 7 7"} for n in range(long))]
    ((first, about, text), *_) = found(tokenizer, rows, max_length=40, allow_truncation=allowed)
    assert (first, about) == (level, "train")
    assert f"max_length 40 truncates {10 * long}.0% of the rows" in text
    assert "the longest row has 4" in text
    assert f"(row{'s' * (long > 1)} {', '.join(str(10 - long + n) for n in range(1, long + 1))};" in text
    assert ("--allow_truncation" in text) == (level == "refused")


def test_rows_beyond_the_models_positions_are_one_finding_with_count_rows_and_fix(tokenizer):
    """Also if max_length empties one of them; rows above 30 tokens are rows 9 and 10."""
    rows = [
        *FINE[2:],
        *({"prompt": f"{n} " + "7 " * tokens, "completion": " 7 7"} for n, tokens in ((1, 20), (2, 90))),
    ]
    ((level, about, text),) = found(tokenizer, rows, max_length=60, positions=("n_positions", 30))
    assert (level, about) == ("refused", "train")
    assert text.startswith(
        "2 rows are longer than the 30 positions that the model knows (n_positions) (rows 9, 10;"
    )
    assert text.endswith("a model with a longer context; --max_length 30 cuts their end")
    ((_, _, text),) = found(
        tokenizer, rows, max_length=28, positions=("n_positions", 30), allow_truncation=True
    )
    assert "max_length 28 truncates" in text
    assert "1 row is dropped" in text or "2 rows are dropped" in text
    assert (
        "a longer context than 30 positions" in text
    )  # not: raise --max_length to what the model cannot take


def test_a_template_that_leaves_the_answer_out_is_the_fix_to_change():
    from small_templates import CHATML
    from small_tokenizers import small_tokenizer

    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "one"}]
    rows = Dataset.from_list([{"messages": [turns[0], call]}, {"messages": turns}])
    done = prepare_dataset(rows, small_tokenizer(CHATML))
    (finding,) = _check_report("train", done.report, False)
    assert finding.text.startswith(
        "1 row is dropped: the chat template renders nothing of the answer (row 1)"
    )
    assert "--chat_template_path" in finding.text
    assert "--chat_template_path" in "".join(done.report.lines(findings=True))


def test_lost_answers_count_as_cut_rows_do(tokenizer):
    """One row in ten, with nearly all of the trained tokens."""
    rows = [*FINE[1:], {"prompt": "7", "completion": " 7" * 200}]
    ((level, _, text), *_) = found(tokenizer, rows, max_length=60)
    assert level == "refused"
    assert "truncates 10.0% of the rows" in text


def test_rows_are_named_as_they_stand_in_the_data(tokenizer):
    """Row 2 is dropped, so that what was kept third is row 4."""
    rows = [FINE[0], {"prompt": "", "completion": ""}, FINE[1], FINE[0], FINE[2], FINE[0]]
    rows = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]
    texts = [text for _, _, text in found(tokenizer, rows)]
    assert texts[0] == "1 row is dropped: the answer is empty (row 2)"
    assert texts[1].startswith(
        "2 of 5 rows are copies of earlier ones (row 4 is the first, a copy of row 1). Fix: "
    )


def test_rows_of_several_files_are_named_with_their_file(tokenizer, tmp_path):
    """Of b.jsonl row 1 is dropped, so that its row 2 is the third that is kept: a copy of row 2 of a.jsonl."""
    from trl import DatasetMixtureConfig, ScriptArguments, SFTConfig

    from ift.data import load_train_and_eval

    folder = tmp_path / "rows"
    folder.mkdir()
    empty = {"prompt": "", "completion": ""}
    for name, rows in {"a": FINE[:2], "b": [empty, FINE[1], FINE[2]]}.items():
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = SFTConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True)
    entries = [DatasetConfig(path=str(folder / f"{name}.jsonl")) for name in "ab"]
    given = {
        "mixture": (ScriptArguments(dataset_name=None), DatasetMixtureConfig(datasets=entries)),
        "folder": (ScriptArguments(dataset_name=str(folder)), DatasetMixtureConfig()),
    }
    for script, mixture in given.values():
        data = load_train_and_eval(script, mixture, config)
        sets = {name: prepare_mixture(data.train, tokenizer, name=name) for name in ("train", "eval")}
        scans = {name: scan_rows(one, tokenizer, end_of_turn_ids(tokenizer)) for name, one in sets.items()}
        texts = [one.text for one in data_findings(sets, scans, tokenizer, vocabulary=521, rows_per_step=1)]
        first, original = f"row 2 of {folder / 'b.jsonl'}", f"row 2 of {folder / 'a.jsonl'}"
        copies = f"1 of 4 rows is a copy of an earlier one ({first} is the first, a copy of {original}). Fix"
        assert sum(text.startswith(copies) for text in texts) == 2
        place = f"row 1 of {folder / 'a.jsonl'}"
        assert any(f"(the first: evaluation {place}, training {place})" in text for text in texts)


def test_evaluation_rows_that_are_trained(tokenizer):
    ((level, about, text),) = found(tokenizer, FINE, [{"prompt": "1 plus 5 =", "completion": " 6"}, FINE[3]])
    assert (level, about) == ("warning", "eval")
    assert text.startswith(
        "1 evaluation row is also a training row (the first: evaluation row 2, training row 4)"
    )
    other = {**FINE[3], "completion": " 7"}
    ((_, _, text),) = found(tokenizer, FINE, [other])
    assert text.startswith(
        "1 evaluation prompt is also a training prompt (the first: evaluation row 1, training row 4)"
    )


def test_prompts_with_several_answers_are_counted_and_no_fault(tokenizer):
    """Copies do not count."""
    more = [{**FINE[3], "completion": " x"}, {**FINE[3], "completion": " y"}, {**FINE[1], "completion": " z"}]
    assert found(tokenizer, [*FINE, *more]) == [
        ("note", "train", "2 prompts have several answers, all of them trained (first row 2 and row 13)")
    ]
    assert not any(level == "note" for level, _, _ in found(tokenizer, [*FINE, FINE[0]]))
    others = [{"prompt": "Say:", "completion": f" {n}"} for n in range(2)]
    assert (
        "note",
        "eval",
        "1 prompt has several answers, all of them scored (first row 1 and row 2)",
    ) in found(tokenizer, FINE, others)


def test_a_conversation_that_goes_on_is_no_other_answer(tokenizer):
    """Two rows have the same question and answer, and one has a further turn."""
    turns = [
        {"role": role, "content": text}
        for role, text in (("user", "Hi"), ("assistant", "Hello"), ("user", "And?"), ("assistant", "Bye"))
    ]
    other = [turns[0], {"role": "assistant", "content": "Good day"}, *turns[2:]]
    rows, tokenizer = (
        [{"messages": turns[:2]}, {"messages": turns}],
        copy.deepcopy(tokenizer),
    )  # gets a template
    assert not any("several answers" in text for _, _, text in found(tokenizer, rows))
    assert any(
        "1 prompt has several answers" in text
        for _, _, text in found(tokenizer, [*rows, {"messages": other}])
    )


def test_rows_beyond_the_positions_are_counted_with_those_that_are_dropped(tokenizer):
    """Two answers begin after max_length. Red when: rows that are not kept are in no line."""
    rows = [*FINE, *({"prompt": "1 plus 1 " * 40 + f"{n} =", "completion": " 2"} for n in range(2))]
    ((level, _, text),) = found(tokenizer, rows, max_length=60, positions=("n_positions", 50))
    assert level == "refused"
    assert text.startswith("2 rows are longer than the 50 positions")
    assert "; of these, 2 rows are dropped: nothing to learn before max_length 60. Fix: " in text


def test_advice_on_length_never_repeats_the_length_that_was_given(tokenizer):
    rows = [*FINE, {"prompt": "1 plus 1 " * 40, "completion": " 2"}]
    for max_length, repeated in ((50, False), (40, True)):
        texts = [text for _, _, text in found(tokenizer, rows, max_length=max_length, positions=("n", 50))]
        (text,) = [text for text in texts if "truncates" in text]
        assert ("--max_length 50 cuts less" in text) == repeated


def test_the_name_of_a_part_is_no_reason(tokenizer):
    """The part is named truncation and each reason begins with its name: its empty answer is dropped for no length.

    Red when: words of the message decide what was cut away.
    """
    long = {"prompt": "1 plus 1 " * 40, "completion": " 2"}
    parts = [
        Part("truncation to max_length", Dataset.from_list([*FINE, {"prompt": "5", "completion": ""}])),
        Part("other: rows", Dataset.from_list([*FINE, long])),
    ]
    sets = {"train": prepare_mixture(parts, tokenizer, max_length=60)}
    scans = {"train": scan_rows(sets["train"], tokenizer, end_of_turn_ids(tokenizer))}
    report = sets["train"].report
    assert report.rows_cut_away == 1
    texts = [one.text for one in data_findings(sets, scans, tokenizer, vocabulary=521, rows_per_step=1)]
    name = "train truncation to max_length"
    assert f"1 row is dropped: {name}: the answer is empty (row 11)" in texts
    assert not any("dropped: train other: rows" in text for text in texts)  # told with those that are cut


def test_ids_beyond_the_model_are_refused(tokenizer):
    rows = [{"input_ids": [5, 900, 2], "labels": [-100, 900, 2]}]
    ((level, _, text),) = found(tokenizer, rows)
    assert level == "refused"
    assert "the token id 900, but the model has only 521 embeddings" in text
    assert found(tokenizer, rows, vocabulary=901) == []


def test_rows_that_never_end(tokenizer):
    rows = [{"input_ids": [5 + n, 6, 7], "labels": [-100, 6, 7]} for n in range(3)]
    rows.append({"input_ids": [8, 6, 2], "labels": [-100, 6, 2]})
    ((level, _, text),) = found(tokenizer, rows)
    assert level == "warning"
    assert text.startswith("3 of 4 rows train no token that ends an answer (row 1 is the first)")


def test_bos_twice_and_bos_missing():
    tokenizer = models.tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    rows = [[bos, 9, eos], [bos, bos, 9, eos], [9, 9, eos]]
    texts = [
        text
        for _, _, text in found(
            tokenizer, [{"input_ids": row, "labels": row} for row in rows], vocabulary=len(tokenizer)
        )
    ]
    assert [text.split(" (")[0] for text in texts] == [
        "1 row begins with the beginning-of-sequence token twice",
        "1 row does not begin with the beginning-of-sequence token, which the tokenizer puts before plain text",
    ]
    assert "row 2 is the first" in texts[0]
    assert "row 3 is the first" in texts[1]


def test_plain_text_for_a_model_that_converses():
    """Told where the model has a template, unless the text was made with one, or is a conversation."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base_path())
    ((level, _, text),) = found(tokenizer, FINE)
    assert (level, "chat template" in text) == ("warning", True)
    assert "--dataset_columns prompt=instruction completion=output" in text
    renamed = [{"instruction": row["prompt"], "output": row["completion"]} for row in FINE]
    assert found(tokenizer, renamed) == []  # as the warning says
    made = [{"prompt": f"<|user|>{n} plus 1<|end|><|assistant|>", "completion": f"{n}"} for n in range(10)]
    turns = [{"role": "user", "content": "1 plus 1"}, {"role": "assistant", "content": "2"}]
    assert found(tokenizer, made) == found(tokenizer, [{"messages": turns}]) == []


def test_plain_text_in_a_mixture_is_named_by_its_part():
    """Of four parts only the plain one is named: not the conversation, nor text that was made with the template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base_path())
    turns = [{"role": "user", "content": "1 plus 1"}, {"role": "assistant", "content": "2"}]
    made = [{"prompt": f"<|user|>{n} plus 1<|end|><|assistant|>", "completion": f"{n}"} for n in range(3)]
    glued = [{"prompt": "1 plus 5?", "completion": "6"}]
    rows = {"chat": [{"messages": turns}], "plain": FINE, "made": made, "glued": glued}
    parts = [Part(name, Dataset.from_list(one)) for name, one in rows.items()]
    prepared = {"train": prepare_mixture(parts, tokenizer)}
    scans = {"train": scan_rows(prepared["train"], tokenizer, end_of_turn_ids(tokenizer))}
    findings = data_findings(prepared, scans, tokenizer, vocabulary=521, rows_per_step=1)
    texts = [one.text for one in findings if one.level == "warning"]
    assert [text.partition(", so")[0] for text in texts if "chat template is not used" in text] == [
        "the rows of plain are plain text",
        "the rows of glued are plain text",
    ]
    assert any(text.startswith("1 of 15 rows has no space or line end") for text in texts)


def test_plain_pairs_leave_the_template_out_too():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base_path())
    rows = [{"prompt": f"{n} plus 1 =", "chosen": f" {n + 1}", "rejected": f" {n}"} for n in range(4)]
    prepared = {"train": prepare_pairs([Part("train", Dataset.from_list(rows))], tokenizer)}
    scans = {"train": scan_rows(prepared["train"], tokenizer, end_of_turn_ids(tokenizer))}
    (found,) = data_findings(prepared, scans, tokenizer, vocabulary=521, rows_per_step=1)
    assert found.text.startswith("the rows are plain text, so the model's chat template is not used")


def scan_of_pairs(tokenizer, rows):
    """The pairs, their scan, and its findings for a model with 521 embeddings."""
    sets = {"train": prepare_pairs([Part("train", Dataset.from_list(rows))], tokenizer)}
    scans = {"train": scan_rows(sets["train"], tokenizer, end_of_turn_ids(tokenizer))}
    findings = data_findings(sets, scans, tokenizer, vocabulary=521, rows_per_step=1)
    return scans["train"], [one.text for one in findings]


PAIR = {"prompt": "1 plus 1 =", "chosen": " 2", "rejected": " 3"}


def test_pairs_with_several_rejected_answers_are_no_copies(tokenizer):
    """Row 2 rejects another answer; row 3 repeats row 1. Red when: a row is known by its chosen side."""
    _, texts = scan_of_pairs(tokenizer, [PAIR, {**PAIR, "rejected": " 4"}, PAIR])
    assert [text.partition(". Fix")[0] for text in texts] == [
        "1 of 3 rows is a copy of an earlier one (row 3 is the first, a copy of row 1)"
    ]


def test_a_resumed_run_knows_both_sides_of_its_pairs(tokenizer):
    """Red when: the hash that a checkpoint keeps of the rows stays the same for another rejected answer."""
    others = [{**PAIR, "rejected": " 4"}, {**PAIR, "chosen": " 4"}, {**PAIR, "prompt": "2 plus 1 ="}]
    scans = [scan_of_pairs(tokenizer, [one])[0] for one in [PAIR, *others]]
    hashes = [hashlib.sha256(b"".join(scan.keys)).hexdigest() for scan in scans]
    assert len({*hashes}) == 4
    assert scan_of_pairs(tokenizer, [PAIR])[0].keys == scans[0].keys


def test_rows_without_pairs_keep_the_hash_that_checkpoints_have(tokenizer):
    """Computed before pairs were hashed on both sides."""
    rows = [{"input_ids": [5 + n, 6, 7], "labels": [-100, 6, 7]} for n in range(3)]
    prepared = prepare_dataset(Dataset.from_list(rows), tokenizer)
    keys = scan_rows(prepared, tokenizer, end_of_turn_ids(tokenizer)).keys
    known = "6d860e7e6ec836513cac2a49fb2e3b806da734036f509f35a4b5584a26329688"
    assert hashlib.sha256(b"".join(keys)).hexdigest() == known


def test_an_id_of_a_rejected_answer_beyond_the_model_is_refused(tokenizer):
    """An added token has id 521, one more than the last embedding. Red when: chosen answers alone are looked at."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<new>"])
    number = tokenizer.convert_tokens_to_ids("<new>")
    scan, texts = scan_of_pairs(tokenizer, [{**PAIR, "rejected": " <new>"}])
    assert scan.largest_id == number >= 521
    assert f"the rows hold the token id {number}, but the model has only 521 embeddings" in texts[0]


def test_answers_without_a_space_before_them(tokenizer):
    """`7?8` and `7.8` but not `7? 8`, `7 = 8` with a line end, nor `=8`."""
    ends = ("?", ".", "? ", " =", "\n")
    rows = [{"prompt": f"{n} and 7{end}", "completion": "8"} for n, end in enumerate(ends)]
    ((level, _, text),) = found(tokenizer, rows)
    assert level == "warning"
    assert text.startswith(
        "2 of 5 rows have no space or line end between the prompt and the completion (row 1 "
    )


def test_fewer_rows_than_a_step(tokenizer):
    ((level, _, text),) = found(tokenizer, FINE, step=16)
    assert level == "warning"
    assert "10 rows are fewer than the 16 of one step" in text
