#!/bin/sh
# Runs jobs of the VM tier: each in a guest of its own, over as many boots as it asks for, and never for ever.
# Usage: run.sh [--list] [JOB ...]      without a job: those marked "always"
set -eu
cd "$(dirname "$0")/../.."

# name, script, control groups, seconds that one boot may take, whether it runs unasked
jobs="
fresh-v2    fresh    v2  180 always
recover-v2  recover  v2  180 always
grow-v2     grow     v2  180 always
host-v2     host     v2  900 asked
host-v1     host     v1  900 asked
"

fail() {
    echo "vm: $*" >&2
    exit 1
}
now() { cut -d' ' -f1 /proc/uptime; }
since() { echo "$(now) $1" | awk '{ printf "%.1f", $1 - $2 }'; }

image=target/vm/image
run=$PWD/target/vm/run

build() {
    dir=$(scripts/find-cargo.sh) || fail "no cargo: run 'make test' as root, it installs one"
    PATH="$dir:$PATH" cargo build --quiet --examples
    built=$(PATH="$dir:$PATH" cargo test --no-run --test host --test vm 2>&1) || fail "$built"
    payload=$run/payload
    [ ! -e "$payload" ] || rm -r --one-file-system "$payload"
    mkdir -p "$payload/bin" "$payload/vm"
    for test in host vm; do
        binary=$(echo "$built" | sed -n "s/.*(\(.*\/$test-[0-9a-f]*\))$/\1/p")
        cp "$binary" "$payload/bin/$test"
    done
    for example in doctor quickstart recover; do cp "target/debug/examples/$example" "$payload/bin/"; done
    cp -r tests/vm/init.sh tests/vm/jobs "$payload/vm/"
    scripts/vm-tool.sh /usr/bin/mksquashfs "$payload" "$run/payload.squashfs" -noI -noD -noF -noX -noappend \
        -quiet -no-progress >"$run/mksquashfs.log" 2>&1 || fail "$(cat "$run/mksquashfs.log")"
}

# One boot. $1 job, $2 script, $3 control groups, $4 seconds, $6 stage. What the guest prints goes to standard output.
boot() {
    case "$3" in
        v1) cgroups="cgroups=v1 cgroup_enable=memory swapaccount=1" ;;
        *) cgroups="cgroups=v2 cgroup_no_v1=all" ;;
    esac
    tools=$image/tools
    # Its memory is the guest's disks' cache: a guest that ends without writing loses what it has not written.
    QEMU_MODULE_DIR=$tools/usr/lib/x86_64-linux-gnu/qemu timeout -k 10 "$4" scripts/vm-tool.sh /usr/bin/qemu-system-x86_64 \
        -L "$tools/usr/share/qemu" -L "$tools/usr/share/seabios" \
        -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 2048 -nodefaults -no-reboot -display none \
        -kernel "$image/vmlinuz" -initrd "$image/initrd" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check apparmor=0 $cgroups job=$2 stage=$6" \
        -drive "if=none,id=root,format=raw,readonly=on,file=$image/root.squashfs" \
        -device virtio-blk-pci,drive=root,serial=root \
        -drive "if=none,id=payload,format=raw,readonly=on,file=$run/payload.squashfs" \
        -device virtio-blk-pci,drive=payload,serial=payload \
        -drive "if=none,id=data,format=raw,cache=unsafe,discard=unmap,file=$run/$1.img" \
        -device virtio-blk-pci,drive=data,serial=data \
        -device virtio-serial-pci -chardev stdio,id=console,signal=off -device virtconsole,chardev=console \
        -serial "file:$run/$1.serial" </dev/null 2>&1 | sed -u 's/\r//g'
}

# All boots of one job. Its status is that of the last stage; none is a failure.
job() {
    rm -f "$run/$1.img" "$run/$1.log"
    truncate -s 8G "$run/$1.img"
    stage=1
    while [ "$stage" -le 9 ]; do
        boot "$@" "$stage" | tee "$run/$1.boot"
        cat "$run/$1.boot" >>"$run/$1.log"
        word=$(sed -n 's/^@vm \(exit [0-9]*\|reboot\|cut\)$/\1/p' "$run/$1.boot" | tail -n 1)
        case "$word" in
            reboot | cut) stage=$((stage + 1)) ;;
            "exit 0") rm -f "$run/$1.img"; return 0 ;;
            exit*) return 1 ;;
            *)
                echo "vm: the guest of $1 said no last word within $4 s; its kernel's:"
                tail -n 30 "$run/$1.serial"
                return 1
                ;;
        esac
    done
    echo "vm: $1 asks for ever more boots"
    return 1
}

[ "${1:-}" != --list ] || { echo "$jobs" | awk 'NF { print $1 }'; exit; }
[ "$(id -u)" = 0 ] || fail "needs root: the image is built by it"
scripts/vm-image.sh
mkdir -p "$run"
build
wanted=${*:-$(echo "$jobs" | awk '$5 == "always" { print $1 }')}
passed=0 failed=0 table='' begin=$(now)
for name in $wanted; do
    row=$(echo "$jobs" | awk -v name="$name" '$1 == name')
    [ -n "$row" ] || fail "no job called $name; $0 --list"
    printf '\n== %s\n' "$name"
    started=$(now)
    # shellcheck disable=SC2086
    if job $row; then word=passed; else word=FAILED; fi
    # Results of tests stand anywhere in a line when several print at once.
    grep -oE 'test [A-Za-z0-9_:]+ \.\.\. (ok|FAILED)' "$run/$name.log" >"$run/$name.tests" || true
    ok=$(grep -c 'ok$' "$run/$name.tests" || true)
    bad=$(grep -c 'FAILED$' "$run/$name.tests" || true)
    # A job that died, or was never heard of, is a failure of its own.
    [ "$word $bad" != "FAILED 0" ] || bad=1
    [ "$word $bad $ok" != "passed 0 0" ] || { word=FAILED; bad=1; }
    passed=$((passed + ok)) failed=$((failed + bad))
    table="$table$(printf '%-12s %-7s %4d passed %4d failed %8s s' "$name" "$word" "$ok" "$bad" "$(since "$started")")
"
done
printf '\n%s\n' "$table"
word=ok
[ "$failed" = 0 ] || word=FAILED
echo "test result: $word. $passed passed; $failed failed; 0 ignored; finished in $(since "$begin") s"
[ "$failed" = 0 ]
