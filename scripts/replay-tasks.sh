#!/bin/sh
# Rebuild the task queue from the ledger: scripts/replay-tasks.sh --environment prod --since=2026-04-19T02:00:00Z
. "$(dirname "$0")/lib.sh"
exec "$bin/relight" replay "$@"
