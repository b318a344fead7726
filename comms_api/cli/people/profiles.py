"""`comms-api profiles`: the logins that are kept."""

from typing import Any

import click

from comms_api.cli.shared.operation import NOUN, printing
from comms_api.cli.shared.output import JsonObject
from comms_api.cli.shared.views import second, sentence, table
from comms_api.errors import NotFound
from comms_api.management_client.pinning import fingerprint
from comms_api.management_client.profiles import ProfileFolder, find_profile, list_profiles


@click.group(context_settings=NOUN)
def profiles() -> None:
    """Show and delete the logins that `comms-api login` has kept."""


def describe_profile(folder: ProfileFolder) -> JsonObject:
    """Return what people may know of a profile: no token."""
    profile = folder.find()
    if profile is None:
        raise NotFound(f"there is no profile {folder.name!r}: comms-api login --profile {folder.name}")
    return {
        "profile": folder.name,
        "url": profile.url,
        "user": profile.user,
        "is_logged_in": bool(profile.token),
        "token_expires_at": profile.expires_at if profile.token else None,
        "ca": fingerprint(folder.ca.read_bytes()) if folder.ca else None,
    }


_COLUMNS: dict[str, Any] = {"profile": "profile", "url": "url", "user": "user", "logged in": "is_logged_in"}


@printing(table(_COLUMNS, {"token until": lambda found: second(found["token_expires_at"]), "ca": "ca"}))
@profiles.command("list")
def list_all() -> list[JsonObject]:
    """List the profiles by name."""
    return [describe_profile(folder) for folder in list_profiles()]


@printing(sentence("the profile {profile} is deleted"))
@profiles.command("delete")
@click.argument("name")
def delete(name: str) -> JsonObject:
    """Forget a profile and the certificate that it trusts.

    Its tokens are not revoked: log out first.
    """
    folder = find_profile(name)
    described = describe_profile(folder)
    folder.delete()
    return described
