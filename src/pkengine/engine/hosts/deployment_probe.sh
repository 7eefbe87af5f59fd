# Says what a host has, one fact a line: "pkengine NAME VALUE".  POSIX sh, and nothing that a
# minimal system lacks.
# Arguments: the Python program by which an interpreter describes itself; the folder for the
# whole system; the folder for one user, below the home.
set -u
LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
describe=$1
system=$2
own=$HOME/$3

say() {
    printf 'pkengine %s %s\n' "$1" "$2"
}

# The room, in KiB, on the file system where a folder is or will be.
free_kib() {
    folder=$1
    until [ -d "$folder" ]; do
        folder=$(dirname -- "$folder")
    done
    df -Pk -- "$folder" | {
        read -r _
        read -r _ _ _ free _
        echo "$free"
    }
}

# Which versions are in a folder, and which of them is in use.
say_installed() {
    for version in "$2"/versions/*; do
        [ -d "$version" ] && say "$1-version" "${version##*/}"
    done
    current=$(readlink -- "$2/current") && say "$1-current" "${current##*/}"
}

say uid "$(id -u)"
say home "$HOME"
say machine "$(uname -m)"
if [ -d /run/systemd/system ] && systemctl show --property=Version >/dev/null 2>&1; then
    say init systemd
fi
say system-free "$(free_kib "$system")"
say_installed system "$system"
say own-free "$(free_kib "$own")"
[ -d "$own" ] && say own-folder "$own"
say_installed own "$own"

# The system's interpreters first: what a user has put in front of them may go away.
seen=:
for name in python3 python3.10 python3.11 python3.12 python3.13 python3.14 python3.15; do
    for python in "/usr/bin/$name" "/usr/local/bin/$name" "$(command -v "$name")"; do
        [ -x "$python" ] || continue
        real=$(readlink -f -- "$python")
        case $seen in
        *":$real:"*) continue ;;
        esac
        seen=$seen$real:
        if found=$("$python" -I -S -c "$describe" 2>/dev/null </dev/null); then
            say python "$found"
        fi
    done
done
