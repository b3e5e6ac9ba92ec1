#!/bin/sh
# Networks with NAT, published ports, rates, both families and tunnels, and the containers in them: as they were after one
# `recover`, by the kernel's word, after a clean reboot, a power cut, and after all links and rules were deleted.
# shellcheck source=tests/vm/jobs/lib.sh
. /docklet/vm/jobs/lib.sh

# What is not docklet's: both families, as the operator has them set; and another host, on the other end of the tunnels.
world() {
    echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
    outside
    ip address add 2001:db8:1::1/64 dev wan nodad
    ip -n outside address add 2001:db8:1::2/64 dev eth0 nodad
    ip -n outside route add 10.78.0.0/24 via 192.0.2.1
    ip netns add far
    ip link add under type veth peer name eth0 netns far
    ip address add 198.51.100.1/24 dev under
    ip link set under up
    ip -n far address add 198.51.100.2/24 dev eth0
    ip -n far link set eth0 up
    ip -n far link add wide type vxlan id 7 dstport 4789 local 198.51.100.2 remote 198.51.100.1
    ip -n far link add deep type gretap key 9 local 198.51.100.2 remote 198.51.100.1
    ip -n far address add 10.79.0.77/24 dev wide
    ip -n far address add 10.80.0.77/24 dev deep
    ip -n far link set wide mtu 1450 up
    ip -n far link set deep mtu 1458 up
}

# By the kernel's word.
nothing_is_left() {
    left=$(
        ip -o link show | grep docklet
        nft list tables | grep docklet
        grep "$FS_PREFIX/" /proc/self/mountinfo
        find "$FS_PREFIX/local/manifests" "$FS_PREFIX/local/networks" -mindepth 1
    )
    [ -z "$left" ] || { echo "$left"; return 1; }
}

world
case "$STAGE" in
    1)
        tell networks_made vm --step network-make
        exit "$CLEAN"
        ;;
    2)
        tell networks_recovered_after_a_clean_reboot vm --step network-back
        exit "$CUT"
        ;;
    3)
        tell networks_recovered_after_a_power_cut vm --step network-back
        tell networks_recovered_after_a_flush vm --step network-flush
        tell removed vm --step remove
        tell nothing_is_left nothing_is_left
        ;;
esac
