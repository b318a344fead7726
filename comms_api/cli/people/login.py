"""`comms-api login`, `logout` and `whoami`: log in once for all commands of a profile."""

import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import click

from comms_api.cli.people.profiles import describe_profile
from comms_api.cli.shared.connection import ADMINISTRATOR, DEFAULT_URL, SERVER_OPTIONS, Connection
from comms_api.cli.shared.operation import NOUN, operation, printing, take
from comms_api.cli.shared.output import JsonObject
from comms_api.cli.shared.secrets import ask_secret
from comms_api.cli.shared.views import fields, sentence
from comms_api.errors import CommsError
from comms_api.management_client.client import ManagementClient
from comms_api.management_client.device import device_of
from comms_api.management_client.logins import Password
from comms_api.management_client.pinning import fetch_last_certificate, fingerprint, is_trusted
from comms_api.management_client.profiles import FirstLogin, Profile, SessionEnded, find_profile

_LOGOUT_OPTIONS = [option for option in SERVER_OPTIONS if option.name in {"profile", "proxy", "no_proxy"}]


@printing(sentence("logged in at {url} as {user}"))
@click.command(context_settings=NOUN, params=[*SERVER_OPTIONS])
@click.option("--fingerprint", "confirmed", help="SHA-256 fingerprint of the server's certificate, to trust it.")
def login(*, confirmed: str | None, **options: Any) -> JsonObject:
    """Log in, and keep the login in a profile.

    Other commands use the profile, until nobody has used it for 12 hours. If no known authority has signed the server's
    certificate, its fingerprint is shown and must be confirmed once; from then on, only this certificate is trusted.
    """
    connection = take(Connection, options)
    folder = find_profile(connection.profile)
    known = folder.find()
    url = connection.url or (known.url if known else DEFAULT_URL)
    pinned = folder.ca if known and known.url == url else None
    certificates = _choose_certificates(connection, url, pinned, confirmed)
    user = connection.user or (known.user if known else ADMINISTRATOR)
    password = connection.password(url, user) or Password(user, ask_secret(f"Password of {user}"), device_of(url, user))
    with NamedTemporaryFile(suffix=".pem") as file:
        file.write(certificates or b"")
        file.flush()
        endpoint = connection.endpoint(url, Path(file.name) if certificates else None)
        with ManagementClient(endpoint, FirstLogin(folder, Profile(url, user), password, certificates)) as api:
            api.ask("GET", "/users/me")
    return describe_profile(folder)


def _choose_certificates(connection: Connection, url: str, pinned: Path | None, confirmed: str | None) -> bytes | None:
    """Return the certificates to trust in PEM, or None for the system's authorities."""
    ca = connection.ca or pinned
    if is_trusted(connection.endpoint(url, ca)):
        return ca.read_bytes() if ca else None
    if connection.ca is not None:
        raise CommsError(f"{url}: the server's certificate is not signed by {connection.ca} for this name")
    found = fetch_last_certificate(connection.endpoint(url, None))
    if confirmed is not None and _digits(confirmed) == _digits(fingerprint(found)):
        return found
    if pinned is not None:
        raise CommsError(
            f"{url}: the certificate has changed: {fingerprint(pinned.read_bytes())} is pinned, but the server sends"
            f" {fingerprint(found)}; if its operators confirm the new one, pass it as --fingerprint"
        )
    if confirmed is not None or not sys.stdin.isatty():
        raise CommsError(
            f"{url}: no known authority has signed the certificate, whose fingerprint is {fingerprint(found)}; compare"
            " it with the server's, and pass it as --fingerprint, or pass the authority by --ca"
        )
    question = f"No known authority has signed the certificate of {url}.\nSHA-256 {fingerprint(found)}\nTrust it?"
    click.confirm(question, abort=True, err=True)
    return found


def _digits(shown: str) -> str:
    """Return the digits of a fingerprint, which people write in several ways."""
    return shown.casefold().replace("sha256", "").replace("=", "").replace(":", "").replace(" ", "")


@printing(sentence("logged out at {url}"))
@click.command(context_settings=NOUN, params=[*_LOGOUT_OPTIONS])
@click.option("--local", "is_local", is_flag=True, help="Only forget the login here; revoke no token.")
def logout(*, is_local: bool, **options: Any) -> JsonObject:
    """Revoke the user's tokens, and forget the login of the profile.

    This ends all sessions of the user, also those on other machines. The profile keeps the server and its certificate.
    """
    connection = take(Connection, options)
    folder = find_profile(connection.profile)
    described = describe_profile(folder)
    if described["is_logged_in"] and not is_local:
        try:
            with connection.client() as api:
                api.ask("DELETE", "/security/user/authenticate")
        except SessionEnded:
            pass
    folder.write(Profile(described["url"], described["user"]))
    return describe_profile(folder)


@operation(None, "whoami", fields)
def whoami(api: ManagementClient) -> JsonObject:
    """Show the user that is logged in, and the server."""
    return {"url": api.url, **api.ask("GET", "/users/me").json()}
