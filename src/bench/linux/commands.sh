# What is measured, in a guest and on the host alike, by busybox's shell.
# $busybox is busybox, $ticks prints the time stamp counter, $folder is where files may lie.

set -e

# report METRIC FROM TO CHECKSUM
report() {
    echo "@trivisor result workload=linux metric=$1 ring=3 iterations=1 cycles=$(($3 - $2)) checksum=$4"
}

# The first 64 bits of the SHA-256 of standard input.
folded() {
    set -- $("$busybox" sha256sum)
    echo "${1:0:16}"
}

# Data that is neither empty nor random: busybox itself, again and again.
while "$busybox" cat "$busybox"; do :; done 2>/dev/null | "$busybox" head -c 16777216 >"$folder/16M"
"$busybox" cat "$folder/16M" "$folder/16M" "$folder/16M" "$folder/16M" >"$folder/64M"

from=$("$ticks")
i=0
while [ $i -lt 100000 ]; do i=$((i + 1)); done
to=$("$ticks")
report shell_loop $from $to $(printf %x $i)

from=$("$ticks")
i=0
good=0
while [ $i -lt 500 ]; do
    "$busybox" true && good=$((good + 1))
    i=$((i + 1))
done
to=$("$ticks")
report fork_exec $from $to $(printf %x $good)

from=$("$ticks")
"$busybox" sha256sum <"$folder/64M" >"$folder/sum"
to=$("$ticks")
report sha256sum $from $to $("$busybox" head -c 16 "$folder/sum")
"$busybox" rm "$folder/64M"

from=$("$ticks")
"$busybox" gzip -c <"$folder/16M" >"$folder/gz"
to=$("$ticks")
report gzip $from $to $(folded <"$folder/gz")

from=$("$ticks")
"$busybox" dd if=/dev/zero of=/dev/null bs=4k count=65536 2>"$folder/said"
to=$("$ticks")
report dd $from $to $("$busybox" head -n 2 "$folder/said" | folded)
