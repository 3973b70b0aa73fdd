"""Starts the real server, whose binary the variable USAGE_SERVER_BINARY names, on loopback with SQLite in its own folder."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import tempfile
import threading
import unittest
from collections.abc import Sequence

from usage_client import UsageClient

BINARY = os.environ["USAGE_SERVER_BINARY"]
START_SECS = 60
_SERVING = re.compile(r"serving address=(\S+)")
# No setting of the caller's environment reaches the server.
_KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")


class Server:
    """One server, until `stop`. Its folder has the database, and room for the files of a test."""

    def __init__(self, **settings: str) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self._temporary.name)
        self._environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | {
            "DATABASE_URL": f"sqlite://{self.folder}/usage.db",
            "METERS": "api_calls:call,tokens:token",
            "DEFAULT_METER": "api_calls",
            "LISTEN": "127.0.0.1:0",
            "HTTP_LISTEN": "off",
            "NO_COLOR": "1",
            **settings,
        }
        self._scheme = "https" if "TLS_CERT_FILE" in settings else "http"
        self._process: subprocess.Popen[str] | None = None
        self._drain: threading.Thread | None = None

    def start(self) -> str:
        """Starts it, and returns its address once it serves."""
        process = subprocess.Popen(
            [BINARY, "serve"], env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._process = process
        # A server that hangs is ended, which ends its output too.
        limit = threading.Timer(START_SECS, process.kill)
        limit.start()
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            found = _SERVING.search(line)
            if found is not None:
                limit.cancel()
                # A pipe that is full would stop the server.
                self._drain = threading.Thread(target=process.stdout.read, daemon=True)
                self._drain.start()
                return f"{self._scheme}://{found[1]}"
        limit.cancel()
        raise AssertionError(f"the server did not start: {''.join(lines)}")

    def create_key(self, role: str, limits: Sequence[str] = ()) -> str:
        """A new API key, made as an operator makes it, before the server is started. Begin with an admin's."""
        self._run("migrate")
        return self._run("keys", "create", "--role", role, "--name", role, *limits)

    def _run(self, *arguments: str) -> str:
        command = [BINARY, *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=START_SECS)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=START_SECS)
            if self._drain is not None:
                self._drain.join(START_SECS)
            assert self._process.stdout is not None
            self._process.stdout.close()
        self._temporary.cleanup()


def start(test: type[unittest.TestCase] | unittest.TestCase, **settings: str) -> str:
    """Starts a server for a test, or for a class of tests; returns its address."""
    server = Server(**settings)
    (test.addClassCleanup if isinstance(test, type) else test.addCleanup)(server.stop)
    return server.start()


def total(client: UsageClient, account_id: str, meter: str = "api_calls") -> int:
    """What the server has counted."""
    return sum(one.quantities.total for one in client.get(account_id, meter=meter).meters)
