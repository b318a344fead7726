"""`comms-api doctor` on deployments that are broken in one way each."""

import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from sqlalchemy import make_url
from support.batches import stateless
from support.certificates import write_certificate
from support.databases import run_sql
from support.deployments import NAME, Deployment
from support.nats import nats_servers, stream_settings
from support.ports import free_ports
from support.small_disk import AS_ROOT, small_disk
from support.waiting import wait_until

from comms_api.database.revisions import newest_revision

NewDeployment = Callable[[str], Deployment]
IN_A_YEAR = datetime.now(UTC) + timedelta(days=365)


def test_a_healthy_deployment_has_no_finding(patient: Deployment) -> None:
    patient.expect_no_finding()
    shown = patient.run()
    assert (shown.returncode, "all is well." in shown.stderr) == (0, True)
    assert {line[0] for line in shown.stdout.splitlines()} == {"✓"}
    for words in ("fsync = on", "revision", "decrypts the signing keys", f"{NAME}/0 is active", "https://127.0.0.1:"):
        assert words in shown.stdout


def test_a_finding_is_marked_and_followed_by_the_problem_and_the_remedy(patient: Deployment) -> None:
    shown = patient.run(previous_secret_file="missing")
    lines = shown.stdout.splitlines()
    [first] = [number for number, line in enumerate(lines) if line.startswith("✗ permissions")]
    assert lines[first].endswith("missing (previous_secret_file)")
    assert lines[first + 1].strip() == "No such file or directory"
    assert lines[first + 2].strip() == "→ create the file, or correct previous_secret_file"
    assert shown.returncode == 1
    assert "finding(s)" in shown.stderr


def test_a_wrong_setting_is_a_finding(patient: Deployment) -> None:
    patient.expect("settings", "error", "no such setting", wrokers=3)


def test_certificate_files_that_cannot_be_served(patient: Deployment, tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    good = write_certificate(tmp_path / "good", authority, "127.0.0.1", expires_at=IN_A_YEAR)
    chain = good["tls_certificate"]
    stranger = write_certificate(tmp_path / "other", other, "127.0.0.1", expires_at=IN_A_YEAR)["tls_key"]
    patient.expect("certificate", "error", "a node cannot serve it", **good | {"tls_key": stranger})
    patient.expect("certificate", "error", "a node cannot serve it", **good | {"tls_certificate": tmp_path / "none"})
    chain.write_bytes(chain.read_bytes() + other.cert_pem.bytes())
    patient.expect("certificate", "error", "certificate 2 of the file has not signed", **good)
    for days, status, words in ((-1, "error", "it has expired"), (5, "warning", "it expires in")):
        moment = datetime.now(UTC) + timedelta(days=days)
        made = write_certificate(tmp_path / str(days), authority, "127.0.0.1", expires_at=moment)
        patient.expect("certificate", status, words, **made)


def test_secret_files_that_others_can_read(patient: Deployment) -> None:
    secret = patient.folder / "data" / "secret"
    secret.chmod(0o644)
    patient.expect("permissions", "error", f"chmod 600 {secret}")
    secret.chmod(0o640)
    patient.expect_no_finding()
    secret.chmod(0o600)


@AS_ROOT
def test_a_full_disk(patient: Deployment, scratch: Path) -> None:
    with small_disk(scratch / "small") as disk:
        shutil.copy(patient.folder / "data" / "secret", disk / "secret")
        patient.expect("disk", "warning", "free at least 1024 MiB", data_dir=disk)


def test_a_database_that_is_away(patient: Deployment, tmp_path: Path) -> None:
    [port] = free_ports(1)
    patient.expect("database", "error", "Connect call failed", database_url=f"postgresql://a:b@127.0.0.1:{port}/x")
    patient.expect("database", "error", "start the node once", database_url=None, data_dir=tmp_path)


def test_settings_of_postgresql_that_endanger_data(patient: Deployment) -> None:
    for setting, value in (
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("synchronous_commit", "off"),
        ("autovacuum", "off"),
        ("default_transaction_isolation", "serializable"),
    ):
        patient.query(f"ALTER SYSTEM SET {setting} = '{value}'")
        patient.query("SELECT pg_reload_conf()")
        try:
            patient.expect("database", "error", f"ALTER SYSTEM SET {setting} = ")
        finally:
            patient.query(f"ALTER SYSTEM RESET {setting}")
            patient.query("SELECT pg_reload_conf()")


def test_a_database_that_accepts_too_few_connections(patient: Deployment) -> None:
    [[name]] = patient.query("SELECT current_database()")
    patient.query(f"ALTER DATABASE {name} CONNECTION LIMIT 7")
    patient.expect("database", "error", "8 connections of 1 process(es), 7 available")
    patient.query(f"ALTER DATABASE {name} CONNECTION LIMIT 8")
    assert "database" not in {finding["check"] for finding in patient.examine()}
    patient.query(f"ALTER DATABASE {name} CONNECTION LIMIT -1")


def test_schemas_of_other_releases(patient: Deployment, new_deployment: NewDeployment) -> None:
    newest = newest_revision()
    patient.query("UPDATE alembic_version SET version_num = '0001'")
    patient.expect("schema", "error", f"this release needs revision {newest} → comms-api migrate")
    patient.query("UPDATE alembic_version SET version_num = '9999'")
    patient.expect("schema", "warning", "the schema is of a newer release")
    patient.query(f"UPDATE alembic_version SET version_num = '{newest}'")
    new_deployment("empty").expect("schema", "error", "the database has no schema")


def test_an_old_version_and_a_clock_that_differs(new_deployment: NewDeployment) -> None:
    deployment = new_deployment("shadowed")
    # Functions of this schema come before PostgreSQL's.
    deployment.query("ALTER DATABASE shadowed SET search_path = public, pg_catalog")
    deployment.query(
        "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS"
        " $$SELECT pg_catalog.clock_timestamp() + interval '1 hour'$$"
    )
    with deployment.start():
        deployment.expect("clock", "warning", "this machine against the database: -3600")
        wait_until(lambda: deployment.query("SELECT 1 FROM nodes WHERE skew_seconds < -3000"))
        deployment.expect("clock", "warning", f"{NAME}/0 against the database: -36")
    deployment.query(
        "CREATE FUNCTION public.current_setting(name text) RETURNS text LANGUAGE sql AS"
        " $$SELECT CASE name WHEN 'server_version_num' THEN '140011' ELSE pg_catalog.current_setting(name) END$$"
    )
    deployment.expect("database", "error", "PostgreSQL 14: versions before 15 are not supported")


def test_a_database_in_another_encoding(new_deployment: NewDeployment, patient: Deployment) -> None:
    deployment = new_deployment("latin")
    assert deployment.database_url is not None
    run_sql(
        make_url(str(patient.database_url)),
        "DROP DATABASE latin",
        "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
    )
    deployment.expect("database", "error", "encoding LATIN1")


def test_another_secret(patient: Deployment, tmp_path: Path) -> None:
    another = tmp_path / "secret"
    another.write_text("s" * 64)
    another.chmod(0o600)
    patient.expect("secret", "error", "this is not the secret that this database was set up with", secret_file=another)
    patient.expect("secret", "error", "the nodes have different secrets", secret_file=another)


def test_a_node_that_still_has_the_previous_secret(patient: Deployment, scratch: Path) -> None:
    [[before]] = patient.query(f"SELECT DISTINCT secret_fingerprint FROM nodes WHERE name = '{NAME}'")
    rotated = Deployment(scratch / "rotated", patient.database_url, {"node_name": "rotated"})
    (rotated.folder / "data").mkdir(parents=True)
    (rotated.folder / "data" / "secret").write_text("n" * 64)
    (rotated.folder / "data" / "secret").chmod(0o600)
    with rotated.start(previous_secret_file=patient.folder / "data" / "secret"):
        rotated.expect("secret", "error", f"{NAME}: {before}")
    secret, previous = patient.folder / "data" / "secret", rotated.folder / "data" / "secret"
    with rotated.start(secret_file=secret, previous_secret_file=previous):
        # The first secret protects the signing keys again.
        assert "secret" not in {finding["check"] for finding in patient.examine()}


def test_nodes_that_drain_are_lost_or_have_other_releases(patient: Deployment, scratch: Path) -> None:
    assert patient.server is not None
    management = patient.server.management()
    management.post(f"/nodes/{NAME}/drain")
    wait_until(lambda: management.get("/ready").status_code == 503)
    patient.expect("nodes", "warning", f"comms-api cluster resume {NAME}")
    patient.expect("addresses", "warning", "it is not ready for agents")
    management.post(f"/nodes/{NAME}/resume")
    wait_until(lambda: management.get("/health/ready").status_code == 200)
    other = Deployment(scratch / "patient", patient.database_url, {"node_name": "other"})
    with other.start() as server:
        patient.query("UPDATE nodes SET version = '0.0.9' WHERE name = 'other'")
        patient.expect("nodes", "warning", "upgrade the nodes one after another")
        server.stop(signal.SIGKILL)
        wait_until(lambda: any(node["state"] == "lost" for node in management.get("/nodes").json()))
        patient.expect("nodes", "warning", "comms-api cluster forget other")
    management.post("/nodes/other/forget")
    patient.expect_no_finding()


def test_a_duty_that_is_late(patient: Deployment) -> None:
    patient.query("ALTER TABLE revocations RENAME TO missing")
    wait_until(
        lambda: any("these duties are late" in finding["problem"] for finding in patient.examine()),
        says=patient.examine,
    )
    patient.query("ALTER TABLE missing RENAME TO revocations")
    patient.expect_no_finding()


def test_a_deployment_that_has_stopped(new_deployment: NewDeployment) -> None:
    deployment = new_deployment("stopped")
    with deployment.start():
        deployment.expect_no_finding()
    deployment.expect("nodes", "error", "start one: comms-api serve")


def test_too_few_open_files(new_deployment: NewDeployment) -> None:
    deployment = new_deployment("crowded")
    limit = shutil.which("prlimit")
    assert limit is not None
    with deployment.start(prefix=(limit, "--nofile=160:160")) as server:
        [[room]] = deployment.query("SELECT connections_maximum FROM nodes WHERE connections_maximum > 0")
        management = server.management()
        for number in range(int(room * 0.95)):
            server.enroll(management, f"agent-{number}")
        deployment.settings.pop("prefix")
        deployment.expect("open files", "warning", "raise LimitNOFILE")
        for number in range(room // 10):
            server.enroll(management, f"more-{number}")
        deployment.expect("open files", "error", "raise LimitNOFILE")


def test_addresses_and_certificates_that_clients_refuse(new_deployment: NewDeployment, scratch: Path) -> None:
    deployment, authority = new_deployment("refused"), trustme.CA()
    deployment.folder.mkdir()
    ca = deployment.folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    named = write_certificate(scratch / "tls", authority, "comms.example.org", expires_at=IN_A_YEAR)
    with deployment.start(**named) as server:
        trusted = ("--ca", str(ca))
        deployment.expect("addresses", "error", "its certificate is not valid for 127.0.0.1", *trusted)
        deployment.expect("addresses", "error", "its certificate is not trusted", "--url", "https://comms.example.org")
        [away] = free_ports(1)
        deployment.expect("addresses", "error", "no connection", *trusted, "--url", f"https://127.0.0.1:{away}")
        deployment.expect("addresses", "error", "no connection", *trusted, "--url", "https://comms.invalid")
        unreachable = deployment.examine(*trusted, "--url", "https://comms.example.org:1")
        assert [finding["subject"] for finding in unreachable] == ["https://comms.example.org:1"]
        write_certificate(scratch / "tls", authority, "127.0.0.1", expires_at=IN_A_YEAR)
        deployment.expect(
            "addresses",
            "warning",
            "another certificate than its file has",
            *trusted,
            "--url",
            "https://comms.example.org",
        )
        for days, status, words in ((3, "warning", "its certificate expires in 2 days"), (-1, "error", "has expired")):
            moment = datetime.now(UTC) + timedelta(days=days)
            write_certificate(scratch / "tls", authority, "127.0.0.1", expires_at=moment)
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda words=words: any(words in finding["problem"] for finding in deployment.examine(*trusted)))
            deployment.expect("addresses", status, words, *trusted)


def test_clients_without_a_certificate_are_refused_only_by_the_agent_api(
    new_deployment: NewDeployment, scratch: Path
) -> None:
    deployment, authority = new_deployment("mutual"), trustme.CA()
    authority.cert_pem.write_to_path(str(scratch / "agents.pem"))
    with deployment.start(client_certificates="required", client_ca=scratch / "agents.pem"):
        deployment.expect_no_finding()


def test_an_event_stream_that_is_away_missing_or_full(new_deployment: NewDeployment, scratch: Path) -> None:
    deployment = new_deployment("streaming")
    with nats_servers(scratch / "doctor-nats", 1) as [nats]:
        deployment.settings |= stream_settings([nats], 2**20)
        deployment.expect("event stream", "warning", "start a node, which creates it")
        with deployment.start() as server:
            deployment.expect_no_finding()
            agent_id = server.enroll(server.management(), "talks")
            agent, noise = server.log_in(agent_id), random.Random(1)  # noqa: S311 - no secret

            def is_full() -> bool:
                event = {"noise": noise.randbytes(30_000).hex()}
                return agent.post("/events/stateless", content=stateless(agent_id, event)).status_code == 503

            wait_until(is_full)
            deployment.expect("event stream", "warning", "raise nats_stream_bytes")
        nats.kill()
        deployment.expect("event stream", "error", "No server of NATS answers")
    deployment.expect("event stream", "error", "nats_servers", nats_servers="")


def test_a_server_of_a_replicated_stream_that_is_away(new_deployment: NewDeployment, scratch: Path) -> None:
    deployment = new_deployment("replicated")
    with nats_servers(scratch / "replicas", 3) as servers, deployment.start(**stream_settings(servers, 2**24)):
        deployment.expect_no_finding()
        servers[2].kill()
        wait_until(
            lambda: any("copies are not up to date" in finding["problem"] for finding in deployment.examine()),
            says=deployment.examine,
        )


@pytest.mark.parametrize("options", [("--url",), ("--ca", "missing.pem")])
def test_wrong_usage_is_another_exit_code(patient: Deployment, options: tuple[str, ...]) -> None:
    done: subprocess.CompletedProcess[str] = patient.run(*options)
    assert done.returncode == 2
