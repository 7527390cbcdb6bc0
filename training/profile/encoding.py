"""With which sentence encoder is a profile fitted?"""

from __future__ import annotations

from pathlib import Path

from models import encoder as encoders
from models.encoder import Encoder, EncoderError
from training.errors import StageError


def load(directory: Path | None, setting: str) -> Encoder:
    """The encoder in a directory, or the installed one, with a memory: fits read the same prompts several times.

    Raises:
        StageError: it cannot be used; names the setting that asked for it.
    """
    try:
        return encoders.remembering(encoders.load(directory))
    except EncoderError as error:
        raise StageError(f"{setting}: {error}") from None
