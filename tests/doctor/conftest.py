"""Deployments on a durable PostgreSQL."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url
from support.databases import run_sql
from support.deployments import Deployment

from comms_api.embedded_postgresql.cluster import Cluster, embedded_postgres


@pytest.fixture(scope="session")
def durable(scratch: Path) -> Iterator[Cluster]:
    """A PostgreSQL with the settings of a deployment; that of the other tests is not durable."""
    with embedded_postgres(scratch / "durable") as cluster:
        yield cluster


@pytest.fixture
def new_deployment(durable: Cluster, scratch: Path) -> Iterator[Callable[[str], Deployment]]:
    """Creates a deployment with an empty database."""
    names: list[str] = []
    url = make_url(durable.url)

    def create(name: str) -> Deployment:
        names.append(name)
        run_sql(url, f"CREATE DATABASE {name}")
        return Deployment(scratch / name, url.set(database=name).render_as_string(hide_password=False))

    yield create
    for name in names:
        run_sql(url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def patient(durable: Cluster, scratch: Path) -> Iterator[Deployment]:
    """A healthy deployment with a running node; each test repairs the damage that it does."""
    deployment = Deployment(scratch / "patient", durable.url)
    with deployment.start() as server:
        deployment.server = server
        yield deployment
