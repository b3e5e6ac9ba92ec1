#!/bin/sh
# A sample of the SIGKILL matrix of volumes on thin LVM.
# shellcheck source=tests/vm/jobs/lib.sh
. /docklet/vm/jobs/lib.sh

unwatched
modprobe -a loop dm_thin_pool
exec /docklet/tests/kill --lvm --sample-seconds 600
