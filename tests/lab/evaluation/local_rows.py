"""A handful of rows for each of the paper's benchmarks, in the Hub's schemas and the layout of its repositories."""

import json


def write(folder, name, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def arc(number):
    labels = ["A", "B", "C", "D"] if number % 2 else ["1", "2", "3", "4"]
    return {
        "id": f"q{number}",
        "question": f"{number} + 1 is?",
        "choices": {"text": [str(number + add) for add in (0, 1, 2, 3)], "label": labels},
        "answerKey": labels[1],
    }


def gsm8k(number):
    return {
        "question": f"Tom has {number} and gets 2. How many has he?",
        "answer": f"{number}+2={number + 2} of them\n#### {number + 2}",
    }


def mmlu(subject, number):
    return {
        "question": f"{number} * 2 is?",
        "subject": subject,
        "choices": [str(number), str(number * 2), "0", "1"],
        "answer": 1,
    }


def truthfulqa(number):
    choices = [f"It is {number}.", f"About {number}.", "It is a fish."]
    return {
        "question": f"What is {number}?",
        "mc1_targets": {"choices": choices, "labels": [1, 0, 0]},
        "mc2_targets": {"choices": choices, "labels": [1, 1, 0]},
    }


def winogrande(number):
    return {
        "sentence": f"Ann gave Bob {number} as _ had many.",
        "option1": "Ann",
        "option2": "Bob",
        "answer": "1" if number % 2 else "2",
    }


def write_all(folder, questions=3):
    """All six benchmarks; of MMLU two subjects."""
    write(folder / "allenai/ai2_arc/ARC-Challenge", "train", map(arc, range(100, 130)))
    write(folder / "allenai/ai2_arc/ARC-Challenge", "test", map(arc, range(questions)))
    for subject, more in (("anatomy", 0), ("virology", 1)):
        write(folder / "cais/mmlu" / subject, "dev", [mmlu(subject, n) for n in range(40, 45)])
        write(folder / "cais/mmlu" / subject, "test", [mmlu(subject, n) for n in range(questions + more)])
    write(folder / "truthful_qa/multiple_choice", "validation", map(truthfulqa, range(questions)))
    write(folder / "winogrande/winogrande_xl", "train", map(winogrande, range(20, 30)))
    write(folder / "winogrande/winogrande_xl", "validation", map(winogrande, range(questions)))
    write(folder / "openai/gsm8k/main", "train", map(gsm8k, range(20, 30)))
    write(folder / "openai/gsm8k/main", "test", map(gsm8k, range(questions)))
    return folder
