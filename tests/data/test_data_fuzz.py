"""Thousands of random rows, well-formed and broken: refused with row, place and remedy, or read as an oracle does.

The oracle reads the formats of docs/data.md in its own few lines; it shares no code with the package.
"""

import copy

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ift.data import DataError, detect_format

FUZZ = settings(
    max_examples=700, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip
WORDS = st.text(st.characters(codec="utf-8"), max_size=6)
SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}
ROLES = ("system", "developer", "user", "assistant", "tool")

# --- well-formed rows, each with what it must become: (role, content, trained) for turns, else the row itself ---------


def turns(*roles):
    return st.lists(st.tuples(st.sampled_from(roles), WORDS), max_size=4)


def spoken(pairs, trained=True):
    return [(role, text, trained and role == "assistant") for role, text in pairs]


def chat(pairs):
    return [{"role": role, "content": text} for role, text in pairs]


def flagged(pairs, flags):
    """Turns of which some say themselves whether they are trained."""
    rows, wanted = [], []
    for (role, text), flag in zip(pairs, flags, strict=True):
        rows.append({"role": role, "content": text} | ({} if flag is None else {"train": flag}))
        wanted.append((role, text, role == "assistant" and flag is not False))
    return {"messages": rows}, wanted


@st.composite
def messages(draw):
    pairs = [*draw(turns(*ROLES)), ("assistant", draw(WORDS))]
    flags = draw(st.lists(st.sampled_from([None, True, False]), min_size=len(pairs), max_size=len(pairs)))
    return flagged(pairs, flags)


@st.composite
def sharegpt(draw):
    pairs = [*draw(turns(*SPEAKERS, *ROLES)), ("gpt", draw(WORDS))]
    system = draw(st.none() | WORDS)
    own = any(who in ("system", "developer") for who, _ in pairs)  # which then is the system turn
    before = [("system", system)] if system and not own else []
    row = {"conversations": [{"from": who, "value": text} for who, text in pairs], "system": system}
    return row, spoken(before + [(SPEAKERS.get(who, who), text) for who, text in pairs])


@st.composite
def alpaca(draw):
    question, extra, answer = draw(WORDS), draw(st.none() | WORDS), draw(WORDS)
    asked = f"{question}\n\n{extra}" if extra and extra.strip() else question
    row = {"instruction": question, "input": extra, "output": answer}
    return row, spoken([("user", asked), ("assistant", answer)])


@st.composite
def prompt_completion(draw):
    before, after = (
        draw(turns("system", "user", "assistant")),
        [*draw(turns("user", "assistant")), ("assistant", draw(WORDS))],
    )
    prompt, completion, text = draw(st.booleans()), draw(st.booleans()), draw(WORDS)
    if prompt and completion:
        row = {"prompt": text, "completion": text[::-1]}
        return row, row
    wanted = spoken([("user", text)] if prompt else before, trained=False)
    wanted += spoken([("assistant", text)] if completion else after)
    return {
        "prompt": text if prompt else chat(before),
        "completion": text if completion else chat(after),
    }, wanted


@st.composite
def preference(draw):
    asked, better, worse = draw(WORDS), draw(WORDS), draw(WORDS)
    pairs = [("user", asked), ("assistant", better)]
    if draw(st.booleans()):
        row = {"prompt": asked, "chosen": better, "rejected": worse}
        return row, {"prompt": asked, "completion": better}
    return {"chosen": chat(pairs), "rejected": chat([pairs[0], ("assistant", worse)])}, spoken(pairs)


@st.composite
def tokenised(draw):
    ids = draw(st.lists(st.integers(0, 300), max_size=6))
    labels = [draw(st.sampled_from([one, -100])) for one in ids]
    kind = draw(st.sampled_from(["labels", "completion_mask", "none"]))
    wanted = {"input_ids": ids, "labels": ids if kind == "none" else labels}
    marks = {"labels": labels, "completion_mask": [int(one != -100) for one in labels]}
    return {"input_ids": ids, **({kind: marks[kind]} if kind in marks else {})}, wanted


PLAIN = WORDS.map(lambda text: ({"text": text}, {"text": text}))
FORMATS = st.one_of(messages(), sharegpt(), alpaca(), prompt_completion(), preference(), tokenised(), PLAIN)


def read(row, number=7):
    return detect_format(row.keys(), [row]).convert(row, number)


def as_the_oracle_says(done):
    if "messages" not in done:
        return done
    return [(turn["role"], turn["content"], turn["train"]) for turn in done["messages"]]


@FUZZ
@given(
    FORMATS, st.dictionaries(st.sampled_from(["id", "source", "score"]), st.integers() | WORDS, max_size=2)
)
def test_well_formed_rows_become_what_the_oracle_says(pair, beside):
    row, wanted = pair
    before = copy.deepcopy(row)
    assert as_the_oracle_says(read({**row, **beside})) == wanted
    assert row == before  # rows are not written into


# --- the same rows with something broken in them ----------------------------------------------------------------------

GARBAGE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), WORDS, st.binary(max_size=3), st.just([]), st.just({}),
    st.lists(st.none() | st.integers() | WORDS, min_size=1, max_size=2),
    st.dictionaries(st.sampled_from(["role", "content", "from", "value", "train", "tool_calls"]), st.none() | WORDS),
)  # fmt: skip


def places(value, path=()):
    """Every place in a nested row, from the outside in."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield (*path, key)
        yield from places(one, (*path, key))


@st.composite
def broken(draw):
    row = copy.deepcopy(draw(FORMATS)[0])
    for _ in range(draw(st.integers(1, 2))):
        found = sorted(places(row), key=str)
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        inside = row
        for key in path:
            inside = inside[key]
        if draw(st.booleans()):
            inside[last] = draw(GARBAGE)
        elif isinstance(inside, dict):
            inside.pop(last)
        else:
            inside.insert(last, draw(GARBAGE))
    return row


@FUZZ
@given(broken())
def test_broken_rows_are_refused_by_place_with_a_remedy_or_are_rows(row):
    try:
        done = read(row)
    except DataError as error:
        said = str(error)
        assert "Fix: " in said
        assert said.startswith(('row 7, column "', "no known data format: found columns ")), said
        return
    if "messages" not in done:
        assert set(done) in ({"text"}, {"prompt", "completion"}, {"input_ids", "labels"})
        if "input_ids" in done:
            assert len(done["input_ids"]) == len(done["labels"])
            assert all(type(one) is int and one >= 0 for one in done["input_ids"])
            assert all(type(one) is int and (one >= 0 or one == -100) for one in done["labels"])
        else:
            assert all(isinstance(text, str) for text in done.values())
        return
    assert done["messages"]
    for turn in done["messages"]:
        assert turn["role"] in ROLES
        assert isinstance(turn["content"], str)
        assert isinstance(turn["train"], bool)
        assert turn["role"] == "assistant" or not turn["train"]


COLUMNS = [
    "chosen",
    "rejected",
    "prompt",
    "completion",
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
]
COLUMNS += ["text", "input_ids", "labels", "tools", "system", "chat_template_kwargs", "anything"]


@settings(FUZZ, max_examples=200)
@given(st.lists(st.sampled_from(COLUMNS), max_size=5))
def test_the_format_is_the_first_of_the_documented_order(columns):
    """The order of docs/data.md: tokenised, preference, messages, ShareGPT, prompt-completion, Alpaca, text."""
    order = [({"input_ids"}, "tokenised"), ({"chosen"}, "preference"), ({"messages"}, "chat messages"),
             ({"conversations"}, "ShareGPT"), ({"prompt", "completion"}, "prompt-completion"),
             ({"instruction", "output"}, "Alpaca"), ({"text"}, "text")]  # fmt: skip
    wanted = next((name for needed, name in order if needed <= set(columns)), None)
    try:
        found = detect_format(columns).name
    except DataError as error:
        assert wanted is None
        assert all(column in str(error) for column in columns)  # noqa: PT017
        return
    assert wanted is not None
    assert found.partition(",")[0] == wanted
