"""Which HTTP endpoints does the gateway have? Writes the OpenAPI document, docs/openapi.json, and docs/http.md from it.

python -m scripts.http_reference
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway import openapi
from gateway.config import shipped_family
from gateway.release import VERSION
from models import family as families

Json = dict[str, Any]

DOCS = Path(__file__).parent.parent / "docs"
_INTRODUCTION = """# HTTP endpoints

<!-- Written by scripts/http_reference.py from openapi.json: change gateway/openapi.py instead. -->

A running gateway serves this description for machines at `GET /openapi.json`. [The gateway](gateway.md) explains what
the fields do, and lists the response headers and the error codes.

"""


def render(document: Json) -> str:
    """The page for one OpenAPI document."""
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    lines = ["| endpoint | |", "| --- | --- |"]
    lines += [f"| [`{name}`](#{_anchor(name)}) | {operation['summary']} |" for name, operation in operations]
    for name, operation in operations:
        lines += ["", f"## `{name}`", "", f"{operation['summary']}.", *_parameters(operation), *_body(operation)]
        lines += ["", *_responses(operation)]
    return _INTRODUCTION + "\n".join(lines) + "\n"


def _parameters(operation: Json) -> Iterator[str]:
    if parameters := operation.get("parameters"):
        yield from ("", "| parameter | in | type | |", "| --- | --- | --- | --- |")
    for parameter in parameters or ():
        schema = parameter["schema"]
        words = [parameter["description"]] if "description" in parameter else []
        words += [f"e.g. {_codes(schema['examples'])}"] if "examples" in schema else []
        yield f"| `{parameter['name']}` | {parameter['in']} | {_type(schema)} | {'; '.join(words)} |"


def _body(operation: Json) -> Iterator[str]:
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" not in content:
        return
    schema = content["application/json"]["schema"]
    yield from ("", "| field of the body | type | required |", "| --- | --- | --- |")
    for name, field in schema["properties"].items():
        yield f"| `{name}` | {_type(field)} | {'yes' if name in schema.get('required', ()) else ''} |"
    if schema.get("additionalProperties") is not False:
        allowed = "[budgets](how-to/budgets.md) and those that [the gateway allows](gateway.md#reasoning-and-usage)"
        yield from ("", f"Of other fields, {allowed} are accepted.")


def _responses(operation: Json) -> Iterator[str]:
    for status, response in operation["responses"].items():
        kinds = _codes(response.get("content", {}))
        yield f"- {'Any other status' if status == 'default' else f'`{status}`'}: {kinds}"


def _type(schema: Json) -> str:
    """A schema in a few words: its types, its values where they are few, its bounds."""
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return _codes(schema["enum"])
    kinds = schema.get("type", "any")
    words = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    if words == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if words == "object" and "properties" in schema:
        return f"object with {_codes(schema['properties'])}"
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
    return ", ".join([words, *(f"{said} {schema[bound]:.0f}" for bound, said in bounds.items() if bound in schema)])


def _codes(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _anchor(name: str) -> str:
    """The anchor that both GitHub and MkDocs give a heading."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", name.lower()))


def write(docs: Path, family_dir: Path) -> None:
    """Write the OpenAPI document of a family's gateway to `docs`, and the page made from it."""
    document = openapi.document(families.load(family_dir, verify=False), VERSION)
    (docs / "openapi.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (docs / "http.md").write_text(render(document), encoding="utf-8")


if __name__ == "__main__":
    write(DOCS, shipped_family())
