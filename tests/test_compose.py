"""docker-compose.yml: what can be said of it without a Docker daemon."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import config
from models import family as families

ROOT = Path(__file__).parent.parent
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def compose_client() -> bool:
    docker = shutil.which("docker")
    return (
        docker is not None
        and subprocess.run([docker, "compose", "version"], check=False, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not compose_client(), reason="there is no `docker compose` here")
def test_docker_accepts_it() -> None:
    subprocess.run(["docker", "compose", "config", "--quiet"], cwd=ROOT, check=True)


def test_the_gateway_accepts_its_flags_and_reaches_what_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    command, *flags = SERVICES["gateway"]["command"]
    settings = config.load(flags)
    assert command == "serve"
    ports = {name: SERVICES[name]["ports"][0] for name in ("engine", "redis")}
    assert settings.engine == [f"http://{ports['engine'].rsplit(':', 1)[0]}"]
    assert settings.redis == f"redis://{ports['redis'].rsplit(':', 1)[0]}/0"


def test_the_engine_serves_the_shipped_familys_adapters_and_keeps_a_place_empty() -> None:
    """The empty place is what the base gets beside adapters on a CPU (`gateway.process.embedded`)."""
    family = families.load(config.shipped_family(), verify=False)
    adapters = [checkpoint for checkpoint in family.checkpoints if checkpoint.kind == "lora"]
    command = SERVICES["engine"]["command"]
    modules = command[command.index("--lora-modules") + 1 :]
    assert modules == [f"{family.served_name(adapter.name)}=/family/{adapter.path}" for adapter in adapters]
    assert f"--max-loras={len(adapters) + 1}" in command


def test_nothing_is_published_beyond_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_what_the_image_is_made_of_exists_and_is_let_in() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / path).exists() for path in allowed)
    copies = [line.split()[1:-1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    assert {source for sources in copies for source in sources} <= allowed
