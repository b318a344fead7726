"""The options of the fleet on locust's command line, in addition to those of locust.

Paths stay text, since a master sends every option to its workers.
"""

from locust import events
from locust.argument_parser import LocustArgumentParser

AGENTS, AGENTS_PER_SECOND = 100, 20
"""The defaults of `-u` and `-r`."""

SHAPES = ("steady", "storm", "soak")


@events.init_command_line_parser.add_listener
def _add_options(parser: LocustArgumentParser) -> None:
    parser.set_defaults(num_users=AGENTS, spawn_rate=AGENTS_PER_SECOND)
    _add_server(parser)
    _add_agents(parser)
    parser.add_argument("--shape", choices=SHAPES, default="steady", help="steady, storm or soak")
    parser.add_argument("--outage-seconds", type=float, default=10, help="storm: how long all agents are away")
    parser.add_argument("--command-seconds", type=float, default=10, help="time between two calls of the operator")
    parser.add_argument("--tally", help="file for the acknowledged counts, JSON")


def _add_server(parser: LocustArgumentParser) -> None:
    parser.add_argument("--management-url", default="https://localhost:55000", help="the management API")
    parser.add_argument("--ca", default="certs/ca.pem", help="the authority that signed the server's certificate")
    parser.add_argument("--operator", default="admin", help="the user who enrolls agents and submits commands")
    parser.add_argument("--password-file", help="file with that user's password")
    parser.add_argument("--enrollment-token-file", help="file with an enrollment token")
    parser.add_argument("--group", default="load", help="the agents' group, which must exist")


def _add_agents(parser: LocustArgumentParser) -> None:
    parser.add_argument("--batch-seconds", type=float, default=10, help="time between two calls of an agent")
    parser.add_argument("--batch-events", type=int, default=100, help="events of a stateless batch")
    parser.add_argument("--batch-states", type=int, default=20, help="items of a stateful batch")
    parser.add_argument("--poll-seconds", type=float, default=60, help="how long the server may hold a poll")
