"""What every interop script shares: counting checks, running the binary, running a server.

Only the standard library, so that a script which needs no package runs without the virtual environment.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TEST_DATA = Path(os.environ.get("IMPETUS_TEST_DATA", REPOSITORY / "../shared/data")).resolve()
CACHE = Path(os.environ.get("IMPETUS_INTEROP_CACHE", REPOSITORY / "build/interop/cache")).resolve()


class Checks:
    """Counts what passed and what failed, prints one line each, and ends with `N passed, N failed`."""

    def __init__(self, verbose: bool = True):
        self.passed = 0
        self.failed = 0
        self.skipped = 0
        self.verbose = verbose

    def check(self, name: str, ok, detail="") -> bool:
        if ok:
            self.passed += 1
            if self.verbose:
                print(f"ok    {name}" + (f"  [{detail}]" if detail != "" else ""), flush=True)
        else:
            self.failed += 1
            print(f"FAIL  {name}" + (f"  [{detail}]" if detail != "" else ""), flush=True)
        return bool(ok)

    def skip(self, name: str, why: str) -> None:
        self.skipped += 1
        print(f"SKIP  {name}: {why}", flush=True)

    @contextlib.contextmanager
    def guard(self, name: str):
        """An exception inside is one failed check, not the end of the script."""
        try:
            yield
        except Exception as error:  # noqa: BLE001: whatever a client library throws is the finding
            last = traceback.extract_tb(error.__traceback__)[-1]
            self.check(name, False, f"{type(error).__name__}: {str(error)[:600]} ({last.name}:{last.lineno})")

    def finish(self) -> int:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        print(f"{self.passed} passed, {self.failed} failed{skipped}", flush=True)
        return 1 if self.failed else 0


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--impetus", type=Path, required=True, help="the binary under test")
    return parser


def server_arguments(description: str) -> argparse.ArgumentParser:
    parser = arguments(description)
    models = REPOSITORY / "models"
    parser.add_argument("--chat-model", type=Path, default=models / "impetus-tiny-chat")
    parser.add_argument("--embed-model", type=Path, default=models / "impetus-tiny-embed")
    parser.add_argument("--threads", type=int, default=0, help="given to serve; 0 leaves its own choice")
    return parser


def model_id(path: Path) -> str:
    """The name `serve` gives a model: its folder's, or its file's without `.gguf`."""
    return path.name[: -len(".gguf")] if path.name.endswith(".gguf") else path.name


class CommandFailed(RuntimeError):
    pass


def command(binary: Path, *args: str, timeout: float = 300, check: bool = True, env: dict | None = None):
    """Runs the binary; returns (exit status, standard output, standard error, peak resident bytes)."""
    # The peak is the kernel's figure for this one child, hence wait4 and not the sum over all children.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen([str(binary), *args], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                   env={**os.environ, **(env or {})})
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        stdout, stderr = out.read().decode("utf-8"), err.read().decode("utf-8", "replace")
    if check and process.returncode != 0:
        raise CommandFailed(f"{args[0]} ended with {process.returncode}: {stderr.strip()[-800:]}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return process.returncode, stdout, stderr, peak


def command_json(binary: Path, *args: str, timeout: float = 300):
    _, stdout, stderr, _ = command(binary, args[0], "--json", *args[1:], timeout=timeout)
    # A figure without the warning that something was not used says the wrong thing.
    for line in stderr.splitlines():
        if " warning " in line:
            print(line, file=sys.stderr)
    # Integers are read as floats so that "-0" keeps its sign.
    return json.loads(stdout, parse_int=float)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def resident_bytes(pid: int, field: str = "VmRSS") -> int:
    """VmRSS (now) or VmHWM (peak) of a process; 0 where the system has no /proc."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except FileNotFoundError:
        pass
    return 0


class Server:
    """`impetus serve` on a free loopback port, as a context manager."""

    def __init__(self, binary: Path, models: list[Path], *options: str, threads: int = 0, api_key: str = "",
                 ready_within: float = 60):
        self.port = free_port()
        self.api_key = api_key
        self.ready_within = ready_within
        line = [str(binary), "serve", "--host", "127.0.0.1", "--port", str(self.port)]
        for model in models:
            line += ["--model", str(model)]
        if threads:
            line += ["--threads", str(threads)]
        if api_key:
            line += ["--api-key", api_key]
        self.line = line + list(options)
        self.log = tempfile.NamedTemporaryFile(prefix="impetus-serve-", suffix=".log", delete=False)
        self.process: subprocess.Popen | None = None
        self.ready_seconds = 0.0

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log_tail(self, characters: int = 1500) -> str:
        return Path(self.log.name).read_text(errors="replace")[-characters:]

    def __enter__(self) -> "Server":
        started = time.monotonic()
        self.process = subprocess.Popen(self.line, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        while time.monotonic() - started < self.ready_within:
            if not self.alive():
                raise RuntimeError(f"serve ended with {self.process.returncode} before it was ready:\n{self.log_tail()}")
            try:
                status, _, _ = self.request("GET", "/health", timeout=2)
                if status == 200:
                    self.ready_seconds = time.monotonic() - started
                    return self
            except OSError:
                pass
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"serve was not ready within {self.ready_within} s:\n{self.log_tail()}")

    def __exit__(self, *_) -> None:
        self.stop()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.log.name)

    def stop(self, within: float = 30) -> int | None:
        """SIGTERM, then the exit status; None where it had to be killed."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(within)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                return None
        return self.process.returncode if self.process else None

    def request(self, method: str, path: str, body=None, headers: dict | None = None, timeout: float = 60):
        """One request on its own connection: (status, headers, bytes)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            sent = dict(headers or {})
            if self.api_key and not headers:
                sent["Authorization"] = f"Bearer {self.api_key}"
            data = None
            if body is not None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                sent.setdefault("Content-Type", "application/json")
            connection.request(method, path, body=data, headers=sent)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body=None, timeout: float = 60):
        status, _, data = self.request(method, path, body, timeout=timeout)
        if status != 200:
            raise RuntimeError(f"{method} {path}: {status} {data[:400]!r}")
        return json.loads(data)

    def running(self) -> float:
        """Requests being worked on now: the sum of the gauges whose name says so."""
        _, _, data = self.request("GET", "/metrics", timeout=5)
        names = re.compile(r"^(impetus_\w*(?:running|in_flight|inflight|active)\w*)(?:\{[^}]*\})? (\S+)")
        found = [m for m in map(names.match, data.decode().splitlines()) if m]
        if not found:
            raise RuntimeError("/metrics has no gauge of running requests (impetus_*running*)")
        return sum(float(m.group(2)) for m in found)


def error_shape(data: bytes) -> str:
    """Empty where the bytes are the API's error object, else what is wrong with them."""
    try:
        error = json.loads(data)["error"]
    except Exception:  # noqa: BLE001: any failure means the same
        return f"not an error object: {data[:200]!r}"
    if not isinstance(error, dict):
        return "error is not an object"
    for key, kinds in (("message", str), ("type", str), ("code", str)):
        if not isinstance(error.get(key), kinds) or not error[key]:
            return f"error.{key} is {error.get(key)!r}"
    if "param" not in error or not (error["param"] is None or isinstance(error["param"], str)):
        return f"error.param is {error.get('param', 'absent')!r}"
    return ""


def percentile(values, share: float) -> float:
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(round(share * (len(ordered) - 1))))]


def mebibytes(count: float) -> str:
    return f"{count / 2**20:.0f} MiB"
