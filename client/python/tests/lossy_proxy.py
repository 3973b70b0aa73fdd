"""A TCP proxy that loses the first answer: it closes the connection when the server's headers of a response come."""

from __future__ import annotations

import socket
import threading

_HEADERS = 1
_FRAME_HEADER_BYTES = 9


class LossyProxy:
    """Forwards connections to a server on loopback."""

    def __init__(self, server: str) -> None:
        host, port = server.removeprefix("http://").split(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.lost = 0
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Ends all connections."""
        for one in self._open:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(self._server)
            self._open += [caller, server]
            threading.Thread(target=self._forward, args=(caller, server), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, caller), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while part := source.recv(65_536):
                target.sendall(part)
        except OSError:
            pass
        _end(source, target)

    def _answer(self, server: socket.socket, caller: socket.socket) -> None:
        """Forwards whole frames of HTTP/2, until the first that answers a call."""
        unread = b""
        try:
            while part := server.recv(65_536):
                unread += part
                while len(unread) >= _FRAME_HEADER_BYTES:
                    size = _FRAME_HEADER_BYTES + int.from_bytes(unread[:3], "big")
                    if len(unread) < size:
                        break
                    if unread[3] == _HEADERS and self.lost == 0:
                        self.lost += 1
                        return _end(server, caller)
                    caller.sendall(unread[:size])
                    unread = unread[size:]
        except OSError:
            pass
        _end(server, caller)


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            # The other thread was first.
            pass
