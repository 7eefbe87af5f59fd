"""The trial of a version: started, watched, and kept or given up.

Theory of operation.  A version on trial runs while the one before it stays the one in use:
``current`` leads to that, and so does the unit that starts it at boot.  Whatever breaks off a
trial, the host comes up with the version before::

    in use: 1 --- stop 1, start 2 ---> on trial: 2 --- confirmed ---> in use: 2
       ^                                   |
       +-- stop 2, start 1 <-- not confirmed in time, or it does not start

The process that does it has to outlive the agent, so it is no child of the agent's service.
Should it be killed, the agent on trial notices at the end of the trial that nobody watches it,
and starts `give_up`.
"""

from __future__ import annotations

import time
from typing import Any

from pkengine.on_host.files import locked
from pkengine.on_host.services import SystemdTrial, TwistdTrial, restart_agent, stop_agent
from pkengine.on_host.step import StepFailed, last_words
from pkengine.on_host.trial_record import GIVEN_UP, KEPT, TRYING, TrialRecord
from pkengine.on_host.versions import put_in_use

_POLL_S = 0.1


def try_version(
    *,
    prefix: str,
    state: str,
    bundle: str,
    port: int,
    unit: dict[str, str] | None,
    command: str | None,
    timeout_s: float,
) -> dict[str, Any]:
    """Run a version that was checked, and put it in use once it is confirmed.

    Args:
        prefix: the folder of the versions.
        state: the agent's state folder.
        bundle: the hash of the version.
        port: where it listens on demand, under twistd.
        unit: the systemd unit for it, or None for twistd.
        command: where a link to ``pkagent`` is made for people, or None.
        timeout_s: how long the confirmation is waited for.
    """
    record = TrialRecord(state)
    with record.watching() as is_alone, locked(prefix):
        if not is_alone:
            raise StepFailed("another version is on trial.")
        record.forget_confirmation()
        until = time.time() + timeout_s
        record.note(bundle, TRYING, until=until)
        service = _service(prefix, state, bundle, port, unit)
        try:
            restart_agent(service, prefix, state, bundle, None)
            _await_confirmation(record, bundle, timeout_s)
            put_in_use(prefix, bundle, command)
        except (StepFailed, OSError) as failure:
            _give_up(record, service, prefix, state, bundle, str(failure))
            raise
        service.keep()
        record.note(bundle, KEPT)
    return {}


def give_up(
    *, prefix: str, state: str, bundle: str, port: int, unit: dict[str, str] | None
) -> dict[str, Any]:
    """End the trial of a version that nobody watches any more."""
    record = TrialRecord(state)
    with record.watching() as is_alone, locked(prefix):
        if not is_alone:
            raise StepFailed("somebody is at work on it.")
        service = _service(prefix, state, bundle, port, unit)
        reason = "what watched the trial of the new version ended."
        _give_up(record, service, prefix, state, bundle, reason)
    return {}


def _service(
    prefix: str, state: str, bundle: str, port: int, unit: dict[str, str] | None
) -> SystemdTrial | TwistdTrial:
    if unit is None:
        return TwistdTrial(prefix, state, port, bundle)
    return SystemdTrial(unit, prefix, bundle)


def _await_confirmation(record: TrialRecord, bundle: str, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not record.is_confirmed(bundle):
        if time.monotonic() > end:
            raise StepFailed(f"the engine did not confirm it within {timeout_s:g} s.")
        time.sleep(_POLL_S)


def _give_up(
    record: TrialRecord,
    service: SystemdTrial | TwistdTrial,
    prefix: str,
    state: str,
    bundle: str,
    reason: str,
) -> None:
    """Start again what ran before; note why before that can be asked.

    Whether it runs, it tells itself.  While the machine shuts down it cannot be started, and
    comes up with the next start.
    """
    stop_agent(service, prefix, state)
    record.note(bundle, GIVEN_UP, reason)
    if not service.start_former():
        words = last_words(service.words())
        raise StepFailed(f"{reason} What ran before does not start any more either: {words}")
