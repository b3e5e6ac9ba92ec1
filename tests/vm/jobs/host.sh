#!/bin/sh
# The host tier, as it is.
exec /docklet/bin/host --include-ignored
