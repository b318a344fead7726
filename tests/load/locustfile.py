"""Load tests: a simulated fleet and its operator. docs/operations/load-tests.md says how to run them."""

from fleet import options  # noqa: F401 - adds the command-line options
from fleet.agents import RealAgent, ReferenceAgent
from fleet.operators import Operator
from fleet.shapes import Fleet

__all__ = ["Fleet", "Operator", "RealAgent", "ReferenceAgent"]
