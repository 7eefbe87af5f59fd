"""Drives an engine with oVirt's own Python SDK, as a script of a user would.

Run as a program with the URL, the certificate file, the user and the password file.  It
prints one JSON object with what the SDK made of the answers.
"""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import ovirtsdk4 as sdk
from ovirtsdk4 import types


def main(url: str, ca_file: str, user: str, password_file: str) -> dict[str, Any]:
    password = Path(password_file).read_text().strip()
    connection = sdk.Connection(
        url=url, username=user, password=password, ca_file=ca_file, timeout=60
    )
    found: dict[str, Any] = {}
    connection.test(raise_exception=True)
    system = connection.system_service()
    found["major"] = system.get().product_info.version.major
    hosts = system.hosts_service()
    events = system.events_service()
    found["hosts_before"] = len(hosts.list())
    last_event = int(events.list(max=1)[0].index)

    [cluster] = system.clusters_service().list(search="name=Default")
    found["data_center"] = connection.follow_link(cluster.data_center).name

    added = hosts.add(
        types.Host(
            name="sdk1",
            description="by the SDK",
            comment="c",
            address="192.0.2.1",
            override_iptables=True,
            port=54321,
            cluster=types.Cluster(name="Default"),
            ssh=types.Ssh(
                port=22,
                authentication_method=types.SshAuthenticationMethod.PASSWORD,
                user=types.User(user_name="root", password="x"),
            ),
            os=types.OperatingSystem(custom_kernel_cmdline=""),
            power_management=types.PowerManagement(kdump_detection=True),
            spm=types.Spm(priority=5),
        ),
        activate=True,
        reboot=False,
        headers={"Correlation-Id": "from-the-sdk"},
    )
    found["added_status"] = added.status.value
    host = hosts.host_service(added.id)
    wait(lambda: host.get().status == types.HostStatus.UP)

    read = host.get(all_content=True, follow="cluster,tags")
    found["read"] = {
        "name": read.name,
        "fingerprint": read.ssh.fingerprint,
        "public_key": read.ssh.public_key,
        "port": read.port,
        "memory": read.memory,
        "cores": read.cpu.topology.cores,
        "cmdline": read.os.custom_kernel_cmdline,
        "kdump_detection": read.power_management.kdump_detection,
        "priority": read.spm.priority,
        "update_available": read.update_available,
        "cluster": connection.follow_link(read.cluster).name,
        "nics": len(connection.follow_link(read.nics)),
        "statistics": len(connection.follow_link(read.statistics)),
        "tags": len(host.tags_service().list()),
        "permissions": len(host.permissions_service().list()),
    }
    found["searched"] = [
        one.name
        for one in hosts.list(search='name="sdk*" and status=up', max=5, case_sensitive=False)
    ]
    # A script reads an entity, changes it and sends all of it back.
    read.comment = "changed"
    found["updated"] = host.update(read).comment

    followed = hosts.list(follow="cluster,nics,permissions", search="name=sdk1")[0]
    found["followed"] = [
        followed.cluster.name,
        [nic.name for nic in followed.nics],
        [nic.mac.address for nic in followed.nics if nic.mac],
        [permission.role.name for permission in followed.permissions],
    ]
    found["collections"] = {
        name: len(getattr(host, f"{name}_service")().list())
        for name in (
            *("affinity_labels", "devices", "fence_agents", "hooks", "network_attachments"),
            *("nics", "numa_nodes", "permissions", "statistics", "storage", "tags"),
            *("katello_errata", "unmanaged_networks", "storage_connection_extensions"),
            "external_network_provider_configurations",
        )
    }

    host.refresh()
    host.enroll_certificate()
    found["power"] = host.fence(fence_type="status").status.value
    host.fence(fence_type="restart")
    found["no_power_management"] = failure(lambda: host.fence(fence_type="stop"))
    found["not_pending"] = failure(host.approve)
    found["absent_action"] = failure(host.force_select_spm)
    found["unknown_host"] = failure(hosts.host_service("no-host").activate)
    host.upgrade_check()
    found["update_available"] = host.get().update_available
    host.upgrade(reboot=False, timeout=1)
    wait(lambda: host.get().update_available is False)
    upgrades = events.list(search="type=842 or type=841 or type=888", max=10)
    found["upgraded"] = [(event.code, event.host.name) for event in upgrades]

    found["wrong_status"] = failure(lambda: host.install(root_password="x"))
    host.deactivate(reason="by the SDK")
    wait(lambda: host.get().status == types.HostStatus.MAINTENANCE)
    found["status_detail"] = host.get().status_detail
    host.install(ssh=types.Ssh(authentication_method=types.SshAuthenticationMethod.PUBLICKEY))
    found["status_after_install"] = host.get().status.value
    wait(lambda: host.get().status == types.HostStatus.MAINTENANCE)
    host.activate(async_=True)
    wait(lambda: host.get().status == types.HostStatus.UP)
    jobs = system.jobs_service().list()
    found["job_statuses"] = sorted({job.status.value for job in jobs})
    steps = [
        step
        for job in jobs
        for step in system.jobs_service().job_service(job.id).steps_service().list()
    ]
    found["steps"] = sorted({(step.description, step.status.value) for step in steps})
    host.deactivate()
    wait(lambda: host.get().status == types.HostStatus.MAINTENANCE)
    host.remove(force=True, async_=True)
    found["removed"] = failure(host.get)

    register(url, ca_file, address="192.0.2.7", uniqueId="4c4c4544", name="sdk2")
    [pending] = hosts.list(search="status=pending_approval")
    found["pending"] = [pending.name, pending.status.value]
    waiting = hosts.host_service(pending.id)
    found["not_approved"] = failure(waiting.activate)
    waiting.approve(
        activate=True,
        cluster=types.Cluster(name="Default"),
        host=types.Host(
            ssh=types.Ssh(authentication_method=types.SshAuthenticationMethod.PUBLICKEY)
        ),
        query={"correlation_id": "approved-by-the-sdk"},
    )
    wait(lambda: waiting.get().status == types.HostStatus.UP)
    found["approved"] = [
        (event.code, event.user.user_name if event.user else "")
        for event in events.list(search="correlation_id=approved-by-the-sdk and type=498")
    ]
    waiting.deactivate()
    wait(lambda: waiting.get().status == types.HostStatus.MAINTENANCE)
    waiting.remove()

    seen = events.list(from_=last_event, max=1000)
    found["events"] = [(event.code, event.host.name if event.host else None) for event in seen]
    found["correlated"] = sorted(
        {event.code for event in seen if event.correlation_id == "from-the-sdk"}
    )
    found["unknown_cluster"] = failure(
        lambda: hosts.add(
            types.Host(name="x", address="192.0.2.9", cluster=types.Cluster(name="none"))
        )
    )
    found["incomplete"] = failure(lambda: hosts.add(types.Host(name="x")))
    # A token that ended: the SDK logs in again without being asked to.
    connection._sso_token = "ended"
    found["hosts_after"] = len(hosts.list())
    connection.close()
    found["wrong_password"] = failure(
        lambda: sdk.Connection(url=url, username=user, password="wrong", ca_file=ca_file).test(
            raise_exception=True
        )
    )
    return found


def register(url: str, ca_file: str, **parameters: str) -> None:
    """Let a host ask to be managed, as `vdsm-tool register` does."""
    query = urlencode({"version": "1", "command": "register", **parameters})
    with urlopen(
        f"{url.removesuffix('/api')}/services/host-register?{query}",
        context=ssl.create_default_context(cafile=ca_file),
    ) as answer:
        assert answer.read() == b"OK\n"


def failure(function: Callable[[], Any]) -> tuple[str, int | None, str]:
    try:
        function()
    except sdk.Error as error:
        detail = error.fault.detail if error.fault is not None else str(error)
        return type(error).__name__, error.code, detail
    raise AssertionError("The call was accepted.")


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("It did not happen in time.")
        time.sleep(0.02)


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
