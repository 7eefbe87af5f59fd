"""Leads a real host through its life with oVirt's own Python SDK, as a user's script would.

Run as a program with the URL, the certificate file, the password file, and the host's address,
fingerprint and password file.  It prints each status that it waited for.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import ovirtsdk4 as sdk
from ovirtsdk4 import types


def main(
    url: str, ca_file: str, password_file: str, address: str, fingerprint: str, host_password: str
) -> None:
    connection = sdk.Connection(
        url=url,
        username="admin@internal",
        password=Path(password_file).read_text().strip(),
        ca_file=ca_file,
    )
    hosts = connection.system_service().hosts_service()

    def add(fingerprint: str) -> types.Host:
        return hosts.add(
            types.Host(
                name="real",
                address=address,
                root_password=Path(host_password).read_text(),
                ssh=types.Ssh(fingerprint=fingerprint),
                cluster=types.Cluster(name="Default"),
            )
        )

    try:
        add("SHA256:" + "A" * 43)
    except sdk.Error as error:
        print("refused", error.code, len(hosts.list()))
    service = hosts.host_service(add(fingerprint).id)

    def wait_for(status: types.HostStatus) -> None:
        deadline = time.monotonic() + 120
        while (found := service.get()).status != status:
            if time.monotonic() > deadline or found.status == types.HostStatus.INSTALL_FAILED:
                raise SystemExit(f"{found.status}: {found.status_detail}")
            time.sleep(0.2)
        print(status.value)

    wait_for(types.HostStatus.UP)
    print("memory", (service.get().memory or 0) > 0)
    service.deactivate(reason="a test")
    wait_for(types.HostStatus.MAINTENANCE)
    service.install(
        ssh=types.Ssh(authentication_method=types.SshAuthenticationMethod.PUBLICKEY),
        activate=True,
    )
    wait_for(types.HostStatus.UP)
    service.deactivate()
    wait_for(types.HostStatus.MAINTENANCE)
    service.remove()
    print("left", len(hosts.list()))
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
