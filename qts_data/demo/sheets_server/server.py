"""The HTTP side of the stand-in."""

from __future__ import annotations

import json
import re
import secrets
import socket
import threading
import time
from collections import Counter, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self, cast
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import exceptions, jwt

from qts_data.demo.sheets_server.faults import Fault
from qts_data.demo.sheets_server.workbook import BadRequest, Workbook
from qts_data.importers.tables import column_letters

if TYPE_CHECKING:
    from collections.abc import Callable

    from qts_data.demo.sheets_server.faults import Faults

__all__ = ["SheetsStandIn"]

_VALUES: Final = re.compile(r"/v4/spreadsheets/([^/:]+)/values/([^/]+?)(:append|:clear)?")
_BATCH: Final = re.compile(r"/v4/spreadsheets/([^/:]+)/values:(batchGet|batchUpdate|batchClear)")
_BOOK: Final = re.compile(r"/v4/spreadsheets/([^/:]+)(:batchUpdate)?")
_MINUTE: Final = 60.0
_AUDIENCE: Final = "https://oauth2.googleapis.com/token"
"""Audience of google-auth's assertions, whatever address it sends them to."""


class _Answer(Exception):
    def __init__(self, code: int, status: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.body = {"error": {"code": code, "message": message, "status": status}}


class SheetsStandIn:
    """A server on 127.0.0.1. Use it as a context manager.

    Args:
        reads_per_minute: Quota of reads; None for no quota.
        writes_per_minute: Quota of writes; None for no quota.
        latency_seconds: Time that an answer takes.
        clock: Seconds, for the quota.

    Attributes:
        workbooks: By their ids.
        faults: Called before each request of the API with its HTTP method.
        delay_seconds: Delay of SLOW and LATE.
        calls: Requests of the API so far, by `read` and `write`; refused ones under `refused`.
        in_flight: Requests of the API in progress, also for clients that have stopped waiting.
    """

    def __init__(
        self,
        *,
        reads_per_minute: int | None = None,
        writes_per_minute: int | None = None,
        latency_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.workbooks: dict[str, Workbook] = {}
        self.faults: Faults = lambda _method: None
        self.delay_seconds: float = 1.0
        self.calls: Counter[str] = Counter()
        self.in_flight: int = 0
        self.latency_seconds = latency_seconds
        self._quota = {"read": reads_per_minute, "write": writes_per_minute}
        self._recent: dict[str, deque[float]] = {"read": deque(), "write": deque()}
        self._clock = clock
        self._lock = threading.Lock()
        self._token = secrets.token_urlsafe(24)
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """Its address, in place of https://sheets.googleapis.com."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def workbook(self, spreadsheet_id: str = "book", *, time_zone: str = "Asia/Seoul") -> Workbook:
        """Return the workbook of this id. The first call makes it."""
        return self.workbooks.setdefault(spreadsheet_id, Workbook(spreadsheet_id, time_zone=time_zone))

    def credentials(self) -> dict[str, str]:
        """Return the key file of a service account to which this server gives tokens."""
        key = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": "stand-in",
            "private_key_id": "1",
            "private_key": key.decode(),
            "client_email": "qts@stand-in.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def token(self, assertion: str) -> dict[str, Any]:
        """Exchange a signed assertion for a token."""
        public = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        try:
            claims = jwt.decode(  # type: ignore[no-untyped-call]
                assertion, certs=public, audience=_AUDIENCE
            )
        except (ValueError, exceptions.GoogleAuthError) as error:
            raise _Answer(400, "invalid_grant", str(error)) from error
        if "https://www.googleapis.com/auth/spreadsheets" not in str(claims.get("scope")):
            raise _Answer(400, "invalid_scope", "the scope does not include spreadsheets")
        return {"access_token": self._token, "expires_in": 3600, "token_type": "Bearer"}

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
        """Execute a request."""
        with self._lock:
            return self._answer(method, path, query, body)

    def admit(self, method: str, authorization: str | None) -> None:
        """Count a request, and refuse it without a token or beyond the quota."""
        if authorization != f"Bearer {self._token}":
            raise _Answer(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        kind = "read" if method == "GET" else "write"
        with self._lock:
            recent, now, quota = self._recent[kind], self._clock(), self._quota[kind]
            while recent and recent[0] <= now - _MINUTE:
                recent.popleft()
            if quota is not None and len(recent) >= quota:
                self.calls["refused"] += 1
                raise _quota_exceeded(kind)
            recent.append(now)
            self.calls[kind] += 1
            self.in_flight += 1

    def finished(self) -> None:
        """Count that an admitted request has ended."""
        with self._lock:
            self.in_flight -= 1

    def _answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
        if found := _BATCH.fullmatch(path):
            return self._batch(self._book(found[1]), found[2], query, body)
        if found := _VALUES.fullmatch(path):
            return _values(self._book(found[1]), method, unquote(found[2]), found[3], query=query, body=body)
        if found := _BOOK.fullmatch(path):
            book = self._book(found[1])
            if found[2]:
                return {"spreadsheetId": found[1], "replies": [book.change(one) for one in body["requests"]]}
            return book.metadata()
        raise _Answer(404, "NOT_FOUND", f"no method {method} {path}")

    @staticmethod
    def _batch(book: Workbook, action: str, query: dict[str, list[str]], body: Any) -> Any:
        if action == "batchGet":
            return {
                "spreadsheetId": book.spreadsheet_id,
                "valueRanges": [_value_range(book, area, query) for area in query["ranges"]],
            }
        if action == "batchClear":
            return {"clearedRanges": [_clear(book, area)["clearedRange"] for area in body["ranges"]]}
        for data in body["data"]:
            book.range(data["range"])  # check all ranges before writing one
        option = body.get("valueInputOption", "RAW")
        return {"responses": [_update(book, data["range"], option, data["values"]) for data in body["data"]]}

    def _book(self, spreadsheet_id: str) -> Workbook:
        if spreadsheet_id not in self.workbooks:
            raise _Answer(404, "NOT_FOUND", "Requested entity was not found.")
        return self.workbooks[spreadsheet_id]


def _quota_exceeded(kind: str) -> _Answer:
    name = kind.capitalize()
    return _Answer(
        429,
        "RESOURCE_EXHAUSTED",
        f"Quota exceeded for quota metric '{name} requests' and limit '{name} requests per minute' of service "
        "'sheets.googleapis.com'",
    )


def _value_range(book: Workbook, text: str, query: dict[str, list[str]]) -> dict[str, Any]:
    area = book.range(text)
    render = query.get("valueRenderOption", ["FORMATTED_VALUE"])[0]
    values = area.sheet.read(area, render, query.get("dateTimeRenderOption", ["SERIAL_NUMBER"])[0])
    found: dict[str, Any] = {"range": text, "majorDimension": "ROWS"}
    return found | ({"values": values} if values else {})


def _values(
    book: Workbook, method: str, area: str, action: str | None, *, query: dict[str, list[str]], body: Any
) -> dict[str, Any]:
    if method == "GET":
        return _value_range(book, area, query)
    if action == ":append":
        return _append(book, area, query, body)
    if action == ":clear":
        return _clear(book, area)
    return _update(book, area, query.get("valueInputOption", ["RAW"])[0], body["values"])


def _update(book: Workbook, text: str, option: str, values: list[list[Any]]) -> dict[str, Any]:
    area = book.range(text)
    count = area.sheet.write(area.top, area.left, values, parsed=option == "USER_ENTERED")
    return {"spreadsheetId": book.spreadsheet_id, "updatedRange": text, "updatedCells": count}


def _append(book: Workbook, text: str, query: dict[str, list[str]], body: Any) -> dict[str, Any]:
    sheet, values = book.range(text).sheet, body["values"]
    top = sheet.used_rows
    sheet.row_count = max(sheet.row_count, top + len(values))
    sheet.write(top, 0, values, parsed=query.get("valueInputOption", ["RAW"])[0] == "USER_ENTERED")
    right = column_letters(max(1, *(len(row) for row in values)) - 1)
    written = f"'{sheet.title}'!A{top + 1}:{right}{top + len(values)}"
    return {"spreadsheetId": book.spreadsheet_id, "updates": {"updatedRange": written, "updatedRows": len(values)}}


def _clear(book: Workbook, text: str) -> dict[str, Any]:
    area = book.range(text)
    for row in area.sheet.cells[area.top : area.bottom]:
        for place in range(area.left, min(len(row), area.right or len(row))):
            row[place] = None
    return {"spreadsheetId": book.spreadsheet_id, "clearedRange": text}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: SheetsStandIn) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        # Clients keep their connections open; the server does not wait for their end.
        for request in list(self._open):
            with _ignored():
                request.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the error of a client that disconnected."""


class _ignored:  # noqa: N801 - reads like contextlib.suppress
    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, OSError)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes. With Nagle's algorithm the client would wait 40 ms for the second.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Log nothing."""

    def _serve(self) -> None:
        owner = cast("_Server", self.server).owner
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        try:
            if parts.path == "/token":
                self._send(200, owner.token(parse_qs(raw.decode())["assertion"][0]))
                return
            owner.admit(self.command, self.headers.get("Authorization"))
            try:
                self._api(owner, parts.path, parse_qs(parts.query), json.loads(raw) if raw else None)
            finally:
                owner.finished()
        except _Answer as answer:
            self._send(answer.code, answer.body)
        except BadRequest as error:
            body = {"error": {"code": 400, "message": str(error), "status": "INVALID_ARGUMENT"}}
            self._send(400, body)

    def _api(self, owner: SheetsStandIn, path: str, query: dict[str, list[str]], body: Any) -> None:
        fault = owner.faults(self.command)
        time.sleep(owner.latency_seconds)
        if fault is Fault.QUOTA:
            raise _quota_exceeded("read" if self.command == "GET" else "write")
        if fault is Fault.ERROR:
            raise _Answer(500, "INTERNAL", "Internal error encountered.")
        if fault is Fault.UNAVAILABLE:
            raise _Answer(503, "UNAVAILABLE", "The service is currently unavailable.")
        if fault is Fault.LATE:
            time.sleep(owner.delay_seconds)
        answer = None if fault is Fault.DROP else owner.answer(self.command, path, query, body)
        if fault in {Fault.DROP, Fault.DROP_AFTER}:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault is Fault.SLOW:
            time.sleep(owner.delay_seconds)
        if fault is Fault.ERROR_AFTER:
            raise _Answer(500, "INTERNAL", "Internal error encountered.")
        self._send(200, answer)

    def _send(self, code: int, body: Any) -> None:
        payload = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)
