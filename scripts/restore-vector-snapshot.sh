#!/bin/sh
# Restore the vector memory: scripts/restore-vector-snapshot.sh --environment prod --snapshot=20260419T020000Z
. "$(dirname "$0")/lib.sh"
exec "$bin/relight" restore "$@"
