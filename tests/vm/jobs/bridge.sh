#!/bin/sh
# Bridges, their ports and VLANs: the host tier's tests of them, on a kernel that filters VLANs. By their modules: a test of
# GRE that speaks of bridges would load it, and each network namespace would get `gre0` and others, in the middle of tests.
exec /docklet/tests/host bridge:: bridge_ports:: bridge_vlan:: --include-ignored --test-threads=2
