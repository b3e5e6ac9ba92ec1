#!/bin/sh
# Tunnels over GRE, on a machine that has not loaded it yet: the first tunnel does.
# shellcheck source=tests/vm/jobs/lib.sh
. /docklet/vm/jobs/lib.sh

# Otherwise each network namespace gets `gre0`, `gretap0` and `erspan0` with the module, those of the tests too.
echo 2 >/proc/sys/net/core/fb_tunnels_only_for_init_net
tell not_loaded_yet [ ! -d /sys/module/ip_gre ]
/docklet/tests/host gre_ --include-ignored --test-threads=1 || exit 1
tell loaded_by_itself [ -d /sys/module/ip_gre ]
exec /docklet/tests/host tunnel:: --include-ignored --test-threads=2 --skip gre_
