"""Load tests: a simulated fleet and its operator. How to run them: docs/operations/load-tests.md."""

from fleet import options  # noqa: F401 - adds the command-line options
from fleet.agents import RealAgent, ReferenceAgent
from fleet.operators import Operator
from fleet.shapes import Fleet

__all__ = ["Fleet", "Operator", "RealAgent", "ReferenceAgent"]
