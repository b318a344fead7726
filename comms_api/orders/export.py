"""A command's orders as a stream of CSV (RFC 4180) or of lines of JSON."""

import csv
import io
from collections.abc import AsyncIterator
from typing import Literal

import msgspec

from comms_api.orders.model import StoredOrder
from comms_api.protocol import JSON_LINES, no_data

ExportForm = Literal["csv", "ndjson"]

MEDIA_TYPES: dict[ExportForm, str] = {
    "csv": "text/csv; charset=utf-8; header=present",
    "ndjson": JSON_LINES,
}
ORDERS_PER_PIECE = 20
_COLUMNS = (
    "order_id",
    "agent_id",
    "status",
    "outcome",
    "attempt",
    "code",
    "message",
    "data",
    "created_at",
    "sent_at",
    "finished_at",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


async def export_orders(orders: AsyncIterator[StoredOrder], form: ExportForm) -> AsyncIterator[bytes]:
    """Yield the encoded orders, `ORDERS_PER_PIECE` at a time."""
    if form == "csv":
        yield _csv([_COLUMNS])
    piece: list[StoredOrder] = []
    async for order in orders:
        piece.append(order)
        if len(piece) >= ORDERS_PER_PIECE:
            yield _encode(piece, form)
    if piece:
        yield _encode(piece, form)


def _encode(piece: list[StoredOrder], form: ExportForm) -> bytes:
    """Return a piece encoded, and empty it, so that only one of the two is in memory."""
    encoded = msgspec.json.Encoder().encode_lines(piece) if form == "ndjson" else _csv([_row(order) for order in piece])
    piece.clear()
    return encoded


def _row(order: StoredOrder) -> tuple[str, ...]:
    result = order.result
    moments = (order.created_at, order.sent_at, order.finished_at)
    return (
        str(order.order_id),
        str(order.agent_id or ""),
        order.status,
        order.outcome or "",
        str(order.attempt),
        "" if result.code is None else str(result.code),
        _harmless(result.message or ""),
        _harmless("" if result.data == no_data() else bytes(result.data).decode()),
        *("" if moment is None else moment.isoformat() for moment in moments),
    )


def _harmless(cell: str) -> str:
    """Return an agent's text in a form that no spreadsheet interprets as a formula."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _csv(rows: list[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
