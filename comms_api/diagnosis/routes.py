"""The management API's diagnosis of an agent."""

from litestar import get
from litestar.di import NamedDependency

from comms_api.agents.dependencies import AgentId
from comms_api.diagnosis.model import Diagnosis
from comms_api.diagnosis.service import Diagnoses
from comms_api.http.roles import READ


@get("/agents/{agent:str}/diagnosis", opt=READ)
async def diagnose_agent(agent_id: AgentId, diagnoses: NamedDependency[Diagnoses]) -> Diagnosis:
    """Show what an agent waits for, and why: its polls, open orders, files, keys, tokens and recent refusals."""
    return await diagnoses.diagnose(agent_id)


ROUTES = [diagnose_agent]
