#!/usr/bin/env bash
# User-mode Linux, the host itself and trivisor's modes in one interleaved run. What it measures: docs/peers-uml.md.
set -euo pipefail
export LC_ALL=C

usage() {
    cat <<'END'
User-mode Linux, the host itself and trivisor in one interleaved run: system call, fork, exec, a shell's loops

Usage: benches/peers/uml.sh [OPTIONS]

  --rounds N       Rounds, after one that does not count [default: 9]
  --budget US      How long one calibrated measurement takes, in microseconds [default: 20000]
  --cpu N          The CPU of the columns with one CPU [default: the first that may be used]
  --packages DIR   Where the Debian packages user-mode-linux and busybox-static are kept; fetched if they are
                   not there [default: fetched for this run, then removed]
  --trivisor FILE  The program [default: target/release/trivisor]
  --out DIR        Where the tables go [default: reports/peers]
  -h, --help       This text

Every round measures each of them once on all CPUs and once on one CPU, where trivisor's pv hands over by sleeping.
Needs gcc, dpkg and, to fetch packages, apt-get and a network.
Writes DIR/uml.txt (what is printed), DIR/uml.csv (medians, quartiles, ratios) and DIR/uml-rounds.csv (one
observation a row), all at the end or not at all.

Exit status: 0 if there are figures of the host, of User-mode Linux and of trivisor's pv; 1 if not; 2 for wrong usage.
END
}

die() {
    echo "uml.sh: $1" >&2
    exit 1
}

wrong() {
    echo "uml.sh: $1; see --help" >&2
    exit 2
}

# How long one run may take, in seconds.
readonly PATIENCE=60
readonly ROOM=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly PROJECT=$(cd "$ROOM/../.." && pwd)

rounds=9 budget=20000 cpu='' packages='' trivisor=$PROJECT/target/release/trivisor out=$PROJECT/reports/peers

while (($#)); do
    case $1 in
    -h | --help) usage; exit 0 ;;
    --rounds | --budget | --cpu | --packages | --trivisor | --out)
        [[ $# -ge 2 && -n $2 ]] || wrong "$1 needs a value"
        declare "${1#--}=$2"
        shift 2
        ;;
    *) wrong "'$1' is no option" ;;
    esac
done
[[ $rounds =~ ^[1-9][0-9]{0,3}$ ]] || wrong "--rounds takes a number from 1 to 9999"
[[ $budget =~ ^[1-9][0-9]{0,7}$ ]] || wrong "--budget takes a number from 1 to 99999999"
[[ -z $cpu || $cpu =~ ^[0-9]{1,4}$ ]] || wrong "--cpu takes the number of a CPU"

for tool in gcc dpkg awk taskset timeout mktemp; do
    command -v "$tool" >/dev/null || die "$tool is missing"
done
[[ -x $trivisor ]] || die "there is no program $trivisor: run 'cargo build --release'"
trivisor=$(realpath "$trivisor")
allowed=$(taskset -pc $$ | sed 's/.*: //')
cpu=${cpu:-${allowed%%[,-]*}}
taskset -c "$cpu" true 2>/dev/null || die "CPU $cpu cannot be used"

work=$(mktemp -d)
fetched='' running=''
clean_up() {
    if [[ -n $running ]]; then
        # `timeout` passes it on to all that it has started.
        kill "$running" 2>/dev/null || true
        wait "$running" || true
    fi
    rm -rf "$work" ${fetched:+"$fetched"}
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
[[ $work != *[,[:space:]]* ]] || die "User-mode Linux takes no path with commas or blanks, such as $work"

# Puts the package $1 into $packages, whole or not at all.
fetch() {
    command -v apt-get >/dev/null || die "apt-get is missing: put the package $1 into a folder and name that with --packages"
    # On the same file system, so that it appears there whole.
    fetched=$(mktemp -d "$packages/.fetch.XXXXXX") || die "cannot write to the folder $packages"
    (cd "$fetched" && apt-get -qq download "$1" >"$work/apt" 2>&1) ||
        die "cannot fetch the package $1: $(grep -m1 '^E:' "$work/apt" || echo 'apt-get failed')"
    mv "$fetched"/*.deb "$packages/"
    rmdir "$fetched"
}

[[ -n $packages ]] || packages=$work/packages
mkdir -p "$packages" 2>/dev/null || die "cannot make the folder $packages"
packages=$(realpath "$packages")
for package in user-mode-linux busybox-static; do
    compgen -G "$packages/${package}_*.deb" >/dev/null || fetch "$package"
    newest=$(ls -t "$packages/${package}"_*.deb | head -n 1)
    dpkg -x "$newest" "$work/unpacked" 2>/dev/null || die "$newest is no Debian package"
done
readonly LINUX=$work/unpacked/usr/bin/linux.uml
[[ -x $LINUX ]] || die "the package has no usr/bin/linux.uml"

# The root of the guest; natively the same files are used.
readonly ROOT=$work/root TASKS=$work/root/tasks BUSYBOX=$work/root/bin/busybox
mkdir -p "$ROOT"/{bin,dev,tmp} "$work/run"
cp "$work/unpacked/bin/busybox" "$BUSYBOX"
ln -s busybox "$ROOT/bin/sh"
gcc -O2 -std=gnu11 -static -nostdlib -ffreestanding -fno-pie -no-pie -fno-stack-protector \
    -o "$TASKS" "$ROOM/linux_tasks.c" || die "cannot build linux_tasks.c"
gcc -O2 -std=gnu11 -o "$work/libc_fork" "$ROOM/libc_fork.c" || die "cannot build libc_fork.c"
khz=$("$TASKS" frequency) || die "cannot measure the TSC"
# From a file system in the guest's own memory, so that no file of the host is looked at while it measures.
cat >"$ROOT/init" <<END
#!/bin/sh
busybox mount -t tmpfs tmpfs /tmp && busybox cp /tasks /bin/busybox /tmp/ &&
    /tmp/tasks measure $budget $khz /tmp/busybox && echo complete
exec busybox poweroff -f
END
chmod +x "$ROOT/init"

native() {
    "$TASKS" measure "$budget" "$khz" "$BUSYBOX" && "$work/libc_fork" "$budget" "$khz"
}

uml() {
    env -u TMPDIR "$LINUX" mem=256M rootfstype=hostfs rootflags="$ROOT" ro init=/init quiet \
        uml_dir="$work/run" con=null con0=null,fd:1 >"$work/console"
    grep -q '^complete' "$work/console" && cat "$work/console"
}

# Results of trivisor's guests, in the words of linux_tasks: `guests "ARGUMENTS" NAME…`.
guests() {
    local arguments=$1 name status=0
    shift
    for name; do
        # shellcheck disable=SC2086 # several arguments
        "$trivisor" run $arguments --timeout ${PATIENCE}s --append "budget_us=$budget" "$name" >"$work/guest" || status=1
        awk '$1 == "@trivisor" && $2 == "result" {
            for (i = 3; i <= NF; i++) { split($i, pair, "="); field[pair[1]] = pair[2] }
            held = held "result " field["metric"] " " field["iterations"] " " field["cycles"] "\n"
        }
        $1 == "@trivisor" && $2 == "end" { if ($3 == "status=ok") printf "%s", held; held = "" }' "$work/guest"
    done
    return $status
}

pv() {
    guests '--mode pv' syscall forkwait port_out page_fault demand_map context_switch cli_sti pushf_popf &&
        guests '--engine direct --interface pv' hypercall_null map_batch
}

emu() {
    guests '--mode emu' syscall forkwait
}

kvm() {
    guests '--mode kvm' syscall forkwait
}

export -f native uml guests pv emu kvm
export LINUX ROOT TASKS BUSYBOX PATIENCE budget khz work trivisor

subjects=(native:all native:one uml:all uml:one pv:all pv:one emu:all)
# Not `grep -q`, which would close the pipe early and so, at times, end `doctor` by a signal.
if "$trivisor" doctor | grep -E '^ *kvm +yes' >/dev/null; then subjects+=(kvm:all); fi

echo round,who,cpus,metric,iterations,cycles,ns,load >"$work/rounds.csv"
declare -A complained=()

# One subject in one round; round 0 does not count.
observe() {
    local round=$1 who=${2%:*} cpus=${2#*:} list=$allowed load
    [[ $cpus == all ]] || list=$cpu
    read -r load _ </proc/loadavg
    # In the background, so that a signal to this script is seen at once.
    timeout --kill-after=5 $((PATIENCE * 2)) taskset -c "$list" bash -c "$who" \
        </dev/null >"$work/results" 2>"$work/complaint" &
    running=$!
    if ! wait "$running" && [[ -z ${complained[$2]:-} ]]; then
        complained[$2]=1
        echo "uml.sh: $who (CPUs: $cpus) is incomplete: $(tail -n 1 "$work/complaint")" >&2
    fi
    running=''
    ((round)) || return 0
    tr -d '\r' <"$work/results" | awk -v OFS=, -v round="$round" -v who="$who" -v cpus="$cpus" -v khz="$khz" -v load="$load" '
        $1 == "result" && NF == 4 && $3 > 0 { print round, who, cpus, $2, $3, $4, sprintf("%.3f", $4 / $3 / khz * 1e6), load }' \
        >>"$work/rounds.csv"
}

for ((round = 0; round <= rounds; round++)); do
    [[ ! -t 2 ]] || printf '\rround %d of %d ' "$round" "$rounds" >&2
    # Each begins a round in turn, so that none always follows the same.
    for ((i = 0; i < ${#subjects[@]}; i++)); do
        observe "$round" "${subjects[(i + round) % ${#subjects[@]}]}"
    done
done
[[ ! -t 2 ]] || printf '\r\033[K' >&2

{
    echo "host     $(uname -sr), $(sed -n '/^model name/{s/.*: //p;q}' /proc/cpuinfo), CPUs $allowed, TSC $khz kHz"
    echo "uml      Linux $("$LINUX" --version 2>/dev/null), $("$BUSYBOX" 2>&1 | sed -n '1s/ (.*//p')"
    echo "trivisor $("$trivisor" --version)"
    echo "rounds   $rounds, budget $budget us, one CPU: CPU $cpu"
    awk -v csv="$work/uml.csv" -f "$ROOM/uml.awk" "$work/rounds.csv"
} >"$work/uml.txt" || die "there are no figures of the host, of User-mode Linux, or of trivisor's pv"

mkdir -p "$out" 2>/dev/null || die "cannot make the folder $out"
for name in uml.txt uml.csv; do
    cp "$work/$name" "$out/.$name.new" && mv "$out/.$name.new" "$out/$name" || die "cannot write $out/$name"
done
cp "$work/rounds.csv" "$out/.rounds.new" && mv "$out/.rounds.new" "$out/uml-rounds.csv" || die "cannot write $out/uml-rounds.csv"
cat "$out/uml.txt"
