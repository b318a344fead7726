"""Sign deliveries as Standard Webhooks does: HMAC-SHA256 over the delivery's id, the time and the body."""

import base64
import hmac
import secrets
from uuid import UUID

SECRET_BYTES = 32
_PREFIX = "whsec_"


def new_secret() -> str:
    """Return a random secret in the form that libraries of Standard Webhooks read."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed_headers(secret: str, delivery_id: UUID, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that identify and sign a delivery."""
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    signature = hmac.digest(key, f"{delivery_id}.{timestamp}.".encode() + body, "sha256")
    return {
        "webhook-id": str(delivery_id),
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }
