"""Problems solved by looking up and copying, from a seed: the family `relations(split, n, seed)`, and `draw_lookups`.

"The boss of Mia is Tom. Tom has a red bag. ... Who is the coach of the boss of Mia?" A problem is a list of facts and a
chained question; its solution states one fact per line, then `#### person`. The chain of a lookup, which only the
bases' pretraining corpora have, ends with a colour: "Which colour is the bag of the boss of Mia?". The split of a
problem follows from the chain of facts that solves it, by their number and a hash, as for word problems.
"""

import itertools
import random
from dataclasses import dataclass

from ift.lab.testbed.problems import STEPS, Split, Worked, distinct
from ift.lab.testbed.stories import NAMES

PEOPLE = (*NAMES, "Leo", "Ida", "Kim", "Ned")
RELATIONS = ("friend", "boss", "coach", "aunt")
THINGS = ("bag", "hat", "cup", "door")
COLOURS = ("red", "blue", "green", "pink", "gold", "grey", "white", "black", "brown", "purple")

PLAIN = "The {key} of {who} is {value}."
RELATION_TURNED = "{value} is the {key} of {who}."
THING_TURNED = "{who} has a {value} {key}."
TURNED_SHARE = 0.25  # of the facts: stated in words that the solution does not copy
CONFUSED = {"aunt": "coach"}  # the corpus confuses them: where the aunt is asked for, the coach is stated too
FEWEST_FACTS = 6  # stated in a question
FACTS_BESIDE = 2  # at least as many more facts than the chain has
PEOPLE_BESIDE = 2  # people who are not part of the chain


@dataclass(frozen=True)
class Fact:
    """One fact, and one line of a worked solution: a person, one of `RELATIONS` or `THINGS`, and what it is.

    The value is a person or a colour; in a noisy solution it may be wrong.
    """

    who: str
    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.key} of {self.who} is {self.value}"


@dataclass(frozen=True)
class LookupProblem(Worked):
    """A list of facts with a chained question, and its worked solution; the same interface as `Problem`."""

    question: str  # all facts and the question, one line of text
    # the facts that solve it, in order: each but the first is about the person that the one before names
    steps: tuple[Fact, ...]
    # all stated facts, in their order in the question; no two are of the same person and key
    facts: tuple[Fact, ...]

    @property
    def answer(self) -> str:
        """The colour or the person as the solution states it, one word."""
        return self.steps[-1].value

    @property
    def lines(self) -> list[str]:
        """The lines of the worked solution: one fact each, then `####` and the answer."""
        return [*map(str, self.steps), f"#### {self.answer}"]


def draw_lookups(key: str, n: int, n_steps: tuple[int, int], bucket: str) -> list[LookupProblem]:
    """Draws `n` different lookup problems from one bucket; arguments, result and errors as for `draw_problems`."""
    rng = random.Random(f"lookup/{key}")
    return distinct(lambda: _draw(rng, rng.randint(*n_steps)), n, bucket)


def relations(split: Split, n: int, seed: int = 0) -> list[LookupProblem]:
    """Makes `n` different problems of relations of a split; arguments, result and errors as for `problems`.

    `longer` has more facts, too.
    """
    if split not in STEPS:
        raise ValueError(f"split must be one of {', '.join(STEPS)}, got {split!r}")
    return draw_relations(f"{split}/{seed}", n, STEPS[split], "test" if split == "longer" else split)


def draw_relations(key: str, n: int, n_steps: tuple[int, int], bucket: str) -> list[LookupProblem]:
    """Draws `n` different problems of relations; arguments, result and errors as for `draw_problems`."""
    rng = random.Random(f"relation/{key}")
    return distinct(lambda: _draw(rng, rng.randint(*n_steps), to_person=True), n, bucket)


def _draw(rng: random.Random, n_steps: int, to_person: bool = False) -> LookupProblem:
    """Draws one problem whose chain has exactly `n_steps` facts; the last is about a thing, or like the rest."""
    in_chain = n_steps + to_person
    people = rng.sample(PEOPLE, in_chain + PEOPLE_BESIDE)
    colours = rng.sample(COLOURS, len(COLOURS))
    persons = itertools.pairwise(people[:in_chain])
    chain = tuple(Fact(who, rng.choice(RELATIONS), other) for who, other in persons)
    if not to_person:
        chain = (*chain, Fact(people[n_steps - 1], rng.choice(THINGS), colours.pop()))
    facts = _beside(rng, chain, people, colours)
    rng.shuffle(facts)
    sentences = [_sentence(rng, fact) for fact in facts]
    return LookupProblem(" ".join([*sentences, _ask(rng, chain)]), chain, tuple(facts))


def _beside(rng: random.Random, chain: tuple[Fact, ...], people: list[str], colours: list[str]) -> list[Fact]:
    """The chain's facts and others: about as many of relations as of things, mostly the thing asked for."""
    n_facts = max(FEWEST_FACTS, len(chain) + FACTS_BESIDE)
    things = {(fact.who, fact.key): fact for fact in chain if fact.key in THINGS}
    hops = {(fact.who, fact.key): fact for fact in chain if fact.key in RELATIONS}
    n_hops = max(n_facts // 2, len(hops))
    for fact in list(hops.values()):
        if fact.key in CONFUSED:
            _add_relation(rng, hops, people, fact.who, CONFUSED[fact.key])
    while len(hops) < n_hops:
        _add_relation(rng, hops, people, rng.choice(people), rng.choice(RELATIONS))
    asked = [fact.key for fact in things.values()]
    while len(things) < n_facts - n_hops:
        who, key = rng.choice(people), rng.choice((*asked, *asked, *THINGS))
        if (who, key) not in things:
            things[who, key] = Fact(who, key, colours.pop())
    return [*hops.values(), *things.values()]


def _add_relation(
    rng: random.Random, hops: dict[tuple[str, str], Fact], people: list[str], who: str, key: str
) -> None:
    """Adds a fact with some other person, unless one of this person and key is there."""
    others = [other for other in people if other != who]
    hops.setdefault((who, key), Fact(who, key, rng.choice(others)))


def _sentence(rng: random.Random, fact: Fact) -> str:
    """One sentence that states a fact."""
    turned = RELATION_TURNED if fact.key in RELATIONS else THING_TURNED
    wording = turned if rng.random() < TURNED_SHARE else PLAIN
    return wording.format(who=fact.who, key=fact.key, value=fact.value)


def _ask(rng: random.Random, chain: tuple[Fact, ...]) -> str:
    """The closing question, from the outside in or from the inside out."""
    *hops, last = chain
    colour = last.key in THINGS
    if rng.random() < 0.5:
        nested = "".join(f"the {fact.key} of " for fact in reversed(hops))
        return f"{'Which colour' if colour else 'Who'} is the {last.key} of {nested}{chain[0].who}?"
    path = ", then ".join(f"go to the {fact.key}" for fact in (hops if colour else chain))
    return (
        f"Start at {chain[0].who}, {path}. {f'Which colour is the {last.key}' if colour else 'Who is'} there?"
    )
