#!/bin/sh
# The storage tier but logical volumes and quotas, which have jobs of their own.
exec /docklet/tests/storage --include-ignored --test-threads=2 --skip lvm_ --skip quota_
