"""Read the URLs of receivers, and post to them. Only this module of the server's webhooks needs httpx."""

import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import httpx

from comms_api.errors import Invalid
from comms_api.webhooks.model import ATTEMPT_SECONDS, RETRY_SECONDS_MAXIMUM, DeliveryFailed

PORT_MAXIMUM = 65_535


def read_url(text: str) -> httpx.URL:
    """Return a URL; raises `Invalid` for one that no delivery can use."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise Invalid(f"url: {error}") from None
    if url.scheme != "https" or not url.raw_host or not 0 < (url.port or 443) <= PORT_MAXIMUM:
        raise Invalid("url: must have the form https://HOST/PATH")
    if url.userinfo or url.fragment:
        raise Invalid("url: must contain neither a user nor a fragment")
    return url


async def post(url: httpx.URL, address: str, content: bytes, headers: Mapping[str, str], tls: ssl.SSLContext) -> None:
    """Post to the address that the URL's host has; raises `DeliveryFailed` unless the answer is a 2xx.

    It connects to the address itself, because a second resolution could lead elsewhere.
    """
    async with httpx.AsyncClient(verify=tls, trust_env=False, timeout=ATTEMPT_SECONDS) as client:
        request = client.build_request(
            "POST",
            url.copy_with(host=address),
            content=content,
            headers={**headers, "Host": url.netloc.decode(), "Content-Type": "application/json"},
            extensions={"sni_hostname": url.raw_host.decode()},
        )
        try:
            answer = await client.send(request, stream=True)
            await answer.aclose()  # the body is not needed, and may be long
        except httpx.HTTPError as error:
            raise DeliveryFailed(f"{type(error).__name__}: {error}") from error
    if not answer.is_success:
        raise DeliveryFailed(f"status {answer.status_code}", pause_seconds(answer.headers.get("Retry-After")))


def pause_seconds(retry_after: str | None) -> float | None:
    """Read a Retry-After (RFC 9110, section 10.2.3): seconds, or a date; None for anything else."""
    if retry_after is None:
        return None
    try:
        if retry_after.isascii() and retry_after.isdigit():
            seconds = float(retry_after)
        else:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), RETRY_SECONDS_MAXIMUM)
