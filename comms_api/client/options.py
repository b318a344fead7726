"""The options of one agent."""

from pathlib import Path

import msgspec

from comms_api.client.transport.endpoint import Endpoint


class Options(msgspec.Struct, frozen=True):
    """The options of the command line; `groups` are the groups to enroll in."""

    urls: tuple[str, ...]
    management_urls: tuple[str, ...]
    ca: Path | None
    data_dir: Path
    name: str
    groups: tuple[str, ...] = ()
    user: str = "admin"
    password_file: Path | None = None
    enrollment_token_file: Path | None = None
    agent_id: str | None = None
    key_file: Path | None = None
    log_files: tuple[str, ...] = ()
    from_start: bool = False
    inventory: bool = True
    scan_interval_seconds: float = 60.0
    batch_seconds: float = 10.0
    spool_bytes: int = 64 * 2**20
    wait_seconds: float = 60.0
    once: bool = False
    proxy: str | None = None
    no_proxy: bool = False
    return_seconds: float = 600.0
    trusted_keys: tuple[str, ...] = ()
    srv: str | None = None

    def endpoint(self, url: str, priority: int = 0, weight: int = 1) -> Endpoint:
        """Return the endpoint of an API at `url`."""
        return Endpoint(url, self.ca, self.proxy, self.no_proxy, priority, weight)
