#!/bin/sh
# The storage tier but logical volumes, which have a job of their own.
exec /docklet/tests/storage --include-ignored --test-threads=2 --skip lvm_
