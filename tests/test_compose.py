"""docker-compose.yml: what can be said of it without a Docker daemon."""

from __future__ import annotations

import re
import shutil
import subprocess
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


def started(*profiles: str) -> set[str]:
    """The services that start with these profiles."""
    return {name for name, one in SERVICES.items() if not one.get("profiles") or set(one["profiles"]) & set(profiles)}


def gateway_settings(**environment: str) -> config.Settings:
    command, *flags = (interpolated(word, **environment) for word in SERVICES["gateway"]["command"])
    assert command == "serve"
    return config.load(flags)


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


def test_the_gateway_accepts_its_flags_and_reaches_what_is_published() -> None:
    settings = gateway_settings()
    ports = {name: SERVICES[name]["ports"][0] for name in ("engine", "redis")}
    assert settings.engine == [f"http://{ports['engine'].rsplit(':', 1)[0]}"]
    assert settings.redis == f"redis://{ports['redis'].rsplit(':', 1)[0]}/0"


def test_an_engine_and_its_key_come_from_the_environment() -> None:
    assert gateway_settings(ENGINE_URL="https://proxy:8443/qwen/v1").engine == ["https://proxy:8443/qwen"]
    key = SERVICES["gateway"]["environment"]["LACONIC_ENGINE_KEY"]
    assert (interpolated(key), interpolated(key, LACONIC_ENGINE_KEY="sk-one")) == ("", "sk-one")


def test_a_family_s_directory_is_all_that_a_trained_family_needs(tmp_path: Path) -> None:
    """The engine's arguments are written where it reads them, from the directory that it loads."""
    mounts = {
        name: dict(interpolated(mount).split(":")[:2][::-1] for mount in SERVICES[name]["volumes"])
        for name in ("gateway", "engine-args", "engine")
    }
    assert {mount["/family"] for mount in mounts.values()} == {"./models/abacus"}
    command = SERVICES["engine-args"]["command"]
    assert command[:2] == ["engine-args", "/family"]
    assert command[2] == "--output"
    written = Path(command[3])
    flag, read = SERVICES["engine"]["command"]
    assert flag == "--config"
    assert Path(read).name == written.name
    assert mounts["engine-args"][str(written.parent)] == mounts["engine"][str(Path(read).parent)] == "engine-args"
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
