"""Is the profile's C code there, and what does it need of a profile? `forecast.c`, loaded without a compiler.

Installing this package compiles it where there is a C compiler. Without it the gateway computes the same in numpy, and
a decision takes several times as long (`benchmarks.decision`).
"""

from __future__ import annotations

import ctypes
import logging
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from models.features import FEATURES
from models.forest import Forest, trees_by_position
from models.prediction import LEVELS, TRAPEZOIDS, Forecast
from models.stored import StoredProfile

VERSION = 2
"""Of the structures and signatures in `forecast.c`."""
_NODE = np.dtype([("threshold", "f8"), ("feature", "i4"), ("child", "i4", 2), ("unused", "i4")])
_GROUP = np.dtype([("trees", "i4"), ("depth", "i4"), ("low", "i4"), ("high", "i4")])
_FIELDS = 4
"""Numbers of a forecast."""
_NO_LIMIT = float("inf")
_new = cast("Callable[[type[Forecast], tuple[float, ...]], Forecast]", tuple.__new__)  # pyright: ignore[reportUnknownMemberType]

log = logging.getLogger("laconic")


class _Forest(ctypes.Structure):
    _fields_ = (
        ("intercept", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("groups", "roots", "nodes", "values")),
        ("count", ctypes.c_int64),
    )


class _Plan(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("inputs", "checkpoints", "escalations", "shifts")),
        *((name, _Forest) for name in ("correct", "tokens", "spread", "forced", "answers")),
        ("forest_weight", ctypes.c_double),
        *(
            (name, ctypes.c_void_p)
            for name in ("lower", "upper", "slope", "offset", "residuals", "forced_shifts", "answer_scales")
        ),
        *((name, ctypes.c_void_p) for name in ("pairs", "fitted", "levels", "trapezoids")),
    )


class Library(Protocol):
    """The functions of `forecast.c`."""

    def laconic_state_doubles(self, plan: object, /) -> int: ...
    def laconic_read(self, plan: object, counts: bytes, easiness: float, state: object, /) -> float: ...
    def laconic_forecasts(self, plan: object, state: object, limit: float, exact: int, out: object, /) -> None: ...


def load(directory: Path = Path(__file__).parent) -> Library | None:
    """The library that lies in this directory; None if there is none, or if it belongs to another version."""
    for path in sorted(directory.glob("_forecast*.so")):
        try:
            # It keeps Python's lock: it runs for microseconds, and letting go of the lock costs more.
            library: Any = ctypes.PyDLL(str(path))
            version = library.laconic_version
        except (OSError, AttributeError) as error:
            log.warning("%s cannot be used: %s", path.name, error)
            continue
        version.restype = ctypes.c_int64
        if version() != VERSION:
            log.warning("%s is of another version: install this package again", path.name)
            continue
        pointer, double, number = ctypes.c_void_p, ctypes.c_double, ctypes.c_int64
        library.laconic_state_doubles.argtypes, library.laconic_state_doubles.restype = [pointer], number
        library.laconic_read.argtypes = [pointer, ctypes.c_char_p, double, pointer]
        library.laconic_read.restype = double
        library.laconic_forecasts.argtypes = [pointer, pointer, double, number, pointer]
        library.laconic_forecasts.restype = None
        return cast("Library", library)
    return None


class Compiled:
    """A profile in the form that the library reads. Pure."""

    def __init__(self, library: Library, stored: StoredProfile) -> None:
        """`stored` is what `models.stored.check` and `models.plain.Plain` find nothing wrong with."""
        order, escalations = list(stored.residuals), stored.escalations.values()
        self._library, self._names = library, (*order, *stored.escalations)
        self._kept: list[object] = []  # what the pointers point to
        shifts = list(stored.budget_forced_shifts.values())
        plan: Any = _Plan(
            inputs=len(FEATURES), checkpoints=len(order), escalations=len(escalations), shifts=len(shifts[0])
        )
        plan.correct, plan.tokens, plan.spread = (
            self._forest(forest, len(order)) for forest in (stored.correct, stored.tokens, stored.spread)
        )
        plan.forced = self._forest(stored.budget_forced, len(shifts[0]))
        plan.forest_weight = 1.0 if stored.reader is None else stored.reader.forest
        plan.lower, plan.upper = self._numbers(stored.lower), self._numbers(stored.upper)
        slope, offset = zip(*stored.scales.values(), strict=True)
        plan.slope, plan.offset = self._numbers(slope), self._numbers(offset)
        plan.residuals = self._numbers([sorted(z) for z in stored.residuals.values()])
        plan.forced_shifts = self._numbers(shifts)
        if stored.answers is not None:
            plan.answers = self._forest(stored.answers, len(order))
        scales = {} if stored.answers is None else stored.answer_scales
        plan.answer_scales = self._numbers([scales.get(name, 0.0) for name in order])
        pairs = [(order.index(one.first), order.index(one.second)) for one in escalations]
        plan.pairs = self._pointer(np.array(pairs, dtype=np.int32))
        plan.fitted = self._numbers([(*one.scale, *one.unsure) for one in escalations])
        plan.levels, plan.trapezoids = self._numbers(LEVELS), self._numbers(TRAPEZOIDS)
        self._kept.append(plan)
        self._at = ctypes.addressof(plan)
        self._pack = struct.Struct(f"{len(FEATURES)}d").pack
        self._state = ctypes.c_double * library.laconic_state_doubles(self._at)
        self._out = ctypes.c_double * (_FIELDS * len(self._names))

    def _numbers(self, values: object) -> int:
        return self._pointer(np.ascontiguousarray(values, dtype=np.float64))

    def _pointer(self, values: NDArray[np.generic]) -> int:
        self._kept.append(values)
        return values.ctypes.data

    def _forest(self, forest: Forest, positions: int) -> _Forest:
        groups: dict[tuple[int, int, int], list[int]] = {}
        nodes: list[tuple[float, int, tuple[int, int], int]] = []
        values: list[float] = []
        for tree in trees_by_position(forest, len(FEATURES), positions):
            first = len(nodes)
            groups.setdefault((tree.depth, tree.low, tree.high), []).append(first)
            nodes += [(node.threshold, node.feature, (first + node.left, first + node.right), 0) for node in tree.nodes]
            values += tree.values
        arrays = (
            np.array([(len(roots), *key) for key, roots in groups.items()], _GROUP),
            np.array([root for roots in groups.values() for root in roots], np.int32),
            np.array(nodes, _NODE),
            np.array(values, np.float64),
        )
        return _Forest(forest.intercept, *map(self._pointer, arrays), len(groups))

    def read(self, counts: Sequence[int], easiness: float) -> tuple[float, bool, object]:
        """Mean P(wrong) over the checkpoints, whether all features are within bounds, and what `forecasts` needs.

        Args:
            counts: `models.features.counts_of` the prompt.
            easiness: what the reader adds to the forest's value.
        """
        state = self._state()
        failure = self._library.laconic_read(self._at, self._pack(*counts), easiness, state)
        return failure, state[0] != 0.0, state

    def forecasts(self, state: object, limit: int | None, *, exact: bool = False) -> dict[str, Forecast]:
        """What is forecast under a limit, by name; rounded as by `models.prediction.forecasts_of` unless `exact`."""
        out = self._out()
        self._library.laconic_forecasts(self._at, state, _NO_LIMIT if limit is None else limit, exact, out)
        values = iter(out[:])
        by_four = zip(values, values, values, values, strict=True)
        # As `Forecast._make`, without its checks: this is half of what a forecast costs.
        return {name: _new(Forecast, four) for name, four in zip(self._names, by_four, strict=True)}
