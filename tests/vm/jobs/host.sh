#!/bin/sh
# The host tier, as it is.
exec /docklet/tests/host --include-ignored
