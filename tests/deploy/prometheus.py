"""A real Prometheus on the loopback, its answers, and promtool. Both have to be on PATH."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import yaml

from tests.deploy.shipped import CONFIG, RULES

START_S: Final = 30.0
STOP_S: Final = 20.0
ASK_S: Final = 30.0
REMEDY: Final = (
    "prometheus and promtool have to be on PATH: install your distribution's package (Debian: apt-get install prometheus; "
    "its service need not run), or unpack a release of Prometheus"
)


class MissingError(Exception):
    """A program is not there."""


class Series(msgspec.Struct, frozen=True):
    """What a query found for one set of labels: its values over time, those that are no number left out."""

    labels: dict[str, str]
    values: tuple[float, ...]


class QueryError(Exception):
    """Prometheus refuses a query."""


def find(name: str) -> str:
    """Where a program is; raises MissingError with a remedy."""
    found = shutil.which(name)
    if found is None:
        raise MissingError(REMEDY)
    return found


def promtool(*arguments: str, told: str = "", folder: Path | None = None) -> tuple[int, str]:
    """Exit code and output of promtool; `told` is its standard input."""
    done = subprocess.run(
        [find("promtool"), *arguments], input=told, cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, (done.stdout + done.stderr).strip()


class Prometheus:
    """Scrapes the targets every second, by the shipped configuration and rules; everything it keeps is in `folder`."""

    def __init__(self, folder: Path, targets: dict[str, str], *, interval_s: int = 1) -> None:
        """`targets`: where the job of each name is."""
        folder.mkdir()
        shutil.copy(RULES, folder / RULES.name)
        (folder / "prometheus.yml").write_text(json.dumps(_configured(targets, interval_s)), encoding="utf-8")
        self._log = folder / "prometheus.log"
        command = [find("prometheus"), f"--config.file={folder / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0"]
        command += ["--enable-feature=exemplar-storage", "--log.format=logfmt"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True
            )
        self.url = ""

    def __enter__(self) -> Self:
        deadline = time.monotonic() + START_S
        while True:
            text = self._log.read_text(encoding="utf-8")
            found = re.search(r'msg="Listening on" address=(127\.0\.0\.1:\d+)', text)
            if found and "Server is ready" in text:
                self.url = f"http://{found[1]}"
                return self
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise RuntimeError(f"Prometheus did not start: {text[-2000:]}")
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, what: str, **parameters: str) -> Any:
        """The data of an answer of its HTTP API; raises QueryError for a refusal."""
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=ASK_S) as answer:  # noqa: S310 - our own, on the loopback
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            told = json.load(error)
            raise QueryError(f"{told['errorType']}: {told['error']}") from error

    def over(self, expr: str, since: float, until: float, step_s: float = 2.0) -> list[Series]:
        """What a query finds between two times, seconds since 1970; series without any number are left out."""
        span = {"start": f"{since:.3f}", "end": f"{until:.3f}", "step": f"{step_s:g}"}
        found = self.ask("query_range", query=expr, **span)["result"]
        series = [
            Series(one["metric"], tuple(float(value) for _, value in one["values"] if value != "NaN")) for one in found
        ]
        return [one for one in series if one.values]


def _configured(targets: dict[str, str], interval_s: int) -> dict[str, Any]:
    """The shipped configuration with other targets and a shorter interval."""
    document: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    document["global"] = {"scrape_interval": f"{interval_s}s", "evaluation_interval": f"{interval_s}s"}
    jobs = {job["job_name"]: job for job in document["scrape_configs"]}
    assert jobs.keys() == targets.keys(), "the shipped jobs are not those of the cluster"
    for name, address in targets.items():
        jobs[name]["static_configs"] = [{"targets": [address]}]
    return document
