# Finds the interpreters of a host and lets each say what it is and what it sees, one line of
# JSON each.  POSIX sh, and nothing that a minimal system lacks.
# Arguments: the Python program that says it, and the arguments of that program.
set -u
LC_ALL=C
export LC_ALL
describe=$1
shift

if [ -d /run/systemd/system ] && systemctl show --property=Version >/dev/null 2>&1; then
    echo "pkengine systemd"
fi
# The system's interpreters first: what a user has put in front of them may go away.
seen=:
IFS=:
for folder in /usr/bin /usr/local/bin $PATH; do
    for name in python3 python3.10 python3.11 python3.12 python3.13 python3.14 python3.15; do
        python=$folder/$name
        [ -x "$python" ] || continue
        real=$(readlink -f -- "$python")
        case $seen in
        *":$real:"*) continue ;;
        esac
        seen=$seen$real:
        "$python" -I -S -c "$describe" "$@" </dev/null 2>/dev/null
    done
done
echo "pkengine end"
