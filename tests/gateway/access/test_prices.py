"""Is the prices file read as it is written, and refused with file, checkpoint and field otherwise?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.access.cost import Price
from gateway.access.prices import MoneyLimits, PricesError, load
from models.family import Family

EVERY = "default: {per_million: {prompt: 1, answer: 2}}\n"


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    return file


def test_prices_are_whole_trillionths_of_a_token_and_default_to_those_of_prompt_and_answer(
    family: Family, tmp_path: Path
) -> None:
    found = load(
        written(
            tmp_path,
            """
            currency: EUR
            default: {per_million: {prompt: 0.15, answer: 0.6}}
            checkpoints:
              base: {per_million: {prompt: 0.3, cached: 0.03, reasoning: 1.1, answer: 1.2}}
              alpha-0.4: {gpu_hour: 2.49, tokens_per_second: 1850}
            judge: {per_million: {prompt: 0.000001, answer: 1}}
            teams:
              research: {per_day: 50, per_month: 900.5}
              sales: {per_month: 10}
            """,
        ),
        family,
    )
    assert found is not None
    assert found.currency == "EUR"
    assert found.of("base") == Price(300_000, 30_000, 1_100_000, 1_200_000)
    assert found.of("alpha-0.1") == found.of("gone") == Price(150_000, 150_000, 600_000, 600_000)
    generated = round(2.49 / 3600 / 1850 * 1e12)
    assert found.of("alpha-0.4") == Price(0, 0, generated, generated)
    assert found.judge == Price(1, 1, 10**6, 10**6)
    assert found.teams == {
        "research": MoneyLimits(50 * 10**9, 900_500_000_000),
        "sales": MoneyLimits(None, 10 * 10**9),
    }


def test_without_a_file_there_are_no_prices(family: Family) -> None:
    assert load(None, family) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file: "),
        ("[]", "the file: "),
        ("currency: usd\n" + EVERY, "currency: "),
        (EVERY, "currency: "),
        ("currency: USD\n", "checkpoints.base: it has no price, and there is no default"),
        ("currency: USD\ncolour: red\n" + EVERY, "colour: "),
        (
            "currency: USD\ncheckpoints: {alpha-9: {gpu_hour: 1, tokens_per_second: 1}}\n" + EVERY,
            "checkpoints.alpha-9: ",
        ),
        ("currency: USD\ncheckpoints: {base: {gpu_hour: 1}}\n" + EVERY, "checkpoints.base: gpu_hour and"),
        ("currency: USD\ncheckpoints: {base: {}}\n" + EVERY, "checkpoints.base: needs either"),
        ("currency: USD\ndefault: {per_million: {prompt: -1, answer: 1}}", "default.per_million.prompt: "),
        ("currency: USD\ndefault: {per_million: {prompt: yes, answer: 1}}", "default.per_million.prompt: "),
        ("currency: USD\ndefault: {per_million: {prompt: .inf, answer: 1}}", "default.per_million.prompt: "),
        ("currency: USD\ndefault: {per_million: {prompt: 0.0000001, answer: 1}}", "default.per_million.prompt: "),
        ("currency: USD\ndefault: {per_million: {prompt: 1}}", "default.per_million.answer: "),
        ("currency: USD\ndefault: {gpu_hour: 1, tokens_per_second: 0}", "default.tokens_per_second: "),
        ("currency: USD\nteams: {research: {}}\n" + EVERY, "teams.research: needs per_day or per_month"),
        ("currency: USD\nteams: {a b: {per_day: 1}}\n" + EVERY, "teams.a b"),
        ("currency: USD\nteams: {research: {per_day: 1e12}}\n" + EVERY, "teams.research.per_day: "),
        ("currency: USD\n" + EVERY + EVERY, "default is there twice"),
        ("currency: USD\ndefault: &x {per_million: *x}", "alias"),
        ("currency: !!python/object/apply:os.getcwd []", "not YAML"),
        ("currency: [", "not YAML"),
        ("[" * 10_000, "not YAML"),
        ("\x00", "not YAML"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file_and_the_field(
    family: Family, tmp_path: Path, text: str, said: str
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(PricesError) as error:
        load(file, family)
    message = str(error.value)
    assert message.startswith(f"prices: {file}")
    assert said in message
    assert "\n" not in message


def test_what_is_no_file_is_refused(family: Family, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "nothing", "."):
        with pytest.raises(PricesError, match="cannot read"):
            load(tmp_path / name, family)
    (tmp_path / "long").write_text("#" * 2**21)
    with pytest.raises(PricesError, match="cannot read"):
        load(tmp_path / "long", family)
