"""The reader that is chosen is the simplest one that predicts about as well as the best, and it is stored as fitted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.model_selection import KFold

from models import encoder as encoders
from models.features import features_of
from models.reader import Reader, StoredReader
from training.profile import readers
from training.profile.logistic import sigmoid

SOURCE = np.random.default_rng(0)
NOUNS = ("ant", "bee", "cow", "dog", "elk", "fox", "hen", "jay", "lark", "mole", "newt", "owl", "pig", "seal", "toad")


def prompts(count: int) -> list[str]:
    return [" ".join(SOURCE.choice(NOUNS, SOURCE.integers(4, 40))) for _ in range(count)]


PROMPTS = prompts(300)
ANIMALS = ("cat dog horse", "cow sheep goat", "pig lion tiger", "bear wolf fox", "rabbit deer mouse")
FOODS = ("bread cheese soup", "rice pasta cake", "pie salad pizza", "butter honey jam", "stew pudding toast")
COUNTS = np.stack([features_of(prompt, ()) for prompt in PROMPTS])
SEEN = readers.see(PROMPTS, COUNTS, encoders.load())


def chosen(easiness: Callable[[str], float], rows: int = 300, samples: int = 8) -> readers.Choice:
    """The choice where so many samples of each prompt are right with this easiness."""
    p = sigmoid(np.array([easiness(prompt) for prompt in PROMPTS[:rows]]))
    share = np.random.default_rng(1).binomial(samples, p) / samples
    seen = readers.see(PROMPTS[:rows], COUNTS[:rows])
    return readers.choose(seen, share, list(KFold(5, shuffle=True, random_state=0).split(share)), seed=0)


def words(prompt: str) -> int:
    return len(prompt.split())


def test_a_text_that_says_nothing_is_not_read() -> None:
    choice = chosen(lambda _: 1.0)
    assert choice.stored["name"] == "constant"
    assert choice.stored["parts"] == []
    assert choice.easiness == pytest.approx(np.full(300, 1.0), abs=0.1)


def test_length_is_read_where_it_says_it_all() -> None:
    assert chosen(lambda prompt: 6.0 - 2.0 * np.log(words(prompt))).stored["name"] == "length"


def test_words_are_read_where_they_matter() -> None:
    choice = chosen(lambda prompt: 3.0 if "owl" in prompt.split() else -2.0)
    assert choice.stored["name"] in ("ngrams", "stack")
    assert "ngrams" in [part["kind"] for part in choice.stored["parts"]]
    assert choice.stored["compared"]["ngrams"]["auc"] > choice.stored["compared"]["length"]["auc"] + 0.1


@pytest.mark.parametrize("encoded", [False, True])
def test_meaning_is_read_where_an_encoder_may_be_used(encoded: bool) -> None:
    """No word of a fold is in another one, so that words alone say nothing."""
    blocks = [(fold, block.split(), 0.9) for fold, block in enumerate(ANIMALS)]
    blocks += [(fold, block.split(), 0.2) for fold, block in enumerate(FOODS)]
    pairs = 2 * [(fold, f"{one} and {other}", share) for fold, w, share in blocks for one in w for other in w]
    groups, texts, shares = zip(*pairs, strict=True)
    group, share = np.array(groups), np.array(shares)
    folds = [(np.flatnonzero(group != fold), np.flatnonzero(group == fold)) for fold in range(5)]
    seen = readers.see(texts, np.stack([features_of(text, ()) for text in texts]), encoders.load() if encoded else None)
    choice = readers.choose(seen, share, folds, seed=0)
    if not encoded:
        assert choice.encoder is None
        assert tuple(choice.every) == readers.WITHOUT_ENCODER
        return
    assert choice.stored["compared"]["encoder"]["auc"] > 0.7 > choice.stored["compared"]["ngrams"]["auc"]
    assert choice.encoder == encoders.load().stored.model_dump()
    Reader(StoredReader.model_validate(choice.stored), encoders.load())


def test_few_prompts_choose_a_simple_reader() -> None:
    assert chosen(lambda prompt: 0.5 if "owl" in prompt.split() else 0.0, rows=30, samples=1).stored["name"] in (
        "constant",
        "length",
    )


@pytest.mark.parametrize("name", readers.ORDER)
def test_a_reader_is_stored_as_it_was_fitted(name: str) -> None:
    """What the gateway reads from the stored form is the easiness that was fitted."""
    share = sigmoid(np.array([1.0 - 0.1 * words(prompt) + ("owl" in prompt) for prompt in PROMPTS]))
    fitted = readers.fit_all(SEEN, share, np.arange(200), 0, readers.ORDER)[name]
    expected = readers.values_of(fitted, SEEN, np.arange(200, 300))
    parts = [{"kind": kind, "weights": tuple(weights.tolist())} for kind, weights in fitted.parts.items()]
    read = Reader(
        StoredReader.model_validate(
            {
                "name": name,
                "intercept": fitted.intercept,
                "forest": fitted.forest,
                "parts": parts,
                "neighbours": fitted.neighbours and fitted.neighbours.store(fitted.near),
                "compared": {},
            }
        ),
        encoders.load(),
    )
    forest = readers._walked(fitted.trees, COUNTS[200:]) if fitted.trees else np.zeros(100)
    values = [read(prompt, counts) for prompt, counts in zip(PROMPTS[200:], COUNTS[200:], strict=True)]
    assert np.array(values) + fitted.forest * forest == pytest.approx(expected, abs=1e-6)


def test_the_simplest_reader_within_one_standard_error_is_good() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=400)
    losses = dict.fromkeys(readers.ORDER, 0.6 + 0.1 * noise)
    losses["ngrams"] = losses["ngrams"] - 0.1
    assert readers.simplest_good_one(losses) == "ngrams"
    losses["text"] = losses["ngrams"] + 0.02 * rng.normal(size=400)
    assert readers.simplest_good_one(losses) == "text", "as good, and simpler"
    losses["length"] = losses["ngrams"] + 0.05
    assert readers.simplest_good_one(losses) == "text", "length is worse on every prompt"


def test_no_outer_fold_is_fitted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reader's easiness of a prompt comes from fits that never saw it."""
    fits: list[set[int]] = []
    really = readers.fit_all

    def recorded(seen: readers.Seen, share: np.ndarray, rows: np.ndarray, *rest: object) -> dict[str, readers.Fitted]:
        fits.append(set(rows.tolist()))
        return really(seen, share, rows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(readers, "fit_all", recorded)
    folds = list(KFold(3, shuffle=True, random_state=0).split(PROMPTS))
    readers.choose(SEEN, np.random.default_rng(0).random(300), folds, seed=0)
    assert fits == [*(set(train.tolist()) for train, _ in folds), set(range(300))]
