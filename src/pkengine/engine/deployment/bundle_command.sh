#!/bin/sh
# Starts the command that this file is named for, with the agent's own packages.
set -eu
version=$(readlink -f -- "$0")
version=${version%/bin/*}
if ! [ -x "$version/bin/python3" ]; then
    echo "pkagent: $(readlink "$version/bin/python3"), which this agent was installed for, is gone: install the host anew." >&2
    exit 1
fi
PKAGENT_BUNDLE=${version##*/}
export PKAGENT_BUNDLE
# -I and -S: nothing from the environment, the user's folder or site-packages gets in.
exec "$version/bin/python3" -I -S "$version/lib" "${0##*/}" "$@"
