"""What are a request's headers? Starlette's, found by name without a search through all of them."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope


class IndexedHeaders(Headers):
    """A request's headers. A chat request looks for about fifteen, and most of them are absent."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(raw=scope["headers"])
        self._values: dict[str, list[str]] = {}
        for name, value in self._list:
            self._values.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))

    def __getitem__(self, key: str) -> str:
        return self._values[key if key.islower() else key.lower()][0]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.lower() in self._values

    def get(self, key: str, default: Any = None) -> Any:
        """The first value of a name; `default` if there is none."""
        values = self._values.get(key if key.islower() else key.lower())
        return default if values is None else values[0]

    def getlist(self, key: str) -> list[str]:
        """All values of a name."""
        return self._values.get(key if key.islower() else key.lower(), [])
