#!/bin/sh
# The SIGKILL matrix of volumes that are directories with project quotas, on ext4 and xfs.
# shellcheck source=tests/vm/jobs/lib.sh
. /docklet/vm/jobs/lib.sh

exec /docklet/tests/kill --quotas --full
