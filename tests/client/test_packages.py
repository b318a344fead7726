"""The inventory of packages, from the databases of dpkg, apk and rpm."""

import json
import logging
import subprocess
from pathlib import Path

import pytest
from support.balancers import install

from comms_api.client.inventory import packages
from comms_api.client.inventory.collectors import collect_packages
from comms_api.client.inventory.packages import Package, PackageDatabases

DPKG = """Package: a
Status: install ok installed
Version: 1: 2
Architecture: all
Description: x
 Package: no

Package: half-configured
Status: install ok half-configured
Version: 3
Architecture: amd64

Package: triggered
Status: hold ok triggers-awaited
Version: 4
Architecture: amd64

Package: unpacked
Status: install ok unpacked
Version: 5
Architecture: amd64

Package: removed
Status: deinstall ok config-files
Version: 6

Package: broken
Status: install reinstreq half-installed
Version: 7
"""

APK = """C:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=
P:musl
V:1.2.5-r0
A:x86_64
T:the musl c library (libc) implementation
F:lib
R:ld-musl-x86_64.so.1

C:Q1l6nm8bMcnUO3Xr0bGTR8Dc0aPHY=
P:busybox
V:1.36.1-r29
A:x86_64

"""

SPEC = """Name: {name}
Epoch: 2
Version: {version}
Release: 1
Summary: x
License: MIT
BuildArch: noarch
%description
x
%files
"""


def database(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_dpkg_packages_whose_files_are_on_the_disk_are_listed(tmp_path: Path) -> None:
    assert list(PackageDatabases(tmp_path).read()) == []
    database(tmp_path, "var/lib/dpkg/status", DPKG)
    assert list(PackageDatabases(tmp_path).read()) == [
        Package("a", "1: 2", "all", "deb"),
        Package("half-configured", "3", "amd64", "deb"),
        Package("triggered", "4", "amd64", "deb"),
        Package("unpacked", "5", "amd64", "deb"),
    ]


def test_apk_packages_are_listed(tmp_path: Path) -> None:
    database(tmp_path, "lib/apk/db/installed", APK)
    assert [json.loads(document)["package"] for document in collect_packages(PackageDatabases(tmp_path)).values()] == [
        {"name": "musl", "version": "1.2.5-r0", "architecture": "x86_64", "type": "apk"},
        {"name": "busybox", "version": "1.36.1-r29", "architecture": "x86_64", "type": "apk"},
    ]


def test_rpm_packages_are_listed_with_every_version(tmp_path: Path) -> None:
    rpmbuild = install("rpmbuild")
    folder = tmp_path / "root" / "var/lib/rpm"
    folder.mkdir(parents=True)
    for name, version in (("kernel", "6.1"), ("kernel", "6.2"), ("tool", "1.0")):
        spec = database(tmp_path / f"{name}-{version}", "x.spec", SPEC.format(name=name, version=version))
        subprocess.run([rpmbuild, "-bb", "--quiet", "-D", f"_topdir {tmp_path}/top", spec], check=True)
    built = (tmp_path / "top").rglob("*.rpm")
    install_all = ["rpm", "--dbpath", folder, "-i", "--justdb", "--nodeps", "--force-debian", *built]
    subprocess.run(install_all, check=True)
    databases = PackageDatabases(tmp_path / "root")
    assert sorted((package.name, package.version) for package in databases.read()) == [
        ("kernel", "2:6.1-1"),
        ("kernel", "2:6.2-1"),
        ("tool", "2:1.0-1"),
    ]
    assert len(collect_packages(databases)) == 3


def test_a_missing_rpm_program_is_logged_once_and_other_packages_are_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database(tmp_path, "var/lib/dpkg/status", DPKG)
    database(tmp_path, "var/lib/rpm/rpmdb.sqlite", "")
    databases = PackageDatabases(tmp_path, lambda _: None)
    with caplog.at_level(logging.INFO):
        assert [len(list(databases.read())) for _ in range(3)] == [4, 4, 4]
    [record] = caplog.records
    assert f"{tmp_path}/var/lib/rpm exists, but its reader, the program rpm, does not" in record.getMessage()


@pytest.mark.parametrize("script", ["sleep 1000", "exit 3", "yes"])
def test_an_rpm_program_that_hangs_fails_or_prints_too_much_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(packages, "RPM_SECONDS", 0.5)
    monkeypatch.setattr(packages, "DATABASE_BYTES_MAXIMUM", 2**20)
    program = database(tmp_path, "bin/rpm", f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    database(tmp_path, "var/lib/rpm/Packages", "")
    with pytest.raises(OSError, match="ended with code"):
        list(PackageDatabases(tmp_path, lambda _: str(program)).read())
