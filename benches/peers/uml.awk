# Summary of uml.sh: reads its rounds, writes medians, quartiles and ratios to `csv`, and prints them as tables.
# A ratio is the median, over the rounds, of the ratio to native within a round: in `csv`, on as many CPUs.
# Ends with status 1 where the host, User-mode Linux or pv has no figure.

BEGIN { FS = "," }

NR > 1 {
    key = $2 SUBSEP $3 SUBSEP $4
    if (!(key in count)) order[++keys] = key
    value[key, ++count[key]] = $7
    round_of[key, count[key]] = $1
    at[$2, $3, $4, $1] = $7
    load[++loads] = $8
}

# Sorts list[1..n].
function sort(list, n,    i, j, moved) {
    for (i = 2; i <= n; i++) {
        moved = list[i]
        for (j = i - 1; j > 0 && list[j] > moved; j--) list[j + 1] = list[j]
        list[j + 1] = moved
    }
}

# A quantile of a sorted list, interpolated.
function quantile(list, n, part,    place, below) {
    place = 1 + (n - 1) * part
    below = int(place)
    if (below >= n) return list[n]
    return list[below] + (place - below) * (list[below + 1] - list[below])
}

# The median ratio of `key` to native's metric `baseline` on `cpus`, or an empty string.
function ratio(key, baseline, cpus,    i, n, list, native) {
    for (i = 1; i <= count[key]; i++) {
        native = at["native", cpus, baseline, round_of[key, i]]
        if (native > 0) list[++n] = value[key, i] / native
    }
    if (!n) return ""
    sort(list, n)
    return sprintf("%.3g", quantile(list, n, 0.5))
}

function duration(ns) {
    if (ns == "") return "-"
    if (ns < 1000) return sprintf("%.3g ns", ns)
    if (ns < 1e6) return sprintf(ns < 1e5 ? "%.3g us" : "%.0f us", ns / 1000)
    return sprintf(ns < 1e8 ? "%.3g ms" : "%.0f ms", ns / 1e6)
}

# Median and quartiles, or a dash.
function cell(who, cpus, metric,    key) {
    key = who SUBSEP cpus SUBSEP metric
    if (!(key in median)) return "-"
    return duration(median[key]) " [" duration(lower[key]) ", " duration(upper[key]) "]"
}

function row(metric, what,    i, text) {
    text = sprintf("%-44s", what)
    for (i = 1; i <= columns; i++) text = text sprintf("  %-30s", cell(column_who[i], column_cpus[i], metric))
    sub(/ +$/, "", text)
    print text
}

function header(what,    i, text) {
    text = sprintf("\n%-44s", what)
    for (i = 1; i <= columns; i++) text = text sprintf("  %-30s", column_name[i])
    sub(/ +$/, "", text)
    print text
}

function column(who, cpus, name) {
    column_who[++columns] = who
    column_cpus[columns] = cpus
    column_name[columns] = name
}

function tasks(what) {
    header(what)
    row("syscall", "system call")
    row("forkwait", "fork, exit, wait: smallest process")
    row("forkwait_libc", "fork, exit, wait: C program with its library")
    row("forkexecwait", "fork, exec, exit, wait")
    row("shell_count", "shell: a turn of a counting loop")
    row("shell_start", "shell: a turn that starts a program")
}

# Ratios to native: on all CPUs, on one, on all to native on one.
function ratios(who, metric, baseline, what,    one, all) {
    all = who SUBSEP "all" SUBSEP metric
    one = who SUBSEP "one" SUBSEP metric
    printf "%-62s  %9s  %9s  %9s\n", what, known(all, baseline, "all"), known(one, baseline, "one"), known(all, baseline, "one")
}

function known(key, baseline, cpus,    found) {
    found = key in count ? ratio(key, baseline, cpus) : ""
    return found == "" ? "-" : found
}

END {
    print "who,cpus,metric,n,median_ns,lower_quartile_ns,upper_quartile_ns,least_ns,most_ns,ratio_to_native,ratio_to_native_libc" >csv
    for (k = 1; k <= keys; k++) {
        key = order[k]
        split(key, part, SUBSEP)
        n = count[key]
        for (i = 1; i <= n; i++) list[i] = value[key, i]
        sort(list, n)
        median[key] = quantile(list, n, 0.5)
        lower[key] = quantile(list, n, 0.25)
        upper[key] = quantile(list, n, 0.75)
        libc = part[3] == "forkwait" ? ratio(key, "forkwait_libc", part[2]) : ""
        printf "%s,%s,%s,%d,%.3f,%.3f,%.3f,%.3f,%.3f,%s,%s\n", part[1], part[2], part[3], n, median[key], lower[key], \
            upper[key], list[1], list[n], ratio(key, part[3], part[2]), libc >csv
    }
    sort(load, loads)
    if (loads) printf "load     %.2f to %.2f, median %.2f\n", load[1], load[loads], quantile(load, loads, 0.5)
    print "\nMedian [lower quartile, upper quartile]"

    column("native", "all", "native"); column("uml", "all", "User-mode Linux"); column("pv", "all", "trivisor pv")
    column("emu", "all", "trivisor emu"); column("kvm", "all", "trivisor kvm")
    tasks("all CPUs")
    columns = 0
    column("native", "one", "native"); column("uml", "one", "User-mode Linux"); column("pv", "one", "trivisor pv")
    tasks("one CPU")

    columns = 0
    column("pv", "all", "spinning (all CPUs)"); column("pv", "one", "sleeping (one CPU)")
    header("trivisor pv: hand-overs")
    row("cli_sti", "CLI and STI")
    row("pushf_popf", "PUSHF and POPF")
    row("hypercall_null", "null hypercall")
    row("port_out", "OUT to a device")
    row("syscall", "system call")
    row("context_switch", "context switch")
    row("page_fault", "page fault")
    row("demand_map", "page mapped on demand")
    row("map_batch", "512 pages mapped in one batch")
    row("forkwait", "fork, exit, wait")

    printf "\n%-62s  %9s  %9s  %9s\n", "Ratio to native, within rounds", "all CPUs", "one CPU", "all:one"
    ratios("uml", "syscall", "syscall", "system call, User-mode Linux")
    ratios("pv", "syscall", "syscall", "system call, pv")
    ratios("uml", "forkwait", "forkwait", "fork, exit, wait, User-mode Linux, to the smallest process")
    ratios("pv", "forkwait", "forkwait", "fork, exit, wait, pv, to the smallest process")
    ratios("pv", "forkwait", "forkwait_libc", "fork, exit, wait, pv, to a C program with its library")
    ratios("uml", "forkexecwait", "forkexecwait", "fork, exec, exit, wait, User-mode Linux")
    ratios("uml", "shell_count", "shell_count", "counting loop of a shell, User-mode Linux")
    ratios("uml", "shell_start", "shell_start", "loop of a shell that starts programs, User-mode Linux")
    exit !("native" SUBSEP "all" SUBSEP "syscall" in count && "uml" SUBSEP "all" SUBSEP "syscall" in count \
        && "pv" SUBSEP "all" SUBSEP "syscall" in count)
}
