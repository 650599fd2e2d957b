#!/usr/bin/env bash
# Where the CPU time of ccbt-fast goes in `ccbt-bench transfer`: CPU s/GiB by thread and group of functions, then the
# commonest stacks (folded), then system calls. Needs perf, strace and a release build; as root, or with
# kernel.perf_event_paranoid <= 1.
#   bench/profile.sh [download|seed] [connections] [size in MiB]
# CCBT and BENCH name other programs than those in target/release; OUT a folder for perf's data.
set -euo pipefail
mode=${1:-download} connections=${2:-20} size=${3:-2048}
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/release
ccbt=${CCBT:-$target/ccbt-fast} bench=${BENCH:-$target/ccbt-bench}
out=${OUT:-$(mktemp -d)}
mkdir -p "$out"

# A program that runs ccbt-fast under "$@".
under() {
    printf '#!/bin/sh\n[ "$1" = --version ] && exec %q "$@"\nexec %s %q "$@"\n' "$ccbt" "$*" "$ccbt" >"$out/under"
    chmod +x "$out/under"
    "$bench" transfer --mode "$mode" --clients ccbt --ccbt "$out/under" --runs 1 --connections "$connections" \
        --size-mib "$size" | grep -E "^$mode ccbt" || true
}

under perf record -q -F 499 -e cpu-clock -g -o "$out/perf.data"
perf script -i "$out/perf.data" -F comm,period,ip,sym 2>/dev/null | awk -v mib="$size" '
    # One sample: "comm period", then frames from the innermost out, then an empty line.
    function group(stack) {
        if (stack ~ /do_exit|exit_mmap|execve|ccbt_fast::main|load_elf|_dl_/) return "start and end of the process"
        if (stack ~ /asm_exc_page_fault/) return "page faults"
        if (stack ~ /shmem_file_write_iter|shmem_file_read_iter|ext4_file|blkdev_|iomap_/)
            return leaf ~ /copy_|rep_movs|_copy_/ ? "file: copy" : "file: pages and the rest"
        if (stack ~ /tcp_recvmsg/ && leaf ~ /copy|rep_movs/) return "receive: copy out of the socket"
        if (stack ~ /tcp_cleanup_rbuf|tcp_send_ack|__tcp_send_ack/) return "receive: ACKs, with what the sender does on them"
        if (stack ~ /tcp_sendmsg/) return leaf ~ /copy|rep_movs/ ? "send: copy into the socket" : "send: TCP, with what the receiver does"
        if (stack ~ /tcp_recvmsg/) return "receive: TCP"
        if (stack ~ /eventfd_write|futex_wake|wake_up_q/) return "waking threads"
        if (stack ~ /net_rx_action|handle_softirqs/) return "softirq: packets and timers"
        if (stack ~ /schedule|futex_wait/) return "switching threads"
        if (stack ~ /io_uring_enter|io_run_task_work/) return "io_uring: the rest"
        if (stack ~ /sys_|entry_SYSCALL/) return "other system calls"
        if (stack ~ /hash::/) return "user: hash"
        if (stack ~ /memcpy|memmove/) return "user: copies"
        return "user: the rest"
    }
    NF == 0 { if (comm != "") { key = comm "\t" group(stack); time[key] += period; total += period; folded[comm stack] += period }; comm = stack = leaf = ""; next }
    comm == "" { comm = $1; period = $NF + 0; next }
    { sym = $2; for (at = 3; at <= NF; at++) sym = sym " " $at; sub(/\+0x[0-9a-f]+$/, "", sym); if (leaf == "") leaf = sym; stack = ";" sym stack }
    END {
        per = 1e9 * mib / 1024
        printf "%8.3f CPU s/GiB in all\n", total / per
        for (key in time) { split(key, part, "\t"); thread[part[1]] += time[key] }
        for (name in thread) {
            printf "%8.3f %s\n", thread[name] / per, name
            for (key in time) { split(key, part, "\t"); if (part[1] == name) printf "%8.3f %s | %s\n", time[key] / per, name, part[2] | "sort -k2,2 -k1,1nr" }
            close("sort -k2,2 -k1,1nr")
        }
        for (key in folded) printf "%.4f %s\n", folded[key] / per, key > "'"$out"'/folded"
    }'
echo "commonest stacks (CPU s/GiB, all of them in $out/folded):"
sort -nr "$out/folded" | awk 'NR <= 25 { print substr($0, 1, 400) }'

# -D: signals that end a seed reach ccbt-fast itself; the summary comes after it.
under strace -D -f -c -o "$out/strace"
sleep 1
echo "system calls:"
awk 'NR <= 14' "$out/strace"
