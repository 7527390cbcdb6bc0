"""How is an arithmetic problem phrased? Many wordings and short stories for one chain of terms."""

from __future__ import annotations

import random

from training.tasks.problems import Chain, Term

_ASK = (
    "What is {e}?", "What's {e}?", "what is {e}", "Compute {e}.", "Calculate {e}.", "{e} = ?", "{e}", "{e} =", "How much is {e}?",
    "Find {e}.", "Find the value of {e}.", "Work out {e}.", "Evaluate {e}.", "Please compute {e}.", "Can you calculate {e}?",
    "Tell me {e}.", "I need the result of {e}.", "What does {e} equal?", "What do you get for {e}?", "Solve {e}.",
    "Give me the answer to {e}.", "Could you work out {e} for me?", "State the final answer to the following arithmetic problem: {e} =",
    "Hi! What is {e}?", "Hello, please solve {e}. Thanks!", "What is the result of {e}?", "What is the value of {e}?",
    "Simplify {e}.", "Determine {e}.", "how much is {e}", "Quick question: what is {e}?", "Help me with my homework: {e}",
)  # fmt: skip
_ASK_SUM = (
    "What is the sum of {a} and {b}?",
    "Add {a} and {b}.",
    "Add {b} to {a}.",
    "What do {a} and {b} add up to?",
    "What is the total of {a} and {b}?",
)
_ASK_DIFFERENCE = (
    "What is the difference between {a} and {b}?",
    "Subtract {b} from {a}.",
    "What is {a} take away {b}?",
    "How much is left of {a} after removing {b}?",
    "By how much is {a} larger than {b}?",
)
_ASK_PRODUCT = (
    "What is the product of {a} and {b}?", "Multiply {a} by {b}.", "Multiply {a} and {b}.", "What is {a} multiplied by {b}?",
    "Solve the following multiplication: {a} * {b}. Give only the result as your final answer.",
)  # fmt: skip
_ASK_MISSING = (
    "What must be added to {b} to get {a}?", "What number plus {b} equals {a}?", "{b} + ? = {a}", "Find x: x + {b} = {a}", "If x + {b} = {a}, what is x?",
    "How much more than {b} is {a}?", "{b} plus what is {a}?",
)  # fmt: skip

_SHE = ("Mia", "Anna", "Lena", "Sara", "Emma", "Kate", "Nina", "Lucy")
_HE = ("Tom", "Ben", "Omar", "Jack", "Noah", "Ali", "Paul", "Sam")
_THINGS = (
    "apples",
    "marbles",
    "books",
    "coins",
    "stickers",
    "pens",
    "cards",
    "shells",
    "cookies",
    "stamps",
    "eggs",
    "balls",
    "dollars",
    "points",
)
_GAIN = (
    "gets {n} more",
    "finds {n} more",
    "buys {n} more",
    "receives {n} from a friend",
    "wins {n}",
    "is given {n}",
    "picks up {n}",
    "collects {n} more",
)
_LOSE = (
    "gives away {n}",
    "loses {n}",
    "sells {n}",
    "gives {n} to a friend",
    "uses {n}",
    "drops {n}",
    "spends {n}",
    "throws away {n}",
)
_HOW_MANY = (
    "How many {t} does {p} have now?",
    "How many {t} are left?",
    "How many {t} does {p} have in the end?",
    "How many {t} is that now?",
)
_GROUPS = (
    "There are {a} boxes with {b} {t} each. How many {t} are there?", "{p} buys {a} bags with {b} {t} in each bag. How many {t} is that?",
    "Each of {a} children has {b} {t}. How many {t} do they have altogether?", "{p} reads {b} pages a day for {a} days. How many pages is that in total?",
    "A room has {a} rows of {b} chairs. How many chairs are in the room?", "One ticket costs {b} dollars. How much do {a} tickets cost?",
)  # fmt: skip


def phrase(chain: Chain, rng: random.Random) -> str:
    """The text of a question about a chain."""
    if chain.kind == "story":
        return _group_story(chain, rng) if len(chain.terms[0].factors) == 2 else _chain_story(chain, rng)
    if chain.kind == "missing":
        return rng.choice(_ASK_MISSING).format(a=chain.terms[0].size, b=chain.terms[1].size)
    if len(chain.terms) == 1 and rng.random() < 0.35:
        left, right = chain.terms[0].factors
        return rng.choice(_ASK_PRODUCT).format(a=left, b=right)
    if len(chain.terms) == 2 and all(len(t.factors) == 1 for t in chain.terms) and rng.random() < 0.35:
        asks = _ASK_SUM if chain.terms[1].sign > 0 else _ASK_DIFFERENCE
        return rng.choice(asks).format(a=chain.terms[0].size, b=chain.terms[1].size)
    return rng.choice(_ASK).format(e=expression(chain.terms, rng))


def expression(terms: tuple[Term, ...], rng: random.Random) -> str:
    """An expression such as `12 + 6 * 7 - 8`, in symbols or words, with or without spaces."""
    style = rng.random()
    plus, minus, times = (
        (" plus ", " minus ", " times ") if style < 0.15 else ("+", "-", "*") if style < 0.35 else (" + ", " - ", " * ")
    )
    if times != " times " and rng.random() < 0.3:
        times = times.replace("*", rng.choice(("x", "×")))  # noqa: RUF001
    text = ""
    for i, term in enumerate(terms):
        text += (plus if term.sign > 0 else minus) if i else ""
        text += times.join(map(str, term.factors))
    return text


def _chain_story(chain: Chain, rng: random.Random) -> str:
    person, things = rng.choice(_SHE + _HE), rng.choice(_THINGS)
    pronoun = rng.choice((person, "She" if person in _SHE else "He"))
    first, *rest = chain.terms
    sentences = [
        rng.choice(("{p} has {n} {t}.", "{p} starts with {n} {t}.", "At first {p} has {n} {t}.")).format(
            p=person, n=first.size, t=things
        )
    ]
    for i, term in enumerate(rest):
        verb = rng.choice(_GAIN if term.sign > 0 else _LOSE).format(n=term.size)
        opening = (
            pronoun
            if i == 0
            else rng.choice(
                (f"Then {pronoun.lower() if pronoun != person else person}", pronoun, f"After that {person}")
            )
        )
        sentences.append(f"{opening} {verb}.")
    return " ".join([*sentences, rng.choice(_HOW_MANY).format(t=things, p=person)])


def _group_story(chain: Chain, rng: random.Random) -> str:
    groups, size = chain.terms[0].factors
    return rng.choice(_GROUPS).format(a=groups, b=size, t=rng.choice(_THINGS), p=rng.choice(_SHE + _HE))
