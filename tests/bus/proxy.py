"""A TCP proxy on the loopback between a client and a nats-server that can swallow what the server answers."""

import asyncio
import contextlib


class AnswerSwallower:
    """Hands everything on, but for the answers to publishes while `armed`: they were carried out, and nobody learns of it."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.armed = 0
        self.swallowed = 0

    async def start(self) -> int:
        """Listen; the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, upstream}
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await asyncio.gather(self._up(reader, upstream), self._down(upstream_reader, writer))
        writer.close()
        upstream.close()

    async def _up(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            upstream.write(data)
            await upstream.drain()
        upstream.close()

    async def _down(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await upstream.readline():
            words = line.split()
            payload = b""
            if words and words[0] in {b"MSG", b"HMSG"}:
                payload = await upstream.readexactly(int(words[-1]) + 2)
            if self.armed and payload.startswith(b'{"stream":') and b'"seq":' in payload:
                self.armed -= 1
                self.swallowed += 1
                continue
            writer.write(line + payload)
            await writer.drain()
        writer.close()
