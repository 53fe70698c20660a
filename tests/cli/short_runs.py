"""Rows in every form, and the settings of a run that ends at once."""

QUESTIONS = [f"What is {n} plus {n}?" for n in range(8)]

ANSWERS = [f"The answer is {2 * n}{', so it is' * (n % 3)}." for n in range(8)]


def asked(question):
    return {"role": "user", "content": question}


def answered(answer):
    return {"role": "assistant", "content": answer}


ROWS = {
    "messages": [{"messages": [asked(q), answered(a)]} for q, a in zip(QUESTIONS, ANSWERS, strict=True)],
    "ShareGPT": [
        {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
        for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ],
    "Alpaca": [{"instruction": q, "input": "", "output": a} for q, a in zip(QUESTIONS, ANSWERS, strict=True)],
    "prompt-completion, conversational": [
        {"prompt": [asked(q)], "completion": [answered(a)]} for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ],
    "prompt-completion, text": [
        {"prompt": q, "completion": " " + a} for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ],
    "preference, conversational": [
        {
            "prompt": q,
            "chosen": [asked(q), answered(a)],
            "rejected": [asked(q), answered("No idea at all.")],
            "messages": [asked(q), answered("something else")],
        }
        for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ],
    "text": [{"text": f"{q} {a}"} for q, a in zip(QUESTIONS, ANSWERS, strict=True)],
    "tokenised": [
        {"input_ids": list(range(10, 20 + n)), "labels": [-100] * 4 + list(range(14, 20 + n))}
        for n in range(8)
    ],
}

SHORT = {
    "final_answers": 0,
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "gradient_checkpointing": "false",
}
