"""The text that `tutorial-4l` is trained on: English made from `facts.py`, and repeated noise.

Everything is drawn from one seeded generator, so the same seed gives the same text. Two things
are kept out of it, to be asked of the trained model (`evaluate.py`):

- each country and landmark lacks two of its phrasings (`held_out_templates`). Right answers there
  mean that the fact was recalled, not that a sentence was copied;
- some pairs of names never meet (`is_held_out_pair`).
"""

import random
from collections.abc import Iterator

from . import facts

# Share of each kind among the English documents.
MIXTURE = {
    "capital": 0.34,
    "landmark": 0.28,
    "review": 0.12,
    "indirect_object": 0.12,
    "story": 0.05,
    "saying": 0.06,
    "sequence": 0.03,
}


def held_out_templates(subject: str, templates: list[str], n: int = 2) -> list[str]:
    """The `n` phrasings that never occur with `subject`; never the first, canonical one."""
    return random.Random(f"held out: {subject}").sample(templates[1:], n)


def is_held_out_pair(first: str, second: str) -> bool:
    """One pair of names in five never occurs together in an indirect-object sentence."""
    return sum(sorted((facts.NAMES.index(first), facts.NAMES.index(second)))) % 5 == 0


def fact(rng: random.Random, kind: str) -> str:
    """One sentence that states a capital or the city of a landmark."""
    table, templates = {
        "capital": (facts.CAPITALS, facts.CAPITAL_TEMPLATES),
        "landmark": (facts.LANDMARKS, facts.LANDMARK_TEMPLATES),
    }[kind]
    subject = rng.choice(list(table))
    hidden = held_out_templates(subject, templates)
    seen = [template for template in templates if template not in hidden]
    template = rng.choice(seen + facts.REVERSE_TEMPLATES[kind])
    return template.format(s=subject, a=table[subject])


def indirect_object(rng: random.Random) -> str:
    """Two names, one of them repeated as the giver: the other one receives (Wang et al. 2022)."""
    while True:
        giver, receiver = rng.sample(facts.NAMES, 2)
        if not is_held_out_pair(giver, receiver):
            break
    first, second = rng.sample([giver, receiver], 2)
    place, thing = rng.choice(facts.PLACES), rng.choice(facts.OBJECTS)
    opening = rng.choice(
        [
            f"When {first} and {second} went to the {place}, {giver}",
            f"After {first} and {second} went to the {place}, {giver}",
            f"Then, {first} and {second} went to the {place}. {giver}",
            f"{first} and {second} were at the {place}. Then {giver}",
        ]
    )
    return f"{opening} {rng.choice(facts.GIVING)} a {thing} to {receiver}."


def review(rng: random.Random) -> str:
    """Three to six sentences of one sentiment."""
    positive = rng.random() < 0.5
    words = facts.POSITIVE if positive else facts.NEGATIVE
    verb = rng.choice(["love", "enjoy", "adore"] if positive else ["hate", "dislike", "detest"])
    feeling = rng.choice(["happy", "glad"] if positive else ["sad", "angry"])
    verdict = (
        ["I want to see it again.", "Everyone should go.", "It deserves a prize."]
        if positive
        else ["I want my money back.", "Nobody should go.", "It deserves no prize."]
    )
    thing = rng.choice("movie movie movie film book play song concert show".split())
    part, other_part = rng.sample("story acting music ending beginning cast writing".split(), 2)
    one, two, three, four = rng.sample(words, 4)
    opening = rng.choice(
        [
            f"The {thing} was {one}.",
            f"The {thing} was {one}.",
            f"I {verb} this! It's absolutely {one} and {two}.",
            f"I {verb} this {thing}. It is {one}.",
            f"What a {one} {thing}!",
        ]
    )
    more = [
        f"The {part} was {three} and the {other_part} was {four}.",
        f"I {verb} it.",
        f"It made me {feeling}.",
        f"My friends said it was {two}.",
        f"It was a {three} evening.",
        rng.choice(verdict),
    ]
    return " ".join([opening, *rng.sample(more, rng.randint(2, 5))])


def story(rng: random.Random) -> str:
    """A few plain sentences about two people."""
    one, two = rng.sample(facts.NAMES, 2)
    place, thing = rng.choice(facts.PLACES), rng.choice(facts.OBJECTS)
    colour = rng.choice("red green blue white black yellow".split())
    animal = rng.choice("cat dog horse bird rabbit".split())
    weather = rng.choice(["The sun was shining.", "It was raining.", "The wind was cold."])
    sentences = [
        f"One day, {one} went to the {place}.",
        weather,
        f"{one} saw a {colour} {animal} near the {place}.",
        f"{one} wanted to buy a {thing}, so {two} came too.",
        f"The {animal} was {colour} and very small.",
        f"{two} laughed and took the {thing} home.",
        f"Then they walked home together and talked about the {thing}.",
    ]
    keep = sorted(rng.sample(range(1, len(sentences)), rng.randint(2, 4)))
    return " ".join([sentences[0], *(sentences[i] for i in keep)])


def sequence(rng: random.Random) -> str:
    """A run of weekdays, months, numbers or letters in their order."""
    words = rng.choice(facts.SEQUENCES)
    start = rng.randrange(len(words) - 3)
    return ", ".join(words[start : start + rng.randint(4, 8)]) + "."


def documents(seed: int) -> Iterator[str]:
    """English documents without end, in the proportions of `MIXTURE`."""
    rng = random.Random(seed)
    makers = {
        "capital": lambda: fact(rng, "capital"),
        "landmark": lambda: fact(rng, "landmark"),
        "review": lambda: review(rng),
        "indirect_object": lambda: indirect_object(rng),
        "story": lambda: story(rng),
        "saying": lambda: rng.choice(facts.SAYINGS),
        "sequence": lambda: sequence(rng),
    }
    kinds, weights = zip(*MIXTURE.items(), strict=True)
    while True:
        yield makers[rng.choices(kinds, weights)[0]]()


def repeated_noise(rng: random.Random, n_vocab: int, length: int) -> list[int]:
    """BOS (token 0), then a block of random tokens repeated until the row is full.

    The second copy can be predicted only by looking back, which is what makes an induction head
    form: without such rows none did (measured).
    """
    block = [rng.randrange(1, n_vocab) for _ in range(rng.randint(6, 62))]
    copies = -(-(length - 1) // len(block))  # rounded up
    return [0, *(block * copies)][:length]
