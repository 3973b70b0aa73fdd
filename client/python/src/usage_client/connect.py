"""The connection: servers, API key and TLS, from arguments or from the environment."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import grpc
import grpc.aio

from usage_client.errors import invalid

DEFAULT_SERVER = "http://127.0.0.1:50051"
_MAX_SERVERS = 64
_VERSION = "0.1.0"
_MAX_ANSWER_BYTES = 64 << 20
_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.primary_user_agent", f"usage-client-python/{_VERSION}"),
    # This client retries itself, with the reason in hand.
    ("grpc.enable_retries", 0),
    # A broken connection is detected while a call still has time for a retry.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own pauses grow to two minutes. The second one is also the time to connect.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
    # As the client in Rust: a proxy of web pages is not one of services.
    ("grpc.enable_http_proxy", 0),
    # Two clients of one process have two connections.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclasses.dataclass(frozen=True)
class Tls:
    """The TLS settings, in PEM. Without an authority those are trusted that gRPC comes with."""

    ca_certificate: bytes | None = None
    client_certificate: bytes | None = None
    client_key: bytes | None = dataclasses.field(default=None, repr=False)
    domain_name: str | None = None


@dataclasses.dataclass(frozen=True)
class Connection:
    """Where and as whom to connect."""

    servers: tuple[str, ...] = (DEFAULT_SERVER,)
    api_key: str | None = dataclasses.field(default=None, repr=False)
    tls: Tls = Tls()

    def channels(self) -> list[grpc.Channel]:
        """One channel for each server; each connects with its first call."""
        credentials, options = self._credentials(), self._options()
        return [
            grpc.secure_channel(target, credentials, options) if is_secure else grpc.insecure_channel(target, options)
            for target, is_secure in self._targets()
        ]

    def aio_channels(self) -> list[grpc.aio.Channel]:
        """The same for asyncio, in its running loop."""
        credentials, options = self._credentials(), self._options()
        return [
            grpc.aio.secure_channel(target, credentials, options)
            if is_secure
            else grpc.aio.insecure_channel(target, options)
            for target, is_secure in self._targets()
        ]

    def _targets(self) -> list[tuple[str, bool]]:
        if not 1 <= len(self.servers) <= _MAX_SERVERS:
            raise invalid("server", f"{len(self.servers)} servers are not between 1 and {_MAX_SERVERS}")
        return [_target(server) for server in self.servers]

    def _credentials(self) -> grpc.ChannelCredentials:
        tls = self.tls
        return grpc.ssl_channel_credentials(tls.ca_certificate, tls.client_key, tls.client_certificate)

    def _options(self) -> list[tuple[str, str | int]]:
        name = self.tls.domain_name
        return [*_OPTIONS, *([] if name is None else [("grpc.ssl_target_name_override", name)])]

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The header that has the key."""
        if self.api_key is None:
            return ()
        if not self.api_key or not all("!" <= character <= "~" for character in self.api_key):
            # The message must not contain the key.
            raise invalid("api_key", "the key must consist of visible ASCII characters")
        return (("authorization", f"Bearer {self.api_key}"),)


def from_env(variables: Mapping[str, str] | None = None) -> Connection:
    """Reads `USAGE_SERVER`, `USAGE_API_KEY` or `USAGE_API_KEY_FILE`, and `USAGE_TLS_CA`, `_CERT`, `_KEY` and `_DOMAIN`.

    An empty variable counts as unset. A key itself comes before a file with one.
    """
    variables = os.environ if variables is None else variables

    def file(name: str) -> bytes | None:
        path = variables.get(name)
        return _read(name, path) if path else None

    servers = (variables.get("USAGE_SERVER") or DEFAULT_SERVER).split(",")
    key = (variables.get("USAGE_API_KEY") or "").strip() or None
    key_file = variables.get("USAGE_API_KEY_FILE")
    if key is None and key_file:
        key = read_key("USAGE_API_KEY_FILE", key_file)
    certificate, client_key = file("USAGE_TLS_CERT"), file("USAGE_TLS_KEY")
    if (certificate is None) is not (client_key is None):
        raise invalid("USAGE_TLS_CERT", "one of USAGE_TLS_CERT and USAGE_TLS_KEY is set; both are needed")
    tls = Tls(file("USAGE_TLS_CA"), certificate, client_key, variables.get("USAGE_TLS_DOMAIN") or None)
    return Connection(tuple(server.strip() for server in servers), key, tls)


def from_arguments(
    server: str | Sequence[str],
    api_key: str | None,
    api_key_file: str | os.PathLike[str] | None,
    ca_certificate: bytes | None,
    client_certificate: tuple[bytes, bytes] | None,
    domain_name: str | None,
) -> Connection:
    """The connection of a client's arguments."""
    if api_key is not None and api_key_file is not None:
        raise invalid("api_key", "both api_key and api_key_file are given")
    if api_key_file is not None:
        api_key = read_key("api_key_file", api_key_file)
    certificate, key = client_certificate or (None, None)
    servers = (server,) if isinstance(server, str) else tuple(server)
    return Connection(servers, api_key, Tls(ca_certificate, certificate, key, domain_name))


def read_key(name: str, path: str | os.PathLike[str]) -> str:
    """The API key in a file, without the white space around it. Errors name the file."""
    try:
        key = _read(name, path).decode("utf-8").strip()
    except UnicodeDecodeError:
        raise invalid(name, f"{os.fspath(path)}: the file is not text") from None
    if not key:
        raise invalid(name, f"{os.fspath(path)}: the file has no API key")
    return key


def _read(name: str, path: str | os.PathLike[str]) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise invalid(name, f"{os.fspath(path)}: {error.strerror}") from error


def _target(server: str) -> tuple[str, bool]:
    """The address for gRPC, and whether it needs TLS."""
    address = server if "://" in server else f"http://{server}"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise invalid("server", f"`{address}` is not a valid address, such as `{DEFAULT_SERVER}`") from None
    if parts.scheme not in ("http", "https"):
        raise invalid("server", f"`{address}` must start with `http://` or `https://`")
    is_plain = parts.path in ("", "/") and not (parts.query or parts.fragment or parts.username or parts.password)
    if not parts.hostname or not is_plain or any(character.isspace() for character in address):
        raise invalid("server", f"`{address}` is not a valid address, such as `{DEFAULT_SERVER}`")
    is_secure = parts.scheme == "https"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port or (443 if is_secure else 80)}", is_secure
