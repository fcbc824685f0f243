"""Probes: what keeps a service from being called is one line and an exit code. TLS is tried in tests/deploy."""

import asyncio
import contextlib
import http.server
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services import probe, ready
from services.metrics import Exposition
from services.ready import announce

NOBODY = 2**22 + 1
"""No process has this number."""


@contextlib.contextmanager
def server(status):
    with ThreadPoolExecutor(2) as pool:
        opened = grpc.server(pool)
        servicer = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, opened)
        servicer.set("", status)
        port = opened.add_insecure_port("127.0.0.1:0")
        opened.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            opened.stop(0).wait()


@pytest.mark.parametrize(
    ("status", "options", "code", "said"),
    [
        (health_pb2.HealthCheckResponse.SERVING, [], 0, ""),
        (health_pb2.HealthCheckResponse.NOT_SERVING, [], 1, "says NOT_SERVING"),
        (health_pb2.HealthCheckResponse.NOT_SERVING, ["--alive"], 0, ""),
    ],
)
def test_a_server_is_asked_for_its_health(status, options, code, said, capsys):
    with server(status) as address:
        assert probe.main([address, *options]) == code
    assert said in capsys.readouterr().err


def test_every_address_has_to_serve(capsys):
    with server(health_pb2.HealthCheckResponse.SERVING) as address:
        assert probe.main([address, "127.0.0.1:1", "--timeout", "2"]) == 1
    assert "127.0.0.1:1 does not answer: UNAVAILABLE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ca-file", "/nowhere/ca.crt"], "/nowhere/ca.crt cannot be read (No such file or directory)"),
        (["--ca-file", "/dev/null", "--key-file", "/dev/null"], "belong together"),
        (["--certificate-file", "/dev/null", "--key-file", "/dev/null"], "needs --ca-file"),
    ],
)
def test_what_cannot_be_asked_so_is_told(options, said, capsys):
    assert probe.main(["127.0.0.1:1", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_service_is_there_while_its_process_lives(tmp_path, capsys):
    file = tmp_path / "ready"
    assert ready.main([str(file)]) == 1
    announce(file, 0)
    assert ready.main([str(file)]) == 0
    file.write_text(json.dumps({"port": 0, "pid": NOBODY}))
    assert ready.main([str(file)]) == 1
    assert "No such process" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", '{"port": 0}', '{"port": 0, "pid": "1"}', '{"port": 0, "pid": 0'])
def test_a_file_that_says_nothing_is_no_service(text, tmp_path):
    file = tmp_path / "ready"
    file.write_text(text)
    assert ready.main([str(file)]) == 1


@pytest.mark.parametrize(
    ("shown", "code"),
    [("swell_event_loop_responsive 1.0\n", 0), ("swell_event_loop_responsive 0.0\n", 1), ("", 1)],
)
def test_a_loop_that_stands_still_is_seen(shown, code, tmp_path):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"# TYPE x gauge\n{shown}".encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as page:
        thread = threading.Thread(target=page.serve_forever, daemon=True)
        thread.start()
        file = tmp_path / "ready"
        announce(file, 0, page.server_port)
        assert ready.main([str(file), "--responsive"]) == code
        page.shutdown()
        thread.join()


def test_without_metrics_the_loop_cannot_be_asked(tmp_path, capsys):
    file = tmp_path / "ready"
    file.write_text(json.dumps({"port": 0, "pid": os.getpid()}))
    assert ready.main([str(file), "--responsive"]) == 1
    assert "set metrics_address" in capsys.readouterr().err
    file.write_text(json.dumps({"port": 0, "pid": os.getpid(), "metrics_port": 1}))
    assert ready.main([str(file), "--responsive"]) == 1
    assert "127.0.0.1:1 does not answer" in capsys.readouterr().err


async def test_the_series_is_what_services_show(tmp_path):
    file = tmp_path / "ready"
    async with Exposition("executor").served("127.0.0.1:0") as port:
        announce(file, 0, port)
        assert await asyncio.to_thread(ready.main, [str(file), "--responsive"]) == 0
