"""Log events as agents send them: lines of syslog, JSON logs of applications and events of Windows.

A seed determines the events. They vary like real ones: zstd at level 1 compresses batches of 100 four to five times.
Only the standard library is imported, since the simulated fleet of `tests/load` uses this module, too.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

START = datetime(2026, 1, 5, 8, tzinfo=UTC)
PAUSE_SECONDS = 0.4
"""The mean time between two events of an agent's log files."""

SYLLABLES = (
    "ba",
    "cor",
    "de",
    "fi",
    "gra",
    "ho",
    "in",
    "ka",
    "lo",
    "mer",
    "no",
    "pri",
    "que",
    "ra",
    "sta",
    "tu",
    "vel",
)
USERS = ("root", "admin", "deploy", "postgres", "git", "www-data", "backup", "jenkins", "oracle", "test")
PATHS = ("/var/log/auth.log", "/var/log/syslog", "/var/log/kern.log", "/var/log/mail.log")
MAXIMUMS = {"small": 100, "port": 65_536, "number": 10_000_000}
SYSLOG = (
    ("sshd", "Failed password for {user} from {address} port {port} ssh2"),
    ("sshd", "Accepted publickey for {user} from {address} port {port} ssh2: ED25519 SHA256:{digest}"),
    ("sshd", "Connection closed by authenticating user {user} {address} port {port} [preauth]"),
    ("sudo", "{user} : TTY=pts/{small} ; PWD=/home/{user} ; USER=root ; COMMAND=/usr/bin/{word} --{word2}={number}"),
    ("CRON", "({user}) CMD (cd /srv/{word} && ./{word2} --since {number} > /dev/null 2>&1)"),
    ("systemd", "{word}-{word2}.service: Main process exited, code=exited, status={small}/FAILURE"),
    ("kernel", "[{number}.{port}] {word}: device {word2}{small} entered promiscuous mode, queue {port}"),
    (
        "kernel",
        (
            "[UFW BLOCK] IN=eth0 OUT= MAC={mac} SRC={address} DST={address2} LEN=60 TOS=0x00 PREC=0x00 TTL={small} "
            "ID={port} DF PROTO=TCP SPT={port2} DPT={port} WINDOW=64240 RES=0x00 SYN URGP=0"
        ),
    ),
    (
        "nginx",
        (
            '{address} - {user} "GET /{word}/{word2}?id={number} HTTP/1.1" 200 {port} "https://{word}.example.com/" '
            '"Mozilla/5.0 (X11; Linux x86_64; rv:{small}.0) Gecko/20100101 Firefox/{small}.0"'
        ),
    ),
    (
        "postfix/smtp",
        (
            "{digest}: to=<{user}@{word}.example.net>, relay=mx.{word2}.example.org[{address}]:25, delay={small}.3, "
            "dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as {number})"
        ),
    ),
)
WINDOWS = (
    (4624, "An account was successfully logged on."),
    (4625, "An account failed to log on."),
    (4688, "A new process has been created."),
    (4672, "Special privileges assigned to new logon."),
)


class EventTexts:
    """The events of one agent."""

    def __init__(self, seed: int, began_at: datetime = START) -> None:
        self._random = Random(seed)  # noqa: S311 - made up
        self._at = began_at
        self._host = f"{_Fields(self._random)['word']}-{seed % 1000:03d}"
        self._offset = self._number(10**6)
        self._makers: tuple[Callable[[], dict[str, Any]], ...] = (self._syslog, self._application, self._windows)

    def lines(self, count: int) -> list[bytes]:
        """Return the next events, each as a line of JSON."""
        chosen = self._random.choices(self._makers, (6, 3, 1), k=count)
        return [json.dumps(make(), separators=(",", ":")).encode() for make in chosen]

    def _syslog(self) -> dict[str, Any]:
        program, template = self._random.choice(SYSLOG)
        message = template.format_map(_Fields(self._random))
        original = f"{self._tick():%b %d %H:%M:%S} {self._host} {program}[{self._number(65536)}]: {message}"
        self._offset += len(original) + 1
        return {
            "@timestamp": self._timestamp(),
            "event": {"original": original, "provider": program},
            "host": {"hostname": self._host},
            "log": {"file": {"path": self._random.choice(PATHS), "offset": self._offset}},
            "tags": ["system", program],
        }

    def _application(self) -> dict[str, Any]:
        fields = _Fields(self._random)
        self._tick()
        return {
            "@timestamp": self._timestamp(),
            "message": f"{fields['word']} of {fields['word2']} {fields['number']} done",
            "log": {"level": self._random.choice(("info", "info", "warning", "debug")), "logger": fields["word"]},
            "trace": {"id": self._random.randbytes(16).hex()},
            "user": {"name": fields["user"]},
            "http": {
                "request": {"method": self._random.choice(("GET", "POST")), "id": self._random.randbytes(8).hex()},
                "response": {"status_code": self._random.choice((200, 200, 204, 404)), "bytes": self._number(10**5)},
            },
            "url": {"path": f"/api/{fields['word2']}/{fields['number']}"},
            "client": {"ip": fields["address"], "port": self._number(65536)},
            "event": {"duration": self._number(10**9), "dataset": "shop.access"},
        }

    def _windows(self) -> dict[str, Any]:
        event_id, message = self._random.choice(WINDOWS)
        fields = _Fields(self._random)
        self._tick()
        return {
            "@timestamp": self._timestamp(),
            "message": message,
            "winlog": {
                "channel": "Security",
                "computer_name": f"{self._host}.corp.example.com",
                "event_id": event_id,
                "provider_name": "Microsoft-Windows-Security-Auditing",
                "record_id": self._offset,
                "event_data": {
                    "TargetUserName": fields["user"],
                    "TargetDomainName": "CORP",
                    "TargetLogonId": f"0x{self._random.getrandbits(40):x}",
                    "SubjectLogonId": "0x3e7",
                    "LogonType": self._number(11),
                    "IpAddress": fields["address"],
                    "IpPort": self._number(65536),
                    "ProcessName": f"C:\\Windows\\System32\\{fields['word']}.exe",
                },
            },
        }

    def _number(self, below: int) -> int:
        return int(self._random.random() * below)

    def _tick(self) -> datetime:
        self._at += timedelta(seconds=self._random.expovariate(1 / PAUSE_SECONDS))
        return self._at

    def _timestamp(self) -> str:
        return self._at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Fields(dict[str, object]):
    """The fields of an event, made up when a template uses them; a digit at the end of a name makes another value."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    def __missing__(self, name: str) -> object:
        value = self[name] = self._make(name.rstrip("2"))
        return value

    def _make(self, kind: str) -> object:
        match kind:
            case "user":
                return self._random.choice(USERS)
            case "word":
                return "".join(self._random.choices(SYLLABLES, k=3))
            case "address":
                return ".".join(map(str, self._random.randbytes(4)))
            case "digest":
                return self._random.randbytes(20).hex()
            case "mac":
                return self._random.randbytes(14).hex(":")
            case _:
                return int(self._random.random() * MAXIMUMS[kind])
