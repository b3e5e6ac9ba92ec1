#!/bin/sh
# Runs a program of the VM tier's own tools, with their libraries, whatever this system has installed.
# Usage: vm-tool.sh /usr/bin/PROGRAM ARGUMENT ...     VM_TOOLS: their root, else that of target/vm/image
set -eu
tools=${VM_TOOLS:-$(dirname "$0")/../target/vm/image/tools}
name=$1
shift
# By hand, since an absolute link is one within the tools' root.
program=$name
while [ -L "$tools$program" ]; do
    link=$(readlink "$tools$program")
    case "$link" in
        /*) program=$link ;;
        *) program=$(dirname "$program")/$link ;;
    esac
done
# The name is kept: depmod and modprobe are one program, which goes by it.
exec "$tools/lib64/ld-linux-x86-64.so.2" --argv0 "$name" \
    --library-path "$tools/lib/x86_64-linux-gnu:$tools/usr/lib/x86_64-linux-gnu" "$tools$program" "$@"
