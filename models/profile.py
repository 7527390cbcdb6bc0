"""How hard is this prompt, and how would each checkpoint do on it? The difficulty profile, as the gateway reads it.

It consists of boosted forests over the features x of the prompt. Those for tokens also take the position of the
checkpoint c in the family as an input:

    P(correct | x, c)       = sigmoid(a_c f(x) + b_c)
    log(1 + tokens) | x, c  = g(x, c) + exp(h(x, c)) z,   z drawn from the checkpoint's residual quantiles
    E[answer tokens | x, c] = s_c exp(a(x, c)) - 1,       if answers were measured (decision 55)

The first is the two-parameter logistic model of item response theory (Birnbaum, 1968). One function of the prompt, f,
says how easy the question is: the reader that fitting chose (`models.reader`). Each checkpoint adds two numbers.
Checkpoints differ much less than questions do, and with two numbers each even small differences can be learned.

Thinking that is ended by a budget B (budget-forced) can still lead to a correct answer. One more forest and a vector
of shifts d for each checkpoint predict how often; the prediction never falls as B grows:

    P(correct | forced at B, x, c) = sigmoid(s(x, u) + d_c(u)),   u = log2(1 + B), interpolated between whole u

So a prediction is a probability of a correct answer, a distribution of reasoning tokens, and what a budget leaves of
the probability. For an `Escalation`, the tokens are a mixture of those of its two checkpoints:

    P(correct | x) = sigmoid(a f(x) + b),   P(unsure | x) = sigmoid(k f(x) + l g(x, first) + m)

Its limits: it counts words and does not know what they mean, and it assumes that a correct answer and short thinking
are independent given the prompt (decision 13 says what that costs). `laconic-train profile` fits it. The file is
JSON, so loading it executes nothing.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from pathlib import Path
from typing import Self, cast

import numpy as np
from pydantic import ValidationError

from models import compiled
from models import encoder as encoders
from models.compiled import Compiled
from models.encoder import Encoder, EncoderError
from models.features import FEATURES, counts_of, is_familiar, logs
from models.field import first_error, one_line
from models.files import MIB, read_json
from models.plain import Plain
from models.prediction import Escalation, Prediction
from models.reader import Reader
from models.stored import READABLE, ProfileError, StoredProfile, check

MAX_BYTES = 64 * MIB
LIBRARY = compiled.load()
"""None where `forecast.c` was not compiled."""


class Profile:
    """A fitted profile. `predict` is pure; `benchmarks.decision` says how long it takes."""

    def __init__(
        self, stored: StoredProfile, encoder: Encoder | None = None, library: compiled.Library | None = LIBRARY
    ) -> None:
        """
        Args:
            stored: what is in its file.
            encoder: the one that it was fitted with, if its reader needs one.
            library: `forecast.c`; None: everything is computed in numpy.
        """
        check(stored)
        _check_encoder(stored, encoder)
        self.stored = stored
        self.checkpoints = tuple(stored.residuals)
        self.escalations = {
            name: Escalation(first=fitted.first, second=fitted.second, surprisal=fitted.surprisal)
            for name, fitted in stored.escalations.items()
        }
        try:
            self._plain = Plain(stored, self.escalations)
            self._longest = int(math.expm1(stored.upper[FEATURES.index("characters")]))
        except (ValueError, OverflowError) as error:
            raise ProfileError(str(error)) from None
        self._compiled = None if library is None else Compiled(library, stored)
        self.floors = tuple(stored.floors)
        self._reader = stored.reader and Reader(stored.reader, encoder)
        self._vocabulary = frozenset(stored.vocabulary)
        self._lower, self._upper = np.array(stored.lower), np.array(stored.upper)
        self._difficulties = sorted(stored.difficulties)

    @classmethod
    def of(cls, raw: object, encoder: Encoder | None = None) -> Self:
        """A profile from the JSON of its file, or from what `training.profile.fit.fit` returned.

        Args:
            raw: the JSON.
            encoder: the one that it was fitted with, if its reader needs one.

        Raises:
            ProfileError: its arrays do not fit each other, or it needs another encoder.
        """
        return cls(StoredProfile.model_validate(raw), encoder)

    @property
    def encodes(self) -> bool:
        """Whether a sentence encoder reads each prompt: a prediction then takes milliseconds."""
        return self.stored.encoder is not None

    @property
    def ranks(self) -> bool:
        """Whether the fitting prompts differ in difficulty; not if nothing in a prompt says how hard it is."""
        return len(self._difficulties) > 0 and self._difficulties[-1] > self._difficulties[0]

    def predict(self, prompt: str) -> Prediction:
        """Predict for one prompt, which may be any text, even an empty one.

        Characters beyond 1.25 times the longest fitting prompt are not read: such a prompt is unfamiliar anyway.
        """
        text = prompt[: self._longest + 1]
        counts = counts_of(text, self._vocabulary)
        easiness = 0.0 if self._reader is None else self._reader(text, logs(counts))
        if self._compiled is None:
            x = logs(counts)
            familiar = is_familiar(counts) and bool(((self._lower <= x) & (x <= self._upper)).all())
            prediction = Prediction(None, familiar, self._plain.choices(x, easiness))
            prediction.difficulty = self._difficulty(prediction.failure)
        else:
            failure, within, state = self._compiled.read(counts, easiness)
            prediction = Prediction(
                self._difficulty(failure),
                within and is_familiar(counts),
                lambda: self._plain.choices(logs(counts), easiness),
                failure=failure,
                escalations=self.escalations,
                forecasts=functools.partial(self._compiled.forecasts, state),
            )
        prediction.counts, prediction.easiness = counts, easiness
        return prediction

    def _difficulty(self, failure: float) -> float | None:
        return bisect_left(self._difficulties, failure) / len(self._difficulties) if self.ranks else None


def _check_encoder(stored: StoredProfile, encoder: Encoder | None) -> None:
    """Raise ProfileError unless this is the encoder that the reader needs."""
    width = stored.reader.encoder_width if stored.reader else None
    if (stored.encoder is None) != (width is None):
        raise ProfileError("encoder: must name one if the reader has parts for it, and else be missing")
    if stored.encoder is None:
        return
    if encoder is None or encoder.stored.sha256 != stored.encoder.sha256:
        has = "no encoder" if encoder is None else encoder.stored.name
        name = one_line(stored.encoder.name)
        raise ProfileError(f"encoder: the profile was fitted with {name}, and {has} is given; name it by --encoder DIR")
    if encoder.width != width:
        raise ProfileError(f"reader: for encoder vectors of {width} numbers, not {encoder.width}")


def load(path: Path, encoder: Path | None = None) -> Profile:
    """Read a profile from a file.

    Args:
        path: the file.
        encoder: directory of the sentence encoder, if it needs one; None for the one that the extra installs.

    Raises:
        ProfileError: the file is missing or not JSON, its version is unknown, its arrays do not fit each other, or it
            needs a sentence encoder that is not there.
    """
    stored = read(path)
    try:
        return Profile(stored, encoders.load(encoder) if stored.encoder else None)
    except EncoderError as error:
        raise ProfileError(f"{path}: encoder: {one_line(str(error))}") from None
    except ProfileError as error:
        raise ProfileError(f"{path}: {one_line(str(error))}") from None


def read(path: Path) -> StoredProfile:
    """What is in a profile's file. Its arrays may not fit each other.

    Raises:
        ProfileError: the file is missing or not JSON, or its version is unknown.
    """
    try:
        raw = read_json(path, MAX_BYTES)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ProfileError(f"{path}: not JSON ({one_line(str(error))})") from None
    if not isinstance(raw, dict) or cast("dict[str, object]", raw).get("schema_version") not in READABLE:
        raise ProfileError(f"{path}: not a difficulty profile of version {' or '.join(map(str, READABLE))}")
    try:
        return StoredProfile.model_validate(raw)
    except ValidationError as error:
        raise ProfileError(f"{path}: {', '.join(first_error(error))}") from None
