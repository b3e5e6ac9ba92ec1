#!/bin/sh
# A machine that has just started: the host's report, and the quickstart, which must load what it needs.
# shellcheck source=tests/vm/jobs/lib.sh
. /docklet/vm/jobs/lib.sh

overlay_is_absent() { ! grep -q '^overlay ' /proc/modules; }
overlay_is_loaded() { grep -q '^overlay ' /proc/modules; }

tell overlay_is_not_loaded_before overlay_is_absent
tell doctor doctor
tell quickstart quickstart
tell overlay_was_loaded overlay_is_loaded
