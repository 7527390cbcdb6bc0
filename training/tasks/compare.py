"""Are these two answers equal? They are of one kind and agree in every part.

A list never equals a single answer, so naming several candidates earns nothing.
"""

from __future__ import annotations

from training.tasks.equality import same_formula, same_ratio, variables
from training.tasks.kinds import Answer, Choice, InBase, Named, Quantity, Relation, Rounded, Several, Time, Words


def equal(stated: Answer, gold: Answer) -> bool:
    """Whether two answers are equal."""
    for one, other in ((stated, gold), (gold, stated)):
        if isinstance(one, Rounded):
            return equal(one.exact, other) or equal(one.rounded, other)
    if isinstance(stated, Named) or isinstance(gold, Named):
        return _equal_named(stated, gold)
    if isinstance(stated, Choice) or isinstance(gold, Choice):
        return _letter(stated) == _letter(gold)
    if type(stated) is not type(gold):
        return any(_equal_unlike(one, other) for one, other in ((stated, gold), (gold, stated)))
    return _equal_alike(stated, gold)


def _equal_unlike(one: Answer, other: Answer) -> bool:
    """Whether a list of one thing, a ratio, or digits in a base equal an answer of another kind."""
    if isinstance(one, Several):
        return _equal_to_one(one, other)
    if isinstance(one, InBase) and isinstance(other, Quantity):
        return not other.unit.kind and one.digits == other.formula
    return False


def _equal_alike(left: Answer, right: Answer) -> bool:
    if isinstance(left, Several) and isinstance(right, Several):
        return _equal_several(left, right)
    if isinstance(left, Time) and isinstance(right, Time):
        return _equal_times(left, right)
    if isinstance(left, Quantity) and isinstance(right, Quantity):
        return _equal_quantities(left, right)
    if isinstance(left, Relation) and isinstance(right, Relation):
        return _equal_relations(left, right)
    return left == right and left != Words("")


def _letter(answer: Answer) -> str:
    if isinstance(answer, Choice):
        return answer.letter
    words = answer.text.split() if isinstance(answer, Words) else []
    return words[1].upper() if len(words) == 2 and words[0] in ("option", "choice", "letter") else repr(answer)


def _equal_named(left: Answer, right: Answer) -> bool:
    if isinstance(left, Named) and isinstance(right, Named):
        if left.name == right.name:
            return equal(left.value, right.value)
        return _equal_relations(left.relation, right.relation)
    one, other = (left, right) if isinstance(left, Named) else (right, left)
    assert isinstance(one, Named)
    if isinstance(other, Relation):
        return _equal_relations(one.relation, other)
    return equal(one.value, other)


def _equal_to_one(several: Several, one: Answer) -> bool:
    if several.how == "ratio" and len(several.items) == 1 and isinstance(one, Quantity):
        [inverse] = several.items
        return isinstance(inverse, Quantity) and same_formula(f"({inverse.formula})*({one.formula})", "1")
    is_set = several.how in ("list", "\\{\\}")
    return is_set and len(several.items) == 1 and equal(several.items[0], one)


def _equal_several(left: Several, right: Several) -> bool:
    hows = {left.how.replace("\\{\\}", "list"), right.how.replace("\\{\\}", "list")}
    vectors = {"()", "matrix 1", "\\langle\\rangle"}
    if len(left.items) != len(right.items) or (len(hows) > 1 and not hows <= vectors):
        return False
    if hows & {"list", "union"}:
        missing = list(left.items)
        for item in right.items:
            found = next((other for other in missing if equal(other, item)), None)
            if found is None:
                return False
            missing.remove(found)
        return True
    return all(equal(one, other) for one, other in zip(left.items, right.items, strict=True))


def _equal_times(left: Time, right: Time) -> bool:
    def minute_of_day(time: Time, half: str) -> tuple[int, ...]:
        hour = time.hour % 12 + 12 * (half == "pm") if half else time.hour
        return (hour, *time.minutes)

    if bool(left.half) != bool(right.half) and max(left.hour, right.hour) <= 12:
        return (left.hour, left.minutes) == (right.hour, right.minutes)
    return minute_of_day(left, left.half) == minute_of_day(right, right.half)


def _equal_quantities(left: Quantity, right: Quantity) -> bool:
    if left.whole and right.whole and same_formula(left.whole, right.whole):
        return True
    (kind, factor), (wanted, gold_factor) = ((q.unit.kind, q.unit.factor) for q in (left, right))
    if not kind or not wanted:
        return same_formula(left.formula, right.formula)
    if kind == wanted and factor == gold_factor:
        return same_formula(left.formula, right.formula)
    if kind == wanted:
        return same_formula(f"({left.formula})*({factor})", f"({right.formula})*({gold_factor})")
    bases = kind.partition("/"), wanted.partition("/")
    comparable = bases[0][0] == bases[1][0] and not (bases[0][2] and bases[1][2])
    return comparable and same_formula(left.formula, right.formula)


def _equal_relations(left: Relation, right: Relation) -> bool:
    """Whether two equations or inequalities say the same; in one variable only if they are written alike."""
    flipped = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
    one, other = (f"({r.left})-({r.right})" for r in (left, right))
    names = variables(other)
    if names is None or variables(one) != names:
        return (left.sign, left.left, left.right) == (right.sign, right.left, right.right)
    if len(names) < 2:
        sides = [(left.left, right.left), (left.right, right.right)]
        swapped = [(left.left, right.right), (left.right, right.left)]
        pairs = sides if left.sign == right.sign else swapped if flipped.get(left.sign) == right.sign else []
        same = bool(pairs) and all(same_formula(*pair) for pair in pairs)
        return same or (left.sign == right.sign == "=" and all(same_formula(*pair) for pair in swapped))
    if left.sign == right.sign:
        return same_ratio(one, other, positive=left.sign not in ("=", "\\ne"))
    return flipped.get(left.sign) == right.sign and same_ratio(f"-({one})", other, positive=True)
