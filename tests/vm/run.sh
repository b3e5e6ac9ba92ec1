#!/bin/sh
# Runs jobs of the VM tier: each in a guest of its own, over as many boots as it asks for, and never for ever.
# However the runner ends, its guest ends with it. Runners do not meet: each has a directory of its own.
# Usage: run.sh [--keep] [--all | JOB ...]     without a job: those marked "always"
#        run.sh [--keep] --run COMMAND [KIND]  a shell command in a guest, as long as it takes; its status is the runner's
#        run.sh --list                         jobs, kinds of guest, seconds one boot may take, when they run
# --keep leaves the disks of the guests for a look.
set -eu
cd "$(dirname "$0")/../.."

# name, script, kind of guest (v1 and v2: control groups; apparmor: v2 with it on; systemd: v2, and it is the init), seconds that one boot may take, when
jobs="
fresh-v2    fresh    v2        300 always
recover-v2  recover  v2        300 always
grow-v2     grow     v2        300 always
network-v2  network  v2        300 all
recover-v1  recover  v1        300 all
apparmor-v2 apparmor apparmor  900 all
storm-v2    storm    v2        600 all
boot-v2     boot     systemd   900 all
lvm-v2      lvm      v2       5400 all
quota-v2    quota    v2       5400 all
bridge-v2   bridge   v2       1800 all
kill-lvm-v2 kill-lvm v2       3600 all
kill-quota-v2 kill-quota v2   1800 all
gre-v2      gre      v2       1200 all
storage-v2  storage  v2       5400 all
host-v2     host     v2       5400 all
host-v1     host     v1       5400 all
"

fail() {
    echo "vm: $*" >&2
    exit 1
}
now() { cut -d' ' -f1 /proc/uptime; }
since() { echo "$(now) $1" | awk '{ printf "%.1f", $1 - $2 }'; }

image=target/vm/image
runs=$PWD/target/vm/run
run=$runs/$$
guest=
keep=

# Whatever ends the runner ends its guest, and takes the large files away. What it printed stays until the next run.
# A runner that is killed outright has no last act: the guest asked the kernel for a signal at its parent's death.
end() {
    trap '' INT TERM HUP
    [ -z "$guest" ] || kill "$guest" 2>/dev/null || true
    [ -z "$guest" ] || wait "$guest" || true
    [ -n "$keep" ] || rm -rf --one-file-system "$run/payload" "$run"/*.img "$run"/*.squashfs "$run/console"
}

begin_run() {
    mkdir -p "$runs"
    for old in "$runs"/*; do
        # This runner's own number may have been that of an earlier one.
        if [ "$old" = "$run" ] || ! kill -0 "$(basename "$old")" 2>/dev/null; then
            rm -rf --one-file-system "$old"
        fi
    done
    mkdir "$run"
    mkfifo "$run/console"
    trap end EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# What the guest has of the project: every test program with a directory of its own, every example, the jobs.
payload() {
    dir=$(scripts/find-cargo.sh) || fail "no cargo: run 'make test' as root, it installs one"
    tests=$(for main in tests/*/main.rs; do basename "$(dirname "$main")"; done)
    # shellcheck disable=SC2046,SC2086
    built=$(PATH="$dir:$PATH" cargo test --features full --no-run $(printf -- '--test %s ' $tests) 2>&1) || fail "$built"
    PATH="$dir:$PATH" cargo build --features full --quiet --examples
    # Laid out as cargo does: a test finds the examples beside its own directory.
    mkdir -p "$run/payload/tests" "$run/payload/examples" "$run/payload/vm"
    for test in $tests; do
        binary=$(echo "$built" | sed -n "s/.*tests\/$test\/main.rs (\(.*\))$/\1/p")
        strip --strip-debug -o "$run/payload/tests/$test" "$binary"
    done
    for example in examples/*.rs; do
        name=$(basename "$example" .rs)
        strip --strip-debug -o "$run/payload/examples/$name" "target/debug/examples/$name"
    done
    cp -r tests/vm/init.sh tests/vm/jobs "$run/payload/vm/"
    cp -r dist "$run/payload/"
    printf '. /docklet/vm/jobs/lib.sh\n%s\n' "$command" >"$run/payload/vm/jobs/command.sh"
    scripts/vm-tool.sh /usr/bin/mksquashfs "$run/payload" "$run/payload.squashfs" -noI -noD -noF -noX -noappend \
        -quiet -no-progress >"$run/mksquashfs.log" 2>&1 || fail "$(cat "$run/mksquashfs.log")"
    rm -r --one-file-system "$run/payload"
}

# One boot. $1 job, $2 script, $3 kind, $4 seconds, $6 stage. What the guest prints goes to standard output and $1.boot.
boot() {
    case "$3" in
        v1) words="apparmor=0 cgroups=v1 cgroup_enable=memory swapaccount=1" ;;
        v2) words="apparmor=0 cgroups=v2" ;;
        systemd) words="apparmor=0 cgroups=v2 manager=systemd systemd.getty_auto=no" ;;
        apparmor) words="apparmor=1 security=apparmor cgroups=v2" ;;
        *) fail "no kind of guest is called $3" ;;
    esac
    sed -u 's/\r//g' <"$run/console" | tee "$run/$1.boot" &
    reader=$!
    tools=$image/tools
    # Without KVM the clock by TSC runs several times too fast if this machine was busy when the guest measured it.
    # The processor lacks what costs an emulated one most: microcoded copies, a fifth level of tables, guarded accesses.
    # The outer signal is for a runner that is gone, the inner one for a time-out that is.
    # Its memory is the guest's disks' cache: a guest that ends without writing loses what it has not written.
    QEMU_MODULE_DIR=$tools/usr/lib/x86_64-linux-gnu/qemu setpriv --pdeathsig TERM timeout -k 10 "$4" \
        setpriv --pdeathsig KILL scripts/vm-tool.sh /usr/bin/qemu-system-x86_64 \
        -L "$tools/usr/share/qemu" -L "$tools/usr/share/seabios" \
        -machine q35 -accel tcg,thread=multi -cpu max,-erms,-la57,-smap,-smep -smp 2 -m 2048 -nodefaults -no-reboot -display none \
        -kernel "$image/vmlinuz" -initrd "$image/initrd" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off tsc=unstable no_timer_check $words job=$2 stage=$6" \
        -drive "if=none,id=root,format=raw,readonly=on,file=$image/root.squashfs" \
        -device virtio-blk-pci,drive=root,serial=root \
        -drive "if=none,id=payload,format=raw,readonly=on,file=$run/payload.squashfs" \
        -device virtio-blk-pci,drive=payload,serial=payload \
        -drive "if=none,id=data,format=raw,cache=unsafe,discard=unmap,file=$run/$1.img" \
        -device virtio-blk-pci,drive=data,serial=data \
        -device virtio-serial-pci -chardev stdio,id=console,signal=off -device virtconsole,chardev=console \
        -serial "file:$run/$1.serial" </dev/null >"$run/console" 2>&1 &
    guest=$!
    wait "$guest" || true
    guest=
    wait "$reader"
}

# All boots of one job. Its status is that of the last stage; none is a failure.
job() {
    : >"$run/$1.log"
    truncate -s 8G "$run/$1.img"
    stage=1
    status=1
    while [ "$stage" -le 9 ]; do
        boot "$@" "$stage"
        cat "$run/$1.boot" >>"$run/$1.log"
        word=$(sed -n 's/^@vm \(exit [0-9]*\|reboot\|cut\)$/\1/p' "$run/$1.boot" | tail -n 1)
        case "$word" in
            reboot | cut) stage=$((stage + 1)) ;;
            exit*) status=${word#exit }; break ;;
            *)
                echo "vm: the guest of $1 said no last word within $4 s; its kernel's:" | tee -a "$run/$1.log"
                tail -n 30 "$run/$1.serial" | tee -a "$run/$1.log"
                break
                ;;
        esac
    done
    [ "$stage" -le 9 ] || echo "vm: $1 asks for ever more boots" | tee -a "$run/$1.log"
    rm -f "$run/$1.boot"
    [ -n "$keep" ] || rm -f "$run/$1.img"
    return "$status"
}

count() { grep -c "$2\$" "$run/$1.tests" || true; }

all=
command=
kind=v2
while [ $# -gt 0 ]; do
    case "$1" in
        --list) echo "$jobs" | awk 'NF { printf "%-12s %-9s %5d s  %s\n", $1, $3, $4, $5 }'; exit ;;
        --keep) keep=yes ;;
        --all) all=yes ;;
        --run)
            [ $# -ge 2 ] || fail "--run needs a command"
            command=$2 kind=${3:-v2}
            break
            ;;
        -*) fail "no option $1; see the head of $0" ;;
        *) break ;;
    esac
    shift
done
wanted=${*:-$(echo "$jobs" | awk -v all="$all" 'NF && (all || $5 == "always") { print $1 }')}
row() { echo "$jobs" | awk -v name="$1" '$1 == name'; }
[ -n "$command" ] || for name in $wanted; do
    [ -n "$(row "$name")" ] || fail "no job called $name; $0 --list"
done
[ "$(id -u)" = 0 ] || fail "needs root: the image is built by it"
scripts/vm-image.sh
# Shared: whoever wants to build another image waits.
exec 8<>target/vm/image.lock
flock --shared 8
begin_run
payload

if [ -n "$command" ]; then
    status=0
    job command command "$kind" 86400 asked || status=$?
    exit "$status"
fi

passed=0 failed=0 ignored=0 table='' bad_jobs='' begin=$(now)
echo "vm: $(cat "$image/about")"
for name in $wanted; do
    printf '\n== %s\n' "$name"
    started=$(now)
    # shellcheck disable=SC2046
    if job $(row "$name"); then word=passed; else word=FAILED; fi
    # Results of tests stand anywhere in a line when several print at once.
    grep -oE 'test [A-Za-z0-9_:]+ \.\.\. (ok|FAILED|ignored)' "$run/$name.log" >"$run/$name.tests" || true
    ok=$(count "$name" ok) bad=$(count "$name" FAILED) skipped=$(count "$name" ignored)
    # A job that died, or was never heard of, is a failure of its own.
    [ "$word $bad" != "FAILED 0" ] || bad=1
    [ "$word $bad $ok" != "passed 0 0" ] || { word=FAILED; bad=1; }
    [ "$word" = passed ] || bad_jobs="$bad_jobs $name"
    passed=$((passed + ok)) failed=$((failed + bad)) ignored=$((ignored + skipped))
    table="$table$(printf '%-12s %-7s %4d passed %4d failed %4d ignored %8s s' \
        "$name" "$word" "$ok" "$bad" "$skipped" "$(since "$started")")
"
done
for name in $bad_jobs; do
    printf '\n-- the end of %s\n' "$run/$name.log"
    tail -n 40 "$run/$name.log"
done
printf '\n%s\n' "$table"
word=ok
[ "$failed" = 0 ] || word=FAILED
echo "test result: $word. $passed passed; $failed failed; $ignored ignored; finished in $(since "$begin") s"
[ "$failed" = 0 ]
