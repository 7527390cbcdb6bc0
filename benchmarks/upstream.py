"""What is behind every gateway in the speed comparison? A server that speaks vLLM's protocol and does no work.

    python -m benchmarks.upstream PORT

A response is `EVENTS` pieces, written one by one, or one body. With `"seed": 7` a stream stops after its first piece
and stays open, so that the memory of an idle stream can be measured. Three more seeds make it misbehave, for
`benchmarks.attacks`. It is plain asyncio, to stay much faster than what is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop

EVENTS = 64
IDLE, ENDLESS_BODY, ENDLESS_EVENT, DRIBBLE = 7, 8, 9, 10
"""Seeds: one piece and silence; a body, or an event, that never ends; a head that arrives byte by byte."""
NAMES = ("base", "alpha-0", "alpha-0.05", "alpha-0.1", "alpha-0.2", "alpha-0.4")
_HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "abacus/base"}
_USAGE = {
    "prompt_tokens": 20,
    "total_tokens": 80,
    "completion_tokens": 60,
    "completion_tokens_details": {"reasoning_tokens": 40},
}


def _event(data: object) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


def _piece(delta: dict[str, str], finish: str | None = None) -> bytes:
    return _event({**_HEAD, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def _body(body: object) -> bytes:
    data = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)


PIECES = [
    _piece({"role": "assistant", "content": ""}),
    *[_piece({"reasoning": f" {number}"}) for number in range(40)],
    *[_piece({"content": f" {number}"}) for number in range(EVENTS - 44)],
    _piece({}, "stop"),
    _event({**_HEAD, "choices": [], "usage": _USAGE}),
    _event("[DONE]"),
]
START = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM = [_chunk(piece) for piece in PIECES]
_MODELS = _body({"object": "list", "data": [{"id": f"abacus/{name}", "object": "model"} for name in NAMES]})
_HEALTH = _body({})
ANSWER = _body(
    {
        **_HEAD,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "The answer is 3.", "reasoning": "1 + 2 = 3"},
                "finish_reason": "stop",
            }
        ],
        "usage": _USAGE,
    }
)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
            body = json.loads(await reader.readexactly(length)) if length else {}
            if b"/chat/completions" not in head:
                writer.write(_MODELS if b"/models" in head.split(b"\r\n", 1)[0] else _HEALTH)
            elif body.get("seed") in (ENDLESS_BODY, ENDLESS_EVENT):
                await _endless(writer)
            elif body.get("seed") == DRIBBLE:
                for byte in START:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.1)
            elif not body.get("stream"):
                writer.write(ANSWER)
            elif body.get("seed") == IDLE:
                writer.write(START + STREAM[0])
                await reader.read()
                return
            else:
                writer.write(START)
                for chunk in STREAM:
                    writer.write(chunk)
                    await asyncio.sleep(0)
                writer.write(b"0\r\n\r\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _endless(writer: asyncio.StreamWriter) -> None:
    """Send an answer without an end, until the connection is closed."""
    writer.write(START + _chunk(b'data: {"choices": [{"index": 0, "delta": {"content": "'))
    while True:
        writer.write(_chunk(b"x" * 65_536))
        await writer.drain()


async def main() -> None:
    """Serve until the process is ended."""
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
