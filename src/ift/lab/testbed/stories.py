"""The sentences of the reasoning world: five kinds of story with a small vocabulary.

A story is a quantity that changes: an opening gives its first value, events change it, a question asks for the last
value. Placeholders: `{p}` and `{q}` are two names, `{g}` the goods, `{a}`, `{b}` and `{k}` whole numbers. The value v
is a in a plain opening, a * b for "product", a + b for "more", a - b for "fewer". Events make it v + k ("plus"), v - k
("minus"), v * k ("times"), v / 2 ("half"), or v + the other person's number, which the opening names ("join").
"""

from dataclasses import dataclass

NAMES = ("Tom", "Ana", "Sam", "Mia", "Ben", "Eva", "Max", "Zoe")
GOODS = ("apples", "pens", "books", "cards", "eggs", "stamps", "shells", "nuts")


@dataclass(frozen=True)
class Story:
    """One kind of story."""

    # sentences that begin the story, by opening; every story knows `plain` (v = a)
    openings: dict[str, tuple[str, ...]]
    events: dict[str, tuple[str, ...]]  # sentences that change the value, by event; several wordings each
    question: str  # the closing question
    unit: str  # the word after each result of the worked solution; may be `{g}`


GOODS_STORY = Story(
    openings={
        "plain": ("{p} has {a} {g}.", "There are {a} {g} in the box of {p}."),
        "product": ("{p} has {a} boxes with {b} {g} each.", "{p} fills {a} bags with {b} {g} each."),
        "more": ("{q} has {a} {g}. {p} has {b} more than {q}.",),
        "fewer": ("{q} has {a} {g}. {p} has {b} fewer than {q}.",),
    },
    events={
        "plus": ("{p} buys {k} more.", "{p} finds {k} more.", "A friend gives {k} {g} to {p}."),
        "minus": ("{p} loses {k}.", "{p} sells {k} of them.", "{p} gives {k} to a friend."),
        "times": ("Now there are {k} times as many.",),
        "half": ("{p} gives half of them away.", "{p} sells half of them."),
        "join": ("{q} gives all {g} to {p}.",),
    },
    question="How many {g} does {p} have now?",
    unit="{g}",
)

MONEY_STORY = Story(
    openings={
        "plain": ("{p} has {a} coins.", "{p} saves {a} coins."),
        "product": ("{p} works {a} hours and earns {b} coins each hour.",),
        "more": ("{q} has {a} coins. {p} has {b} coins more than {q}.",),
        "fewer": ("{q} has {a} coins. {p} has {b} coins fewer than {q}.",),
    },
    events={
        "plus": ("{p} earns {k} coins.", "{p} gets {k} coins from a friend."),
        "minus": ("{p} spends {k} coins.", "{p} pays {k} coins for a book."),
        "times": ("A prize makes it {k} times as much.",),
        "half": ("{p} spends half of it.",),
        "join": ("{q} gives all coins to {p}.",),
    },
    question="How many coins does {p} have left?",
    unit="coins",
)

PEOPLE_STORY = Story(
    openings={
        "plain": ("{a} people ride a bus.", "A bus starts with {a} people."),
        "product": ("{a} groups of {b} people get on a bus.",),
    },
    events={
        "plus": ("At the next stop {k} people get on.", "Then {k} more get on."),
        "minus": ("At the next stop {k} people get off.", "Then {k} get off."),
        "half": ("Then half of them get off.",),
        "times": ("At the market there are {k} times as many.",),
    },
    question="How many people ride the bus now?",
    unit="people",
)

DISTANCE_STORY = Story(
    openings={
        "plain": ("{p} is {a} km from home.", "{p} walks {a} km from home."),
        "product": ("{p} walks {a} hours at {b} km each hour, away from home.",),
    },
    events={
        "plus": ("Then {p} goes {k} km further.",),
        "minus": ("Then {p} comes {k} km back.", "Then {p} turns and walks {k} km home."),
        "half": ("Then {p} goes half of the way back.",),
        "times": ("A train takes {p} to a place {k} times as far.",),
    },
    question="How many km from home is {p} now?",
    unit="km",
)

TIME_STORY = Story(
    openings={
        "plain": ("A task takes {p} {a} minutes.", "{p} plans {a} minutes for a task."),
        "product": ("{p} has {a} tasks of {b} minutes each.",),
        "more": ("{q} needs {a} minutes. {p} needs {b} minutes more than {q}.",),
        "fewer": ("{q} needs {a} minutes. {p} needs {b} minutes fewer than {q}.",),
    },
    events={
        "plus": ("A break adds {k} minutes.", "{p} rests {k} minutes more."),
        "minus": ("A friend saves {p} {k} minutes.", "A trick saves {k} minutes."),
        "half": ("A machine does half of it.",),
        "times": ("Then {p} must do it {k} times.",),
        "join": ("{p} does the work of {q} too.",),
    },
    question="How many minutes does {p} need?",
    unit="minutes",
)

STORIES = (GOODS_STORY, MONEY_STORY, PEOPLE_STORY, DISTANCE_STORY, TIME_STORY)
