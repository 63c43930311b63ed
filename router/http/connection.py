"""A client's connection: uvicorn's, with a cork, and with an answer in JSON for what is no request.

uvicorn makes one for each client, as gateway.py tells it to. Invariant: whatever bytes come, the client gets an
envelope, or, while another answer is due to it, a connection that ends; and a head takes a bounded amount of memory.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from router.errors import JSON_CONTENT_TYPE, HeadTooLarge, InvalidRequest, RouterError, error_body
from router.http.cork import Cork

HEAD_LIMIT = 32 * 1024  # bytes of a request's line and headers
NO_REQUEST = "this is no valid HTTP/1.1 request"
CUT_SHORT = "the connection was closed for sending before the request was complete"


class Connection(HttpToolsProtocol):
    """Of one client, for any number of requests."""

    _reads_head = False
    _num_head_bytes = 0  # of the head that is being read, without the piece that it began in
    _exceeds = False  # what may be read of a head

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Cork(transport, self.loop))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        if self._reads_head:
            self._num_head_bytes += len(data)
        super().data_received(data)
        if self._reads_head and self._num_head_bytes > HEAD_LIMIT:
            self._refuse(HeadTooLarge(HEAD_LIMIT))

    def on_message_begin(self) -> None:
        self._reads_head, self._num_head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._reads_head = False
        self._exceeds = len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_LIMIT
        if self._exceeds:
            raise ValueError("the parser is to stop")
        super().on_headers_complete()

    def eof_received(self) -> None:
        """The client sends no more; it may still listen."""
        if self._reads_head or self._reads_body:
            self._refuse(InvalidRequest(CUT_SHORT))
        super().eof_received()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser stops."""
        self._refuse(HeadTooLarge(HEAD_LIMIT) if self._exceeds else InvalidRequest(NO_REQUEST))

    @property
    def _reads_body(self) -> bool:
        """Of a request that nothing was answered to yet."""
        return self.cycle is not None and self.cycle.more_body and not self.cycle.response_started

    def _refuse(self, error: RouterError) -> None:
        """Answers, unless an answer to another request is on its way or still to come, and ends the connection."""
        self._reads_head = False
        is_next = self.cycle is None or self.cycle.response_complete or self._reads_body
        if is_next and not self.transport.is_closing():
            self.transport.write(self._answer(error))
        self.transport.close()

    def _answer(self, error: RouterError) -> bytes:
        body = error_body(error)
        headers = (
            *self.server_state.default_headers,
            (b"content-type", JSON_CONTENT_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        )
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        return STATUS_LINE[error.status] + lines + b"\r\n" + body
