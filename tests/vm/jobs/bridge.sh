#!/bin/sh
# Bridges, their ports and VLANs: the host tier's tests of them, on a kernel that filters VLANs.
exec /docklet/tests/host bridge --include-ignored --test-threads=2
