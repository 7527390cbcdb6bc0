"""What does the gateway's HTTP surface look like to a machine? Its OpenAPI document.

The chat endpoints are written by hand, because they pass on fields that the gateway does not know. FastAPI describes
the admin endpoints. The schemas of what the gateway itself reads come from the pydantic models that read it.
"""

from __future__ import annotations

import functools
from typing import Any, cast

from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from gateway.access.keys import Grant
from gateway.admin import router
from gateway.dashboard.endpoints import OverviewQuery
from gateway.decisions import DecisionRequest
from gateway.feedback import Feedback
from gateway.outcomes import Report
from gateway.request import budget, conversation, question
from models.family import Family

Json = dict[str, Any]

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


_MESSAGES_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "type": {"type": "string"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": "string"},
    },
}
"""Anthropic's, which only `/v1/messages` has."""


def document(family: Family, version: str) -> Json:
    """The document for one family's gateway. Every gateway of a process shares it, so nobody may change it."""
    return _document(
        (family.name, *(family.served_name(checkpoint.name) for checkpoint in family.checkpoints)), version
    )


@functools.cache
def _document(models: tuple[str, ...], version: str) -> Json:
    names = [*models]
    chat = {
        "parameters": [
            _header(budget.HEADER, "reasoning tokens, an effort's name, or auto", [*budget.EFFORTS, "auto", "200"]),
            _header(budget.POLICY_HEADER, "cap the thinking, or reject a budget that is too small", ["cap", "reject"]),
            _header(conversation.HEADER, "the conversation's id, 1 to 256 printable ASCII characters", ["chat-17"]),
        ],
        "requestBody": _body(question.ChatRequest, model={"type": "string", "examples": names}),
    }
    hit = {"type": "boolean", "description": "the cap ended the thinking; absent otherwise"}
    usage = {"type": "object", "properties": {"budget_hit": hit}}
    answer = {"application/json": {"schema": {"type": "object", "properties": {"usage": usage}}}}
    events = {"text/event-stream": {"schema": {"type": "object", "description": "server-sent events"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Laconic", "version": version, "description": "Routes, caps and counts reasoning."},
        "paths": {
            "/v1/chat/completions": {
                "post": {**_operation("Create a chat completion", content=answer | events), **chat}
            },
            **_other_surfaces(names, chat["parameters"]),
            "/v1/route": {
                "post": {**_operation("Explain how a chat request would be routed, without running it"), **chat}
            },
            "/v1/decisions": {
                "post": {
                    **_operation("Decide about a chat request that another router runs"),
                    "parameters": chat["parameters"],
                    "requestBody": _body(DecisionRequest, model={"type": "string", "examples": names}),
                }
            },
            "/v1/outcomes": {
                "post": {**_operation("Report what became of such a request"), "requestBody": _body(Report)}
            },
            "/v1/models": {"get": _operation("List the family and its checkpoints")},
            "/v1/models/{model}": {
                "get": {**_operation("Describe one of them"), "parameters": [_path("model", names)]}
            },
            **_admin_paths(version),
            **_overview_paths(),
            "/health/live": {"get": _operation("Whether the process runs; also at `/health` and `/ping`")},
            "/version": {"get": _operation("The gateway's version")},
            "/health/ready": {"get": _operation("Whether an engine serves every checkpoint")},
            "/metrics": {
                "get": _operation("Metrics for Prometheus", content={"text/plain": {"schema": {"type": "string"}}}),
            },
        },
        "components": {
            "schemas": {"Error": _ERROR, "MessagesError": _MESSAGES_ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _other_surfaces(names: list[str], parameters: Any) -> Json:
    """Other APIs' endpoints. Their own documents describe their fields; the gateway checks them."""
    model = {"type": "string", "examples": names}
    messages = {"type": "array", "items": {"type": "object"}}
    asked: Json = {"model": model, "messages": messages}
    events = {"text/event-stream": {"schema": {"type": "object", "description": "server-sent events"}}}
    content = {"application/json": {"schema": {"type": "object"}}} | events

    def post(summary: str, content: Json | None, properties: Json, *required: str, shape: str = "Error") -> Json:
        schema = {"type": "object", "required": list(required), "properties": properties}
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        described = _operation(summary, content=content, shape=shape)
        return {"post": {**described, "parameters": parameters, "requestBody": body}}

    most = {"max_tokens": {"type": "integer", "minimum": 1}, "stream": {"type": "boolean"}}
    return {
        "/v1/messages": post(
            "Answer a request of Anthropic's Messages API",
            content,
            asked | most,
            *("model", "messages", "max_tokens"),
            shape="MessagesError",
        ),
        "/v1/messages/count_tokens": post(
            "Estimate the tokens of such a request", None, asked, "model", "messages", shape="MessagesError"
        ),
        "/v1/responses": post(
            "Answer a request of OpenAI's Responses API",
            content,
            {"model": model, "input": {"type": ["string", "array"]}, "stream": {"type": "boolean"}},
            *("model", "input"),
        ),
        "/v1/completions": post(
            "Answer a prompt, as OpenAI's old completions API does",
            content,
            {"model": model, "prompt": {"type": ["string", "array"]}} | most,
            *("model", "prompt"),
        ),
    }


def _admin_paths(version: str) -> Json:
    """The admin endpoints as FastAPI describes them, with our own errors."""
    paths = get_openapi(title="", version=version, routes=router.routes)["paths"]
    for operations in paths.values():
        for operation in operations.values():
            del operation["operationId"]
            operation["responses"].pop("422", None)
            (success,) = operation["responses"]
            operation["responses"] = _operation(operation["summary"], success)["responses"]
    paths["/v1/usage"]["get"]["responses"]["200"]["content"]["text/csv"] = {"schema": {"type": "string"}}
    paths["/v1/keys"]["post"]["requestBody"] = _body(Grant)
    paths["/v1/feedback"]["post"]["requestBody"] = _body(Feedback)
    return paths


def _overview_paths() -> Json:
    """The dashboard's figures. Its pages are for browsers, and not described."""
    since = OverviewQuery.model_json_schema()["properties"]["since"]
    parameters = [{"name": "since", "in": "query", "schema": {"enum": since["enum"], "default": since["default"]}}]
    stated = {"type": "string", "description": "the events overview, trouble and login"}
    events = {"text/event-stream": {"schema": stated}}
    once = _operation("Report every figure of the dashboard")
    stream = _operation("The same as server-sent events, with each update", content=events)
    return {
        "/v1/overview": {"get": {**once, "parameters": parameters}},
        "/v1/overview/stream": {"get": {**stream, "parameters": parameters}},
    }


def _operation(summary: str, status: str = "200", content: Json | None = None, shape: str = "Error") -> Json:
    error = {"application/json": {"schema": {"$ref": f"#/components/schemas/{shape}"}}}
    return {
        "summary": summary,
        "responses": {
            status: {
                "description": summary,
                "content": content or {"application/json": {"schema": {"type": ["object", "array"]}}},
            },
            "default": {"description": "What is wrong, and with which field or header", "content": error},
        },
    }


def _body(reader: type[BaseModel], **properties: Json) -> Json:
    schema = reader.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})
    schema["properties"] |= properties
    return {"required": True, "content": {"application/json": {"schema": _inlined(schema, definitions)}}}


def _inlined(schema: object, definitions: Json) -> Any:
    """The schema with its references replaced by what they refer to, so that each body can be read by itself."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in cast("list[object]", schema)]
    if not isinstance(schema, dict):
        return schema
    fields = cast("Json", schema)
    if "$ref" in fields:
        return _inlined(definitions[fields["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(value, definitions) for name, value in fields.items()}


def _header(name: str, description: str, examples: list[str]) -> Json:
    schema = {"type": "string", "examples": examples}
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _path(name: str, examples: list[str]) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "examples": examples}}
