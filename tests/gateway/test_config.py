"""Where do settings come from, and which are rejected?"""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import (
    ConfigError,
    Settings,
    default_state_dir,
    load,
    require_one_tolerance,
    require_shadows,
    shipped_family,
)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"LACONIC_{name.upper()}", raising=False)


def test_the_defaults_embed_everything_on_loopback() -> None:
    settings = load([])
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert (settings.engine, settings.redis) == ([], None)
    assert (settings.family, settings.state_dir) == (shipped_family(), default_state_dir())


def test_flags_override_the_environment_and_it_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "laconic.toml"
    file.write_text('port = 1111\ndefault_budget = "low"\nquality_tolerance = 0.1\nengine = ["http://filed:1"]\n')
    monkeypatch.setenv("LACONIC_PORT", "2222")
    monkeypatch.setenv("LACONIC_DEFAULT_BUDGET", "high")
    settings = load(["--config", str(file), "--port", "3333"])
    assert settings.port == 3333
    assert settings.default_budget == "high"
    assert settings.quality_tolerance == 0.1
    assert settings.engine == ["http://filed:1"]
    assert settings.holdout_fraction == 0.02


def test_the_dashboard_is_turned_off_by_a_flag_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load([]).dashboard
    assert not load(["--no-dashboard"]).dashboard
    monkeypatch.setenv("LACONIC_DASHBOARD", "false")
    assert not load([]).dashboard
    assert load(["--dashboard"]).dashboard


def test_the_environment_may_name_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "laconic.toml").write_text("port = 1111\n")
    monkeypatch.setenv("LACONIC_CONFIG", str(tmp_path / "laconic.toml"))
    assert load([]).port == 1111


def test_engines_are_repeated_flags_or_a_list_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(["--engine", "http://a:1", "--engine", "http://b:2/v1/"]).engine == ["http://a:1", "http://b:2"]
    monkeypatch.setenv("LACONIC_ENGINE", "http://a:1, http://b:2")
    assert load([]).engine == ["http://a:1", "http://b:2"]


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--port", "0"], "port"),
        (["--port", "http"], "port"),
        (["--quality-tolerance", "1.01"], "quality_tolerance"),
        (["--quality-floor", "0"], "quality_floor"),
        (["--quality-floor", "99"], "quality_floor"),
        (["--holdout-fraction", "-0.1"], "holdout_fraction"),
        (["--holdout-fraction", "nan"], "holdout_fraction"),
        (["--idle-timeout-seconds", "0"], "idle_timeout_seconds"),
        (["--send-timeout-seconds", "inf"], "send_timeout_seconds"),
        (["--max-body-bytes", "1.5"], "max_body_bytes"),
        (["--engine", "gpu1:8000"], "engine"),
        (["--engine", "http://me:secret@gpu1:8000"], "engine"),
        (["--engine", "http://a:1", "--engine", "http://a:1/v1"], "engine"),
        (["--redis", "cache"], "redis"),
        (["--cors-origin", "*"], "cors_origin"),
        (["--cors-origin", "https://app.example.com/page"], "cors_origin"),
        (["--allow-field", "a/b"], "allow_field"),
        (["--max-connections", "0"], "max_connections"),
        (["--head-timeout-seconds", "0"], "head_timeout_seconds"),
        (["--default-budget", "little"], "default_budget"),
        (["--default-budget", "-5"], "default_budget"),
        (["--default-budget", "99999999999"], "default_budget"),
        (["--redis", "redis://cache:6379/zero"], "redis"),
        (["--redis", "redis://cache:6379/0?db=foo"], "redis"),
        (["--redis", "redis://cache:6379/0?colour=red"], "redis"),
        (["--log-level", "loud"], "log_level"),
        (["--config", "/no/such/file"], "config"),
        (["--prot", "1"], "--prot"),
    ],
)
def test_an_invalid_setting_is_rejected_in_one_line_that_names_it(flags: list[str], field: str) -> None:
    with pytest.raises(ConfigError) as rejected:
        load(flags)
    assert field in str(rejected.value).replace("-", "_") or field in str(rejected.value)
    assert "\n" not in str(rejected.value)


@pytest.mark.parametrize(
    ("flag", "other"), [("--quality-tolerance", "quality_tolerance"), ("--overload-tolerance", "overload_tolerance")]
)
def test_a_floor_and_a_tolerance_that_would_break_it_are_named_both(
    flag: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_one_tolerance(load([flag, "0.005"]))
    require_one_tolerance(load(["--quality-floor", "0.99"]))
    monkeypatch.setenv("LACONIC_QUALITY_FLOOR", "0.99")
    with pytest.raises(ConfigError, match=f"^quality_floor: {other} is set, too"):
        require_one_tolerance(load([flag, "0.005"]))


def test_what_is_set_for_comparisons_that_are_not_made_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags in ([], ["--shadow-concurrency", "2"], ["--shadow-fraction", "0.1", "--judge", "j"]):
        require_shadows(load(flags))
    with pytest.raises(ConfigError, match=r"^shadow_concurrency: has no effect.* set shadow_fraction, too"):
        require_shadows(load(["--shadow-concurrency", "3"]))
    monkeypatch.setenv("LACONIC_JUDGE", "j")
    with pytest.raises(ConfigError, match=r"^judge: has no effect"):
        require_shadows(load(["--shadow-fraction", "0"]))


def test_origins_and_fields_are_repeated_flags_or_lists_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [
        "--cors-origin",
        "https://A.example",
        "--cors-origin",
        "http://localhost:3000",
        "--allow-field",
        "priority",
    ]
    settings = load(flags)
    assert settings.cors_origin == ["https://a.example", "http://localhost:3000"]
    assert settings.allow_field == ["priority"]
    monkeypatch.setenv("LACONIC_CORS_ORIGIN", "https://a.example, https://b.example")
    monkeypatch.setenv("LACONIC_ALLOW_FIELD", "priority,chat_template_kwargs.documents")
    settings = load([])
    assert settings.cors_origin == ["https://a.example", "https://b.example"]
    assert settings.allow_field == ["priority", "chat_template_kwargs.documents"]


def test_headers_may_have_commas_and_are_lines_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(["--engine-header", "a: b", "--engine-header", "c: d, e"]).engine_header == ["a: b", "c: d, e"]
    monkeypatch.setenv("LACONIC_ENGINE_HEADER", "api-key: x, y\nteam: red\n")
    assert load([]).engine_header == ["api-key: x, y", "team: red"]


def test_waiting_for_engines_has_a_default_and_may_be_given_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load([]).wait_for_engines is None
    assert load(["--wait-for-engines"]).wait_for_engines == 600
    assert load(["--wait-for-engines", "--engine", "http://a:1"]).wait_for_engines == 600
    assert load(["--wait-for-engines", "2.5"]).wait_for_engines == 2.5
    monkeypatch.setenv("LACONIC_WAIT_FOR_ENGINES", "30")
    assert load([]).wait_for_engines == 30
    with pytest.raises(ConfigError, match="wait_for_engines"):
        load(["--wait-for-engines", "0"])


@pytest.mark.parametrize("line", ["prot = 1", "port = 1\nport = 2", "port", 'config = "again.toml"', 'port = "x"'])
def test_an_invalid_file_is_rejected(line: str, tmp_path: Path) -> None:
    (tmp_path / "laconic.toml").write_text(line)
    with pytest.raises(ConfigError, match=r"config|prot|port"):
        load(["--config", str(tmp_path / "laconic.toml")])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "192.168.1.7", "::"])
def test_any_ip_address_is_accepted(host: str) -> None:
    assert load([f"--host={host}"]).host == host
    assert load(["--host=localhost"]).host == "127.0.0.1"


@pytest.mark.parametrize("host", ["", "example.org", "127.0.0.256", "127.0.0.1:80"])
def test_a_host_that_is_not_an_ip_address_is_rejected(host: str) -> None:
    with pytest.raises(ConfigError, match="host"):
        load([f"--host={host}"])


@pytest.mark.parametrize("budget", ["auto", "none", "minimal", "low", "medium", "high", "xhigh", "max", "0", "512"])
def test_the_default_budget_may_be_any_effort_name_or_whole_number(budget: str) -> None:
    assert load(["--default-budget", budget]).default_budget == budget


def test_help_shows_examples_and_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        load(["--help"])
    printed = capsys.readouterr().out
    assert exit_.value.code == 0
    assert "laconic serve --engine http://gpu1:8000" in printed
    assert all(f"--{name.replace('_', '-')}" in printed for name in Settings.model_fields)
