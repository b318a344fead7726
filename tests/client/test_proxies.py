"""Proxies from the command line and the environment, for an operator's command and for the agent."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from support.proxy import Proxy, running_proxy
from support.server import Server
from support.waiting import PATIENCE

from comms_api.client.transport.endpoint import is_exempt

CLOSED = "http://127.0.0.1:1"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with running_proxy() as running:
        yield running


class Terminal:
    """Runs commands with proxies in the environment."""

    def __init__(self, server: Server, folder: Path) -> None:
        trust = ["--ca", str(server.folder / "certs" / "ca.pem")]
        trust += ["--password-file", str(server.folder / "password")]
        self.operator = ["commands", "list", "--url", server.management_url, *trust]
        self.agent = ["agent", "--url", server.agent_url, "--management-url", server.management_url, *trust]
        self.agent += ["--once", "--no-inventory", "--name", f"agent-{uuid4()}", "--data-dir", str(folder)]

    def run(self, arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        program = [sys.executable, "-m", "comms_api", *arguments]
        return subprocess.run(
            program, capture_output=True, text=True, check=False, timeout=PATIENCE, env=clean | environment
        )


@pytest.fixture
def terminal(server: Server, tmp_path: Path) -> Terminal:
    return Terminal(server, tmp_path / "agent")


@pytest.mark.parametrize("command", ["operator", "agent"])
def test_a_proxy_from_the_environment_or_an_option_is_used(
    terminal: Terminal, proxy: Proxy, server: Server, command: str
) -> None:
    arguments = getattr(terminal, command)
    for options, environment in (
        ([], {"HTTPS_PROXY": proxy.url}),
        ([], {"https_proxy": proxy.url.replace("//", "//user:secret@"), "ALL_PROXY": "socks5://127.0.0.1:1"}),
        ([], {"ALL_PROXY": proxy.url.removeprefix("http://"), "NO_PROXY": "2001:db8::/32,example.com"}),
        (["--proxy", proxy.url], {"HTTPS_PROXY": CLOSED, "NO_PROXY": "*"}),
    ):
        proxy.targets.clear()
        done = terminal.run([*arguments, *options], **environment)
        assert done.returncode == 0, done.stderr
        assert f"127.0.0.1:{server.management_port}" in proxy.targets or command == "agent"
        assert f"127.0.0.1:{server.agent_port}" in proxy.targets or command == "operator"
    assert proxy.credentials


@pytest.mark.parametrize("command", ["operator", "agent"])
def test_no_proxy_is_used_if_an_option_or_the_environment_says_so(terminal: Terminal, command: str) -> None:
    arguments = getattr(terminal, command)
    for options, environment in (
        (["--no-proxy"], {"HTTPS_PROXY": CLOSED, "ALL_PROXY": "socks5://127.0.0.1:1"}),
        ([], {"HTTPS_PROXY": CLOSED, "NO_PROXY": "::1,fe80::/10,127.0.0.0/8"}),
        ([], {"ALL_PROXY": "socks5://127.0.0.1:1", "NO_PROXY": "*"}),
    ):
        done = terminal.run([*arguments, *options], **environment)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["operator", "agent"])
@pytest.mark.parametrize(
    ("options", "environment", "source", "shown"),
    [
        ([], {"ALL_PROXY": "socks5://user:secret@127.0.0.1:1"}, "ALL_PROXY", "127.0.0.1:1"),
        ([], {"https_proxy": "http://user:secret@[::1"}, "HTTPS_PROXY", "[::1"),
        (["--proxy", "http://h:99999"], {}, "--proxy", "http://h:99999"),
    ],
)
def test_an_unusable_proxy_is_named_in_one_line_without_its_password(  # noqa: PLR0913 - a table of cases
    terminal: Terminal, command: str, options: list[str], environment: dict[str, str], source: str, shown: str
) -> None:
    done = terminal.run([*getattr(terminal, command), *options], **environment)
    assert done.returncode == 1
    assert done.stderr.startswith(f"comms-api: {source}: {shown!r} cannot be used as a proxy")
    assert "--no-proxy" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "no_proxy", "exempt"),
    [
        ("https://[2001:db8::5]", "2001:db8::/32", True),
        ("https://[2001:db8::5]", "[2001:db8::5]:443", True),
        ("https://[2001:db8::5]", "[2001:db8::5]:444", False),
        ("https://[2001:db8::5]", "10.0.0.0/8 2001:db8::5", True),
        ("https://10.1.2.3:27000", "10.0.0.0/8", True),
        ("https://11.1.2.3:27000", "10.0.0.0/8", False),
        ("https://a.example.com", ".example.com", True),
        ("https://a.example.com", "*.EXAMPLE.com", True),
        ("https://example.com:55000", "https://example.com:55000", True),
        ("https://example.com:55000", "example.com:5500", False),
        ("https://notexample.com", "example.com", False),
        ("https://host", "::/x,[,*.,.,/", False),
        ("https://host", "a,*", True),
        ("https://host", "", False),
    ],
)
def test_no_proxy_lists_hosts_domains_addresses_and_networks(url: str, no_proxy: str, exempt: bool) -> None:  # noqa: FBT001
    assert is_exempt(httpx.URL(url), no_proxy) == exempt


def test_an_invalid_url_is_named_in_one_line(terminal: Terminal) -> None:
    for url in ("http://h:1", "https://bü ro:1", "https://h:99999", "https://xn--a:1"):
        done = terminal.run([*terminal.operator, "--url", url])
        assert (done.returncode, done.stderr) == (1, f"comms-api: {url!r} does not have the form https://HOST:PORT\n")
