"""Which prompts are answered after a training."""

from datasets import Dataset
from small_templates import CHATML
from small_tokenizers import small_tokenizer

from ift.data import Part, prepare_mixture
from ift.generation.after_training import _questions


def talk(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def test_prompts_differ_and_are_of_all_data_sets():
    """Of 40, 6 and 2 rows with 20, 3 and 2 prompts, two of which the first data set has as well."""
    sizes = {"a": 40, "b": 6, "c": 2}
    parts = [
        Part(name, Dataset.from_list([talk(f"{name if n else 'a'} {n // 2}", f"{n}") for n in range(size)]))
        for name, size in sizes.items()
    ]
    tokenizer = small_tokenizer(CHATML)
    rows = prepare_mixture(parts, tokenizer)
    asked = _questions(rows, 6, seed=1)
    assert [number for number, _, _ in asked] == sorted(number for number, _, _ in asked)
    assert len({tuple(prompt) for _, prompt, _ in asked}) == 6
    assert {(number > 40) + (number > 46) for number, _, _ in asked} == {0, 1, 2}
    for number, prompt, target in asked:
        assert rows.dataset[number - 1]["input_ids"][: len(prompt) + len(target)] == [*prompt, *target]
    everything = _questions(rows, 99, seed=1)
    assert len({tuple(prompt) for _, prompt, _ in everything}) == len(everything) < 48
