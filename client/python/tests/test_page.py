"""Runs every snippet of README.md, in its order, against a real server."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import re
import subprocess
import unittest

from usage_client import UsageClient

import serving

PAGE = pathlib.Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:50051"
SECURE = ("https://usage-1.internal:50051", "https://usage-2.internal:50051")


class Page(unittest.TestCase):
    def test_every_snippet_runs(self) -> None:
        blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
        self.assertEqual({language for language, _ in blocks}, {"python"}, "no other kind of snippet is run here")
        self.assertEqual(len(blocks), PAGE.read_text().count("```") // 2)
        plain, secure = serving.start(self), self.secure_server()
        shown: dict[str, object] = {}
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            for _, code in blocks:
                code = code.replace(ADDRESS, plain)
                for address in SECURE:
                    code = code.replace(address, secure)
                exec(compile(code, str(PAGE), "exec"), shown)
        text = printed.getvalue()
        self.assertIn("('acct_43', 0) INVALID_FIELD", text)
        self.assertIn("invalid (UNKNOWN_METER)", text)
        # 1,200, 12 and 12 of recorders, 3 and 1 with asyncio, and 5 of the batch.
        self.assertIn("tokens 1233 token", text)
        self.assertIn("['acct_staff']", text)
        with UsageClient(plain) as client:
            self.assertEqual(serving.total(client, "acct_42", "tokens"), 33, "after the correction")
        for made in (shown["secure"], shown["client"]):
            assert isinstance(made, UsageClient)
            made.close()

    def secure_server(self) -> str:
        """A server with the certificate and the key that the page names, in the current folder."""
        server = serving.Server(TLS_CERT_FILE="ca.pem", TLS_KEY_FILE="server.key")
        self.addCleanup(server.stop)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(server.folder)
        subject = ["-subj", "/CN=usage.internal", "-addext", "subjectAltName=DNS:usage.internal"]
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        files = ["-keyout", "server.key", "-out", "ca.pem"]
        subprocess.run([*command, *subject, *files], check=True, capture_output=True, timeout=60)
        server.create_key("admin")
        pathlib.Path("backend.key").write_text(server.create_key("writer"))
        return server.start()


if __name__ == "__main__":
    unittest.main()
