"""What could difficulty be predicted from? Ways to represent a prompt, and ways to learn from the representation.

A learner takes the representation of some prompts, (prompts, width), with their outcomes. It returns a function from
the representation of other prompts to `Predicted`. Samples of one prompt are never split. A learner picks its settings
by cross-validation within the prompts it is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.features import features_of, words_of
from models.forest import Forest, Forests
from models.prediction import LEVELS
from training.profile.fit import MIN_PROMPTS_PER_WORD, forests
from training.profile.scores import log_loss

Array = NDArray[np.float64]
Represent = Callable[[Sequence[str]], Array]


@dataclass(frozen=True)
class Outcomes:
    """What checkpoints did with prompts. accuracy (prompts, checkpoints); tokens (prompts, checkpoints, samples)."""

    prompts: list[str]
    accuracy: Array
    tokens: Array

    def of(self, rows: NDArray[np.int64]) -> Outcomes:
        """The outcomes of some of the prompts."""
        return Outcomes([self.prompts[i] for i in rows], self.accuracy[rows], self.tokens[rows])


@dataclass(frozen=True)
class Predicted:
    """A learner's predictions for prompts."""

    correct: Array
    """P(correct), (prompts, checkpoints)."""
    quantiles: Array
    """Of reasoning tokens at `LEVELS`, (prompts, checkpoints, levels)."""

    @property
    def expected_tokens(self) -> Array:
        """(prompts, checkpoints)."""
        return np.trapezoid(np.maximum(self.quantiles, 0), LEVELS, axis=2)


Predictor = Callable[[Array], Predicted]


def length(_: Sequence[str]) -> Represent:
    """log(1 + characters)."""
    return lambda prompts: np.log1p([[len(prompt)] for prompt in prompts])


def counts(fitted_on: Sequence[str]) -> Represent:
    """The features of the difficulty profile."""
    frequencies = Counter(word for text in fitted_on for word in set(words_of(text)))
    vocabulary = {word for word, count in frequencies.items() if count >= MIN_PROMPTS_PER_WORD}
    return lambda prompts: np.stack([features_of(prompt, vocabulary) for prompt in prompts])


def ngrams(width: int) -> Callable[[Sequence[str]], Represent]:
    """One to three words or signs in a row, hashed."""
    hashed = HashingVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 3), n_features=width)
    return lambda _: lambda prompts: hashed.transform(prompts).toarray()


def activations(model: Path, last: bool) -> Callable[[Sequence[str]], Represent]:
    """The base's own last hidden state of the prompt: at its last token, or the mean over its tokens."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    base = AutoModelForCausalLM.from_pretrained(model).eval()

    @torch.no_grad()
    def activation(prompt: str) -> Array:
        chat = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=False)
        states = base(ids, output_hidden_states=True).hidden_states[-1][0].double().numpy()
        return states[-1] if last else states.mean(0)

    return lambda _: lambda prompts: np.stack([activation(prompt) for prompt in prompts])


def constant(_: Array, outcomes: Outcomes) -> Predictor:
    """The means, whatever the prompt."""
    correct = outcomes.accuracy.mean(0)
    quantiles = np.quantile(outcomes.tokens.swapaxes(0, 1).reshape(len(correct), -1), LEVELS, axis=1).T
    return lambda x: Predicted(np.tile(correct, (len(x), 1)), np.tile(quantiles, (len(x), 1, 1)))


def linear(x: Array, outcomes: Outcomes) -> Predictor:
    """Logistic regression, and ridge regression on log tokens, for each checkpoint."""
    mostly_zeros = np.count_nonzero(x) < x.size / 10
    scaler = StandardScaler(with_mean=not mostly_zeros).fit(x)  # both learners ignore where zero lies

    def scaled(new: Array) -> Any:
        return csr_array(scaler.transform(new)) if mostly_zeros else scaler.transform(new)

    strengths = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    learn = _per_checkpoint(_Kind(_logistic, log_loss, strengths), _Kind(_ridge, _square_error, strengths))
    predict = learn(scaled(x), outcomes)
    return lambda new: predict(scaled(new))


def neighbours(x: Array, outcomes: Outcomes) -> Predictor:
    """The mean of the nearest prompts, by cosine."""
    sizes = (5.0, 10.0, 20.0, 40.0, 80.0)
    return _per_checkpoint(_Kind(_nearest_and_one, log_loss, sizes), _Kind(_nearest, _square_error, sizes))(x, outcomes)


def boosted(x: Array, outcomes: Outcomes) -> Predictor:
    """The difficulty profile's: forests over all checkpoints."""
    checkpoints = outcomes.accuracy.shape[1]
    inputs, tokens = _with_place(x, checkpoints), outcomes.tokens.reshape(-1, outcomes.tokens.shape[-1])
    stored, _ = forests(inputs, outcomes.accuracy.ravel(), tokens, checkpoints, seed=0)
    ready = Forests(
        [Forest.model_validate(stored[name]) for name in ("correct", "tokens", "spread")], x.shape[1], checkpoints
    )
    residuals, (slope, shift) = np.array(stored["residuals"]), np.array(stored["scales"]).T

    def predict(new: Array) -> Predicted:
        correct, mean, spread = np.moveaxis(np.stack([ready(row) for row in new]), -1, 0)
        quantiles = np.expm1(mean[..., None] + np.exp(spread)[..., None] * residuals)
        return Predicted(1 / (1 + np.exp(-(slope * correct + shift))), quantiles)

    return predict


def _with_place(x: Array, checkpoints: int) -> Array:
    place = np.tile(np.arange(checkpoints), len(x))[:, None]
    return np.concatenate([np.repeat(x, checkpoints, axis=0), place], axis=1)


Fit = Callable[[Array, Array, float], Callable[[Array], Array]]


class _Kind(NamedTuple):
    """A learner of one number, the loss it is chosen by, and the settings to choose from."""

    fit: Fit
    loss: Callable[[Array, Array], float]
    settings: Sequence[float]

    def best(self, x: Array, y: Array) -> tuple[Callable[[Array], Array], Array]:
        """The learner with the setting that suits unseen prompts best, and its predictions for them."""
        unseen = {setting: np.zeros(len(y)) for setting in self.settings}
        for train, test in KFold(5, shuffle=True, random_state=0).split(x):
            for setting in self.settings:
                unseen[setting][test] = self.fit(x[train], y[train], setting)(x[test])
        best = min(self.settings, key=lambda setting: self.loss(y, unseen[setting]))
        return self.fit(x, y, best), unseen[best]


def _per_checkpoint(classify: _Kind, regress: _Kind) -> Callable[[Array, Outcomes], Predictor]:
    def learn(x: Array, outcomes: Outcomes) -> Predictor:
        models: list[tuple[Callable[[Array], Array], Callable[[Array], Array], Array]] = []
        for c in range(outcomes.accuracy.shape[1]):
            log_tokens = np.log1p(outcomes.tokens[:, c])
            correct, _ = classify.best(x, outcomes.accuracy[:, c])
            mean, unseen = regress.best(x, log_tokens.mean(1))
            models.append((correct, mean, np.quantile(log_tokens - unseen[:, None], LEVELS)))

        def predict(new: Array) -> Predicted:
            quantiles = [np.expm1(mean(new)[:, None] + residuals) for _, mean, residuals in models]
            return Predicted(np.stack([correct(new) for correct, _, _ in models], 1), np.stack(quantiles, 1))

        return predict

    return learn


def _logistic(x: Array, accuracy: Array, strength: float) -> Callable[[Array], Array]:
    every = np.arange(len(accuracy))
    labels, weights = np.r_[np.ones(len(every)), np.zeros(len(every))], np.r_[accuracy, 1 - accuracy]
    used = weights > 0
    if len(set(labels[used])) == 1:
        return lambda new: np.full(new.shape[0], accuracy.mean())
    rows = np.r_[every, every][used]
    model = LogisticRegression(C=strength, max_iter=2000).fit(x[rows], labels[used], weights[used])
    return lambda new: model.predict_proba(new)[:, 1]


def _ridge(x: Array, y: Array, strength: float) -> Callable[[Array], Array]:
    return Ridge(alpha=1 / strength).fit(x, y).predict


def _nearest(x: Array, y: Array, size: float) -> Callable[[Array], Array]:
    return KNeighborsRegressor(min(int(size), len(x)), metric="cosine").fit(x, y).predict


def _nearest_and_one(x: Array, y: Array, size: float) -> Callable[[Array], Array]:
    """With one average prompt among the neighbours, so that no prediction is certain."""
    near = _nearest(x, y, size)
    return lambda new: (near(new) * size + y.mean()) / (size + 1)


def _square_error(y: Array, predicted: Array) -> float:
    return float(((y - predicted) ** 2).mean())
