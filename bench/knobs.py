#!/usr/bin/env python3
"""What a setting of ccbt-fast costs: runs `ccbt-bench transfer` with each variant in turn, some rounds, prints medians.

    bench/knobs.py [--bin DIR] [--rounds 3] MODE CONNECTIONS SIZE_MIB FOLDER NAME='OPTIONS' NAME='OPTIONS' …

MODE is download or seed, FOLDER where the files are (a RAM file system or a disk), DIR has ccbt-bench and ccbt-fast.
The first variant is what the others are compared with. OPTIONS go behind those of the harness; `@PROGRAM` first takes
another program than DIR/ccbt-fast. Columns: MB/s, ratio to the first, CPU seconds per GiB, ratio, peak memory in MiB.
"""

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile


def main():
    args = sys.argv[1:]
    folder, rounds = "target/release", 3
    while args and args[0] in ("--bin", "--rounds"):
        if args[0] == "--bin":
            folder = args[1]
        else:
            rounds = int(args[1])
        args = args[2:]
    if len(args) < 5:
        sys.exit(__doc__)
    mode, connections, size, where = args[:4]
    variants = [variant.split("=", 1) for variant in args[4:]]
    results = {name: [] for name, _ in variants}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds):
            turn = variants[number % len(variants):] + variants[:number % len(variants)]
            for name, options in turn:
                words = shlex.split(options)
                program = os.path.abspath(os.path.join(folder, "ccbt-fast"))
                if words and words[0].startswith("@"):
                    program = words.pop(0)[1:]
                wrapper, out = os.path.join(scratch, "ccbt"), os.path.join(scratch, "out.json")
                with open(wrapper, "w") as file:
                    # `--version` is asked for alone.
                    more = " ".join(map(shlex.quote, words))
                    file.write(f'#!/bin/sh\n[ $# = 1 ] && exec {program} "$@"\nexec {program} "$@" {more}\n')
                os.chmod(wrapper, 0o755)
                command = [os.path.join(folder, "ccbt-bench"), "transfer", "--clients", "ccbt", "--ccbt", wrapper,
                           "--mode", mode, "--connections", connections, "--size-mib", size, "--runs", "1",
                           "--budget-s", "60", "--dir", where, "--json", out]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode != 0:
                    sys.exit(f"{name}: {done.stdout}{done.stderr}")
                with open(out) as file:
                    results[name].append(json.load(file)["summary"][0]["medians"])
    def middle(name, figure):
        return statistics.median(row[figure] for row in results[name])

    first = variants[0][0]
    print(f"{mode}, {connections} connections, {size} MiB, {where}, {rounds} rounds")
    print("| variant | MB/s | | CPU s/GiB | | MiB |\n|---|--:|--:|--:|--:|--:|")
    for name, _ in variants:
        rate, cpu = middle(name, "mb_per_s"), middle(name, "cpu_s_per_gib")
        rates, cpus = rate / middle(first, "mb_per_s"), cpu / middle(first, "cpu_s_per_gib")
        memory = middle(name, "peak_rss_mib")
        print(f"| {name} | {rate:.0f} | {rates:.2f} | {cpu:.3f} | {cpus:.2f} | {memory:.0f} |")


main()
