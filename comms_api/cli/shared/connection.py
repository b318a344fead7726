"""The options that name a server and a user, and the client that they open."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from comms_api.client.enroll import read_secret
from comms_api.client.transport.endpoint import Endpoint
from comms_api.errors import CommsError, ConfigurationError
from comms_api.management_client.client import ManagementClient, Untrusted
from comms_api.management_client.device import device_of
from comms_api.management_client.logins import Login, Password
from comms_api.management_client.pinning import fingerprint
from comms_api.management_client.profiles import DEFAULT, ProfileFolder, StoredLogin, find_profile

DEFAULT_URL = "https://localhost:55000"
ADMINISTRATOR = "admin"
FILE = click.Path(dir_okay=False, exists=True, path_type=Path)

SERVER_OPTIONS = (
    click.Option(
        ["--url"],
        envvar="COMMS_URL",
        help=f"URL of the management API; by default that of the profile, or {DEFAULT_URL}.",
    ),
    click.Option(
        ["--ca"],
        envvar="COMMS_CA",
        type=FILE,
        help="CA certificate of the server; by default that of the profile, or the system's CAs.",
    ),
    click.Option(["--proxy"], help="HTTP proxy; by default that of the environment."),
    click.Option(["--no-proxy"], is_flag=True, help="Ignore the proxy of the environment."),
    click.Option(["--profile"], envvar="COMMS_PROFILE", default=DEFAULT, help="Profile of `comms-api login` to use."),
    click.Option(["--user"], envvar="COMMS_USER", help="User to log in as; by default admin."),
    click.Option(
        ["--password-file"],
        envvar="COMMS_PASSWORD_FILE",
        type=FILE,
        help="File with the user's password; without it, the profile's login is used.",
    ),
)


class Connection(msgspec.Struct, frozen=True):
    """The values of `SERVER_OPTIONS`."""

    url: str | None = None
    ca: Path | None = None
    proxy: str | None = None
    no_proxy: bool = False
    profile: str = DEFAULT
    user: str | None = None
    password_file: Path | None = None

    def endpoint(self, url: str, ca: Path | None) -> Endpoint:
        """Return the endpoint at `url`, by the chosen proxy."""
        return Endpoint(url, ca, self.proxy, self.no_proxy)

    def password(self, url: str, user: str) -> Password | None:
        """Return the login by the password in the file, or None without a file."""
        if self.password_file is None:
            return None
        return Password(user, read_secret("--password-file", self.password_file), device_of(url, user))

    @contextmanager
    def client(self) -> Iterator[ManagementClient]:
        """Yield a client that logs in with the password, or without one as the profile says."""
        url = self.url or DEFAULT_URL
        if password := self.password(url, self.user or ADMINISTRATOR):
            with _opened(self.endpoint(url, self.ca), password, None) as client:
                yield client
            return
        folder = find_profile(self.profile)
        endpoint = self.endpoint(self._profile_url(folder), self.ca or folder.ca)
        with _opened(endpoint, StoredLogin(folder), None if self.ca else folder.ca) as client:
            yield client

    def _profile_url(self, folder: ProfileFolder) -> str:
        """Return the URL of a profile; a token is never sent to another server."""
        profile = folder.find()
        if profile is None:
            return self.url or DEFAULT_URL
        if self.url not in {None, profile.url}:
            raise ConfigurationError(
                f"the profile {folder.name!r} is for {profile.url}, not for {self.url}: log in with"
                f" `comms-api login --url {self.url} --profile NAME`, and pass that --profile"
            )
        if self.user not in {None, profile.user}:
            raise ConfigurationError(
                f"the profile {folder.name!r} is for the user {profile.user}, not for {self.user}: name a"
                " --password-file, or log in to another --profile"
            )
        return profile.url


@contextmanager
def _opened(endpoint: Endpoint, login: Login, pinned: Path | None) -> Iterator[ManagementClient]:
    try:
        with ManagementClient(endpoint, login) as client:
            yield client
    except Untrusted as error:
        raise CommsError(f"{error.detail}; {_advise(endpoint, pinned)}") from None


def _advise(endpoint: Endpoint, pinned: Path | None) -> str:
    login = f"comms-api login --url {endpoint.url}"
    if pinned is None:
        return f"pass its authority by --ca, or confirm its certificate once: {login}"
    return (
        f"the pinned certificate is {fingerprint(pinned.read_bytes())}; if the server's operators have replaced it,"
        f" confirm the new one: {login} --fingerprint SHA256"
    )
