"""The Sheets API by gspread: outside the event loop, within the quota, with retries of transient errors.

Source of the limits and of the backoff: https://developers.google.com/workspace/sheets/api/limits
"""

from __future__ import annotations

import asyncio
import json
import random
import zoneinfo
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from qts_data.adapters.sheets.quota import Quota
from qts_data.errors import ConfigurationError, SourceRefused, SourceUnavailable
from qts_data.extras import require

require("gspread")  # a clear error instead of an ImportError

import gspread  # noqa: E402
import requests  # noqa: E402
from google.auth.exceptions import GoogleAuthError, TransportError  # noqa: E402
from google.auth.transport.requests import Request  # noqa: E402
from google.oauth2.service_account import Credentials  # noqa: E402
from gspread.urls import SPREADSHEETS_API_V4_BASE_URL  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qts_data.importers.tables import Cell

__all__ = ["Metadata", "SheetSize", "SheetsClient", "SheetsConfig"]

_T = TypeVar("_T")
_SCOPES: Final = ("https://www.googleapis.com/auth/spreadsheets",)
_GOOGLE: Final = SPREADSHEETS_API_V4_BASE_URL.removesuffix("/v4/spreadsheets")
_REFUSED: Final = frozenset({400, 404, 409, 413})
_NO_RIGHT: Final = frozenset({401, 403})
_TOO_MANY: Final = 429
# Numbers unrounded and dates as serial numbers: the displayed text of a cell depends on its format.
_UNFORMATTED: Final = {"valueRenderOption": "UNFORMATTED_VALUE", "dateTimeRenderOption": "SERIAL_NUMBER"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetsConfig:
    """The spreadsheet, its credentials and the limits of requests.

    Attributes:
        spreadsheet_id: From its address: docs.google.com/spreadsheets/d/SPREADSHEET_ID.
        credentials: A service account's key file, as a mapping.
        titles: Names of sheets that differ from the usual ones, by kind of row.
        base_url: Another server in place of Google's.
        timeout_seconds: Longest wait for an answer.
        reads_per_minute: Largest number of reads in a minute. Google allows a service account 60, and all accounts of a
            project together 300, unless it granted a higher quota.
        writes_per_minute: The same for writes.
        attempts: Largest number of attempts of a request that is harmless to repeat.
        first_pause_seconds: Pause before the second attempt. It doubles each time; half of it is random.
        longest_pause_seconds: Longest pause.
    """

    spreadsheet_id: str
    credentials: Mapping[str, str] = field(repr=False)
    titles: Mapping[str, str] = field(default_factory=dict)
    base_url: str = _GOOGLE
    timeout_seconds: float = 30.0
    reads_per_minute: int = 60
    writes_per_minute: int = 60
    attempts: int = 6
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 64.0


class SheetSize(NamedTuple):
    """Size of the grid of a sheet."""

    sheet_id: int
    rows: int
    columns: int


class Metadata(NamedTuple):
    """Time zone and sheets of a spreadsheet."""

    time_zone: str
    sheets: Mapping[str, SheetSize]


class SheetsClient:
    """Calls of the API, one at a time, in a thread of its own.

    Args:
        config: The spreadsheet and how to ask for it.
        sleep: Waits for some seconds; a test can pass a function that returns at once.
        reads: Quota of reads, in place of the one in the config.
        writes: Quota of writes, in place of the one in the config.

    Attributes:
        config: The config passed in.
        reads: Quota of reads, with the number of calls so far.
        writes: The same for writes.
        retries: Requests that were sent again.
        unanswered: Writes with an unknown outcome: the server may still carry them out.
    """

    def __init__(
        self,
        config: SheetsConfig,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        reads: Quota | None = None,
        writes: Quota | None = None,
    ) -> None:
        self.config = config
        self.reads: Quota = reads or Quota(config.reads_per_minute, sleep=sleep)
        self.writes: Quota = writes or Quota(config.writes_per_minute, sleep=sleep)
        self.retries: int = 0
        self.unanswered: int = 0
        self._sleep = sleep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sheets")
        self._http: gspread.HTTPClient | None = None

    async def close(self) -> None:
        """Close the connection."""
        if self._http is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._http.session.close)
            self._http = None
        self._thread.shutdown(wait=False)

    async def metadata(self) -> Metadata:
        """Return the time zone and the sheets.

        Raises:
            ConfigurationError: The spreadsheet's time zone is unknown.
        """
        found = await self._call(self.reads, lambda http, book: http.fetch_sheet_metadata(book))
        zone = found["properties"]["timeZone"]
        if zone not in zoneinfo.available_timezones():
            raise ConfigurationError(f"the spreadsheet's time zone {zone!r} is unknown; set it under File, Settings")
        sheets = {}
        for sheet in found["sheets"]:
            grid = sheet["properties"].get("gridProperties")
            if grid is not None:
                size = SheetSize(sheet["properties"]["sheetId"], grid["rowCount"], grid["columnCount"])
                sheets[sheet["properties"]["title"]] = size
        return Metadata(zone, sheets)

    async def read(self, ranges: Sequence[str]) -> list[list[list[Cell]]]:
        """Return the cells of ranges, row by row, in one call. Empty cells at the end of a row are left out."""
        found = await self._call(
            self.reads, lambda http, book: http.values_batch_get(book, list(ranges), params=dict(_UNFORMATTED))
        )
        return [area.get("values", []) for area in found["valueRanges"]]

    async def write(self, values: Sequence[tuple[str, Sequence[Sequence[Cell]]]]) -> None:
        """Write ranges in one call, values unchanged. None leaves a cell as it is.

        Repeating the call makes the same cells, so it is retried until it is known to have succeeded.
        """
        data = [{"range": area, "values": [list(row) for row in rows]} for area, rows in values]
        body = {"valueInputOption": "RAW", "data": data}
        await self._call(self.writes, lambda http, book: http.values_batch_update(book, body=body))

    async def add_rows(self, size: SheetSize, count: int) -> None:
        """Append rows to the grid of a sheet.

        The request does not set the size of the grid: carried out late, it would cut off rows written since. Rows
        appended twice do no harm.
        """
        await self._change({"appendDimension": {"sheetId": size.sheet_id, "dimension": "ROWS", "length": count}})

    async def _change(self, request: Mapping[str, Any]) -> None:
        await self._call(self.writes, lambda http, book: http.batch_update(book, {"requests": [request]}))

    async def _call(self, quota: Quota, call: Callable[[gspread.HTTPClient, str], _T]) -> _T:
        pause = self.config.first_pause_seconds
        unanswered = 0
        for attempt in range(1, self.config.attempts + 1):
            await quota.take()
            try:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._thread, partial(self._send, call))
            except asyncio.CancelledError:
                # The thread continues with the request.
                self.unanswered += quota is self.writes
                raise
            except SourceUnavailable as error:
                if error.maybe_written and quota is self.writes:
                    unanswered += 1
                    self.unanswered += 1
                if attempt == self.config.attempts:
                    raise SourceUnavailable(str(error), maybe_written=unanswered > 0) from error
            self.retries += 1
            # Not a secret: two requests refused at the same time should not be repeated at the same time.
            await self._sleep(random.uniform(0.5, 1.0) * pause)  # noqa: S311
            pause = min(2 * pause, self.config.longest_pause_seconds)
        raise AssertionError("unreachable")  # pragma: no cover

    def _send(self, call: Callable[[gspread.HTTPClient, str], _T]) -> _T:
        """Send one request, in the thread, and translate its errors."""
        try:
            if self._http is None:
                self._http = self._connect()
            return call(self._http, self.config.spreadsheet_id)
        except gspread.exceptions.APIError as error:
            raise _of_answer(error.response.status_code, str(error)) from error
        except (requests.RequestException, TransportError) as error:
            raise SourceUnavailable(
                f"Google Sheets does not answer: {type(error).__name__}", maybe_written=True
            ) from error
        except GoogleAuthError as error:
            raise ConfigurationError(f"Google refused the service account: {error}; check its key file") from error
        except (json.JSONDecodeError, KeyError) as error:
            raise SourceUnavailable(f"Google Sheets sent an unreadable answer: {error}", maybe_written=True) from error

    def _connect(self) -> gspread.HTTPClient:
        try:
            credentials: Credentials = Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
                dict(self.config.credentials), scopes=_SCOPES
            )
        except (ValueError, KeyError) as error:
            raise ConfigurationError(f"the service account's key file cannot be used: {error}") from error
        http = _HTTPClient(self.config.base_url, credentials)
        http.set_timeout(self.config.timeout_seconds)
        return http


def _of_answer(code: int, message: str) -> Exception:
    if code in _NO_RIGHT:
        return ConfigurationError(f"{message}; share the spreadsheet with the service account's address as an editor")
    if code in _REFUSED:
        return SourceRefused(message)
    return SourceUnavailable(message, maybe_written=code != _TOO_MANY)


class _HTTPClient(gspread.HTTPClient):
    """The gspread client with another address, and with tokens only.

    google-auth's own session also asks Google about the account's regions, in a thread of its own.
    """

    def __init__(self, base_url: str, auth: Credentials) -> None:
        super().__init__(auth, requests.Session())
        self._base_url = base_url
        self._auth = auth

    def request(self, method: str, endpoint: str, *args: Any, **kwargs: Any) -> requests.Response:
        if not self._auth.valid:
            self._auth.refresh(Request(self.session))  # type: ignore[no-untyped-call]
            self.session.headers["Authorization"] = f"Bearer {self._auth.token}"
        return super().request(method, endpoint.replace(_GOOGLE, self._base_url, 1), *args, **kwargs)
