#!/bin/sh
# Starts an unmodified `twistd web` that answers only peers it trusts, fetches a page from it,
# takes the peer's line out of the trust folder while it runs, and is refused.
#
# Usage: protect_web_site.sh [PORT]; pkengine must be installed in the environment.
set -eu
port=${1:-8443}
examples=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
cd "$work"
site=

finish() {
    if [ -n "$site" ]; then
        kill "$site" && wait "$site" || :
    fi 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT

# Each end makes its key; each gets the other's line.
pkengine-auth keygen site >pin
pkengine-auth keygen reader >pin
pkengine-auth trust add site "$(pkengine-auth pin reader --line reader)"
pkengine-auth trust add reader "$(pkengine-auth pin site --line site)"

mkdir pages
echo 'Hello, trusted reader.' >pages/index.html
twistd --nodaemon --pidfile= --logfile=site.log web --path pages \
    --listen "pk:tcp\:$port\:interface\=127.0.0.1:trust=$work/site" &
site=$!

fetch() {
    python "$examples/fetch_page.py" \
        "pk:tcp\:127.0.0.1\:$port:trust=$work/reader:peer=site" /index.html
}

tries=0
until fetch 2>error; do
    tries=$((tries + 1))
    [ $tries -lt 50 ] || { cat error site.log; exit 1; }
    sleep 0.1
done

pkengine-auth trust remove site "$(pkengine-auth pin reader)"
if fetch 2>error; then
    echo 'A page was fetched without trust.'
    exit 1
fi
echo 'Refused, as soon as the line was removed:'
cat error
