"""What can be told to the fleet on locust's command line, beside locust's own options.

Paths stay text: a master sends every option to its workers.
"""

from locust import events
from locust.argument_parser import LocustArgumentParser

AGENTS, AGENTS_PER_SECOND = 100, 20
"""What `-u` and `-r` are when they are not given."""

SHAPES = ("steady", "storm", "soak")


@events.init_command_line_parser.add_listener
def _add_options(parser: LocustArgumentParser) -> None:
    parser.set_defaults(num_users=AGENTS, spawn_rate=AGENTS_PER_SECOND)
    _add_server(parser)
    _add_agents(parser)
    parser.add_argument("--shape", choices=SHAPES, default="steady", help="steady, storm or soak")
    parser.add_argument("--outage-seconds", type=float, default=10, help="storm: how long every agent is away")
    parser.add_argument("--command-seconds", type=float, default=10, help="time between two calls of the operator")
    parser.add_argument("--tally", help="file for what was acknowledged, JSON")


def _add_server(parser: LocustArgumentParser) -> None:
    parser.add_argument("--management-url", default="https://localhost:55000", help="the management API")
    parser.add_argument("--ca", default="certs/ca.pem", help="the authority that signed the server's certificate")
    parser.add_argument("--operator", default="admin", help="the user who enrolls agents and submits commands")
    parser.add_argument("--password-file", help="holds that user's password")
    parser.add_argument("--enrollment-token-file", help="holds a token by which agents enroll")
    parser.add_argument("--group", default="load", help="the agents' group, which must exist")


def _add_agents(parser: LocustArgumentParser) -> None:
    parser.add_argument("--batch-seconds", type=float, default=10, help="time between two calls of an agent")
    parser.add_argument("--batch-events", type=int, default=100, help="events of a stateless batch")
    parser.add_argument("--batch-states", type=int, default=20, help="items of a stateful batch")
    parser.add_argument("--poll-seconds", type=float, default=60, help="how long a poll is to be held")
