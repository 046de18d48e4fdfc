#!/bin/sh
# Look at everything a recovery would need, and change nothing: scripts/dr-smoke-test.sh --environment prod
. "$(dirname "$0")/lib.sh"
exec "$bin/relight" smoke-test "$@"
