"""The names of settings in the systems that this server replaces; `docs/migration.md` explains the differences."""

_SOURCES = "key_request_program, key_request_socket, key_request_url or key_request_database_url"
_KEY_REQUESTS = "the settings that begin with key_request_"
_RULES = "reenroll_after_days, reenroll_minimum_age_days and reenroll_on_key_mismatch"

OLD_NAMES = {
    "agent-key-polling": _KEY_REQUESTS,
    "key-request": _KEY_REQUESTS,
    "key_request": _KEY_REQUESTS,
    "enabled": _SOURCES,
    "exec_path": "key_request_program",
    "socket": "key_request_socket",
    "timeout": "key_request_timeout_seconds",
    "threads": "key_request_threads",
    "queue_size": "key_request_queue_size",
    "force": _RULES,
    "force_insert": _RULES,
    "disconnected_time": "reenroll_after_days",
    "after_registration_time": "reenroll_minimum_age_days",
    "key_mismatch": "reenroll_on_key_mismatch",
}
"""The settings to use instead, by old name. A name with a hyphen is a section, whose members are not read."""
