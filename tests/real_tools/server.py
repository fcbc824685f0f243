"""A scripted model server on the loopback: what real coding tools talk to in place of a provider.

It speaks Anthropic messages, OpenAI chat completions and responses, and Gemini generateContent, each in one piece or
streamed. The first part of a request's path names a session; a session has one script, which says what the model does.

Invariants: a script's answer depends on the request alone (which step its prompt is of, which tools it offers, how many
calls it has seen answered), so repetitions by a tool are harmless; what is counted is what was sent to its end; nothing
listens but on 127.0.0.1; closing the server ends every request that it holds.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, Self

import msgspec

REQUEST_BYTES_MAX: Final = 32 * 1024 * 1024
TICK_S: Final = 0.1

FRESH: Final = 800
CACHED: Final = 200
OUTPUT: Final = 50
REASONING: Final = 10
"""Tokens of every answer: input that no cache had a part in, input from a cache, output with reasoning, and that part."""

FILE: Final = "greet.py"
BASE: Final = 'def greet(name):\n    return "hello"\n'
BROKEN: Final = 'import os\n\n\ndef greet(name):\n    return f"hello {name}"\n'
MENDED: Final = 'def greet(name):\n    return f"hello {name}"\n'
"""The file before EDIT, after it (it works, and a linter finds an import that nothing uses), and after FIX."""

Kind = Literal["edit", "endless", "command", "status", "hang", "drop"]


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """What the model of a session does.

    `edit`: writes BROKEN, and MENDED when the prompt is of a FIX. `endless`: reads the file again and again. `command`:
    has `command` run. `status`: answers with that HTTP status and `headers`. `hang`: takes the request and says nothing.
    `drop`: begins an answer and closes the connection.
    """

    kind: Kind = "edit"
    command: str = ""
    status: int = 0
    headers: dict[str, str] = {}


class Call(msgspec.Struct, frozen=True):
    """The model wants a tool used. `text` is the input of a tool that takes plain text."""

    name: str
    arguments: dict[str, Any] = {}
    text: str = ""


class Asked(msgspec.Struct, frozen=True):
    """A request in one form. `answered` counts the model's earlier calls."""

    protocol: Literal["anthropic", "chat", "responses", "gemini"]
    model: str
    stream: bool
    tools: frozenset[str]
    answered: int
    text: str


class Session:
    """One script, and what came of it: `requests` that wanted the model, `answers` that were sent whole and counted."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests = 0
        self.answers = 0
        self.bodies: list[Any] = []
        self.lock = threading.Lock()


class Server:
    """The server; use it as a context. `url` is its address, `session` opens a session below it."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.closing = threading.Event()
        self._http = _Http(self)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": TICK_S}, daemon=True)

    def session(self, name: str, script: Script) -> Session:
        """A fresh session at `url`/`name`."""
        self.sessions[name] = Session(script)
        return self.sessions[name]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()


class _Http(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, owner: Server) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A tool that was ended leaves broken connections; they are of no interest."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parameter's name is the library's
        """Requests are counted, not printed."""

    def do_HEAD(self) -> None:
        self._send(200, b"")

    def do_GET(self) -> None:
        # A websocket is refused as by a server that knows none: a tool that would like one then does without.
        sockets = "upgrade" in self.headers.get("connection", "").lower()
        self._send(426 if sockets else 200, b'{"object": "list", "data": []}')

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        if length > REQUEST_BYTES_MAX:
            self._send(413, b"{}")
            return
        body = self._body(length)
        name, _, path = self.path.lstrip("/").partition("/")
        session = self.server.owner.sessions.get(name)
        path = path.partition("?")[0]
        asked = None if session is None else _read(path, self.path, body)
        if session is None or asked is None:
            counting = path.endswith(("count_tokens", ":countTokens"))
            self._send(200 if counting else 404, b'{"input_tokens": 100, "totalTokens": 100}' if counting else b"{}")
            return
        with session.lock:
            session.requests += 1
            session.bodies.append(body)
        self._answer(session, asked)

    def _body(self, length: int) -> Any:
        data = self.rfile.read(length) if length else self._chunks()
        try:
            return json.loads(data or b"{}")
        except ValueError:
            return {}

    def _chunks(self) -> bytes:
        data = b""
        while self.headers.get("transfer-encoding", "").lower() == "chunked" and len(data) < REQUEST_BYTES_MAX:
            size = int(self.rfile.readline().strip() or b"0", 16)
            data += self.rfile.read(size)
            self.rfile.readline()
            if size == 0:
                break
        return data

    def _answer(self, session: Session, asked: Asked) -> None:
        script = session.script
        match script.kind:
            case "status":
                self._send(script.status, _refusal(asked.protocol, script.status), script.headers)
            case "hang":
                self._hold()
            case "drop":
                self._drop(asked)
            case "edit" | "endless" | "command":
                calls, text, counts = _turn(script, asked)
                if asked.stream:
                    self._stream(_events(asked, calls, text))
                else:
                    self._send(200, json.dumps(_whole(asked, calls, text)).encode())
                if counts:
                    with session.lock:
                        session.answers += 1

    def _hold(self) -> None:
        """Until the server closes, or the tool does."""
        self.connection.settimeout(TICK_S)
        while not self.server.owner.closing.is_set():
            try:
                if self.connection.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        self.close_connection = True

    def _drop(self, asked: Asked) -> None:
        if asked.stream:
            first = next(iter(_events(asked, [], "half an ans")))
            self.wfile.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            self._chunk(first)
        self.close_connection = True
        with contextlib.suppress(OSError):
            # With an RST in place of a FIN, as when a machine on the way goes down.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.wfile.flush()
            self.connection.close()

    def _stream(self, events: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in events:
            self._chunk(event)
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


# Requests


def _read(path: str, whole: str, body: Any) -> Asked | None:
    """A request that wants the model; None for any other."""
    if not isinstance(body, dict):
        return None
    text = json.dumps(body, ensure_ascii=False)
    model, stream = str(body.get("model", "")), bool(body.get("stream"))
    if path.endswith("/messages"):
        blocks = [block for message in body.get("messages", []) for block in _blocks(message.get("content"))]
        answered = sum(block.get("type") == "tool_result" for block in blocks)
        return Asked("anthropic", model, stream, _names(body.get("tools")), answered, text)
    if path.endswith("/chat/completions"):
        answered = sum(message.get("role") == "tool" for message in body.get("messages", []))
        named = [tool.get("function", {}) for tool in body.get("tools") or []]
        return Asked("chat", model, stream, _names(named), answered, text)
    if path.endswith("/responses"):
        answered = sum(str(item.get("type", "")).endswith("_call_output") for item in _blocks(body.get("input")))
        return Asked("responses", model, stream, _names(body.get("tools")), answered, text)
    gemini = re.search(r"/models/([^/:]+):(generateContent|streamGenerateContent)$", path)
    if gemini is not None:
        parts = [part for content in body.get("contents", []) for part in content.get("parts", [])]
        declared = [one for tool in body.get("tools") or [] for one in tool.get("functionDeclarations", [])]
        streams = gemini[2].startswith("stream") and "alt=sse" in whole
        answered = sum("functionResponse" in part for part in parts)
        return Asked("gemini", gemini[1], streams, _names(declared), answered, text)
    return None


def _blocks(content: Any) -> list[dict[str, Any]]:
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _names(tools: Any) -> frozenset[str]:
    return frozenset(str(tool.get("name", "")) for tool in tools or [] if isinstance(tool, dict))


# The model


_WORKTREE: Final = re.compile(r"(/[^\s\"'\\<>`,]*?/executor/worktrees/[0-9a-f]+/[^\s\"'\\<>`,/)]+)")


def _turn(script: Script, asked: Asked) -> tuple[list[Call], str, bool]:
    """What the model calls for, what it says, and whether the answer is a part of the tool's own work."""
    fixing = "# Repair workstream" in asked.text
    if "# Workstream" not in asked.text and not fixing:
        return [], "Scripted title", False
    before, after = (BROKEN, MENDED) if fixing else (BASE, BROKEN)
    if not asked.tools and "SEARCH" not in asked.text:
        return [], "Scripted title", False  # a request beside the work, such as for a title
    if not asked.tools:
        blocks = f"{FILE}\n<<<<<<< SEARCH\n{before}=======\n{after}>>>>>>> REPLACE\n"
        return [], f"Here is the change.\n\n{blocks}", True
    found = _WORKTREE.search(asked.text)
    path = f"{found[1]}/{FILE}" if found is not None else FILE
    steps = {
        "edit": [_reading(asked.tools, path), _writing(asked.tools, path, before, after)],
        "endless": [_reading(asked.tools, path)] * (asked.answered + 1),
        "command": [_running(asked.tools, script.command)],
    }[script.kind]
    if asked.answered < len(steps):
        return [steps[asked.answered]], "", True
    return [], "Done.", True


def _reading(tools: frozenset[str], path: str) -> Call:
    for name, argument in (("Read", "file_path"), ("read", "filePath"), ("read_file", "file_path")):
        if name in tools:
            return Call(name, {argument: path})
    return _running(tools, f"cat {FILE}")


def _writing(tools: frozenset[str], path: str, before: str, after: str) -> Call:
    for name, argument in (("Write", "file_path"), ("write", "filePath"), ("write_file", "file_path")):
        if name in tools:
            return Call(name, {argument: path, "content": after})
    removed = "".join(f"-{line}\n" for line in before.splitlines())
    added = "".join(f"+{line}\n" for line in after.splitlines())
    return Call("apply_patch", text=f"*** Begin Patch\n*** Update File: {FILE}\n@@\n{removed}{added}*** End Patch\n")


def _running(tools: frozenset[str], command: str) -> Call:
    for name in ("Bash", "bash", "run_shell_command"):
        if name in tools:
            return Call(name, {"command": command, "description": "scripted command"})
    if "exec_command" in tools:
        return Call("exec_command", {"cmd": command})
    return Call("shell_command", {"command": command})


# Answers


def _refusal(protocol: str, status: int) -> bytes:
    words = {
        401: ("authentication_error", "Invalid API key provided."),
        429: ("rate_limit_error", "Rate limit reached for requests."),
        500: ("api_error", "Internal server error."),
        529: ("overloaded_error", "Overloaded"),
    }
    kind, message = words.get(status, ("invalid_request_error", "Refused."))
    match protocol:
        case "anthropic":
            answer: Any = {"type": "error", "error": {"type": kind, "message": message}}
        case "gemini":
            named = {401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL"}
            answer = {"error": {"code": status, "message": message, "status": named.get(status, "UNAVAILABLE")}}
        case _:
            code = {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(status)
            answer = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return json.dumps(answer).encode()


def _whole(asked: Asked, calls: list[Call], text: str) -> dict[str, Any]:
    match asked.protocol:
        case "anthropic":
            usage = _anthropic_usage() | {"output_tokens": OUTPUT}
            return _anthropic_message(asked) | {
                "content": _anthropic_blocks(asked, calls, text),
                "stop_reason": "tool_use" if calls else "end_turn",
                "usage": usage,
            }
        case "chat":
            message: dict[str, Any] = {"role": "assistant", "content": text or None}
            if calls:
                message["tool_calls"] = _chat_calls(asked, calls)
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
            return _chat(asked, "chat.completion") | {"choices": [choice], "usage": _chat_usage()}
        case "responses":
            return _response(asked, "completed", _items(asked, calls, text))
        case "gemini":
            return _gemini(calls, text)


def _events(asked: Asked, calls: list[Call], text: str) -> Iterator[bytes]:
    match asked.protocol:
        case "anthropic":
            yield from _anthropic_events(asked, calls, text)
        case "chat":
            yield from _chat_events(asked, calls, text)
        case "responses":
            yield from _responses_events(asked, calls, text)
        case "gemini":
            yield _data(_gemini(calls, text))


def _data(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return b"event: " + str(value["type"]).encode() + b"\n" + _data(value)


def _id(asked: Asked, prefix: str) -> str:
    return f"{prefix}_scripted_{asked.answered:04d}"


# Anthropic messages


def _anthropic_usage() -> dict[str, int]:
    return {
        "input_tokens": FRESH,
        "cache_read_input_tokens": CACHED,
        "cache_creation_input_tokens": 0,
        "output_tokens": 1,
    }


def _anthropic_message(asked: Asked) -> dict[str, Any]:
    return {
        "id": f"{_id(asked, 'msg')}_{threading.get_ident()}",
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _anthropic_usage(),
    }


def _anthropic_blocks(asked: Asked, calls: list[Call], text: str) -> list[dict[str, Any]]:
    if not calls:
        return [{"type": "text", "text": text}]
    return [
        {"type": "tool_use", "id": _id(asked, "toolu"), "name": call.name, "input": call.arguments} for call in calls
    ]


def _anthropic_events(asked: Asked, calls: list[Call], text: str) -> Iterator[bytes]:
    yield _event({"type": "message_start", "message": _anthropic_message(asked)})
    for index, block in enumerate(_anthropic_blocks(asked, calls, text)):
        if block["type"] == "text":
            start, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": text}
        else:
            start = block | {"input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        yield _event({"type": "content_block_start", "index": index, "content_block": start})
        yield _event({"type": "content_block_delta", "index": index, "delta": delta})
        yield _event({"type": "content_block_stop", "index": index})
    stop = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
    yield _event({"type": "message_delta", "delta": stop, "usage": {"output_tokens": OUTPUT}})
    yield _event({"type": "message_stop"})


# OpenAI chat completions


def _chat(asked: Asked, kind: str) -> dict[str, Any]:
    return {"id": _id(asked, "chatcmpl"), "object": kind, "created": 1_700_000_000, "model": asked.model}


def _chat_calls(asked: Asked, calls: list[Call]) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "id": _id(asked, "call"),
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
        }
        for index, call in enumerate(calls)
    ]


def _chat_usage() -> dict[str, Any]:
    return {
        "prompt_tokens": FRESH + CACHED,
        "completion_tokens": OUTPUT,
        "total_tokens": FRESH + CACHED + OUTPUT,
        "prompt_tokens_details": {"cached_tokens": CACHED},
        "completion_tokens_details": {"reasoning_tokens": REASONING},
    }


def _chat_events(asked: Asked, calls: list[Call], text: str) -> Iterator[bytes]:
    chunk = _chat(asked, "chat.completion.chunk")
    delta: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        delta = {"role": "assistant", "content": None, "tool_calls": _chat_calls(asked, calls)}
    yield _data(chunk | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    reason = "tool_calls" if calls else "stop"
    yield _data(chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    yield _data(chunk | {"choices": [], "usage": _chat_usage()})
    yield b"data: [DONE]\n\n"


# OpenAI responses


def _items(asked: Asked, calls: list[Call], text: str) -> list[dict[str, Any]]:
    if not calls:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        return [{"type": "message", "role": "assistant", "id": _id(asked, "msg"), "content": content}]
    items = []
    for call in calls:
        item: dict[str, Any] = {"id": _id(asked, "fc"), "call_id": _id(asked, "call"), "name": call.name}
        if call.text:
            items.append(item | {"type": "custom_tool_call", "input": call.text})
        else:
            items.append(item | {"type": "function_call", "arguments": json.dumps(call.arguments)})
    return items


def _response(asked: Asked, status: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    usage = {
        "input_tokens": FRESH + CACHED,
        "input_tokens_details": {"cached_tokens": CACHED},
        "output_tokens": OUTPUT,
        "output_tokens_details": {"reasoning_tokens": REASONING},
        "total_tokens": FRESH + CACHED + OUTPUT,
    }
    return {
        "id": _id(asked, "resp"),
        "object": "response",
        "created_at": 1_700_000_000,
        "model": asked.model,
        "status": status,
        "output": items,
        "usage": usage if status == "completed" else None,
    }


def _responses_events(asked: Asked, calls: list[Call], text: str) -> Iterator[bytes]:
    items = _items(asked, calls, text)
    yield _event({"type": "response.created", "response": _response(asked, "in_progress", [])})
    for index, item in enumerate(items):
        yield _event({"type": "response.output_item.added", "output_index": index, "item": item})
        yield _event({"type": "response.output_item.done", "output_index": index, "item": item})
    yield _event({"type": "response.completed", "response": _response(asked, "completed", items)})


# Gemini


def _gemini(calls: list[Call], text: str) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"functionCall": {"name": call.name, "args": call.arguments}} for call in calls]
    return {
        "candidates": [
            {"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": parts or [{"text": text}]}}
        ],
        "usageMetadata": {
            "promptTokenCount": FRESH + CACHED,
            "cachedContentTokenCount": CACHED,
            "candidatesTokenCount": OUTPUT - REASONING,
            "thoughtsTokenCount": REASONING,
            "totalTokenCount": FRESH + CACHED + OUTPUT,
        },
    }
