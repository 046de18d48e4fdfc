# Sourced by the commands beside it: finds a Python, prepares .venv, and leaves $root and $bin behind.
root=$(cd "$(dirname "$0")/.." && pwd)
bin="$root/.venv/bin"
for python in "${PYTHON:-}" python3 python3.11 python3.12 python3.13; do
    [ -n "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    python=
done
[ -n "$python" ] || { echo "setup: Python 3.11 or newer is needed and none is on the PATH; set PYTHON to one" >&2; exit 1; }
"$python" "$root/scripts/setup.py" || exit 1
