"""CPU time of uTP, TCP and RC4 on loopback: ccbt-fast and libtorrent, each with each.

    .cache/venv/bin/python bench/transports.py CCBT_FAST [--mib 512] [--rounds 3] [--transport utp|tcp|rc4|utp+rc4]

Prints Markdown: for each pair of seed and leech the CPU seconds per GiB of payload that either process has used, and
those of their network threads alone, without hashing and disk; medians (and extremes) of rounds in which all pairs
take turns. The last column counts datagrams that found a full receive buffer. Counted are time and bytes from the
moment when the leech has received the first ones (its file takes up space) to the end of the download: what it costs
to start a process is left out. libtorrent gets the settings of bench/src/clients/libtorrent.py and, over UDP, a
socket buffer that holds its window: the system's own overflows, and the transfer crawls from timeout to timeout.
CCBT_FAST may be several programs, separated by commas, which are called ccbt, ccbt1, ccbt2 in --pairs.
"""

import argparse
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import libtorrent as lt

SCRIPT = pathlib.Path(__file__).parent / "src/clients/libtorrent.py"
TICKS = os.sysconf("SC_CLK_TCK")
# Of 1, 4 and 4 in either direction this costs least, by a little; as much is what ccbt-fast asks for.
UTP_BUFFER = 2 << 20


class Cpu:
    """CPU seconds of a process, and of its threads that speak uTP and the peer protocol."""

    def __init__(self, all=0.0, network=0.0):
        self.all, self.network = all, network

    def __sub__(self, other):
        return Cpu(self.all - other.all, self.network - other.network)

    def __truediv__(self, gib):
        return Cpu(self.all / gib, self.network / gib)

    @staticmethod
    def of(pid, kind):
        threads = sorted(pathlib.Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name))
        # libtorrent gives its threads no names; a session starts its network thread first, disk and hashing follow.
        is_network = lambda nth, name: name.startswith("ccbt-shard") if kind.startswith("ccbt") else nth == 1
        network = 0.0
        for nth, path in enumerate(threads):
            if is_network(nth, (path / "comm").read_text().strip()):
                network += int((path / "schedstat").read_text().split()[0]) / 1e9
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return Cpu((int(fields[11]) + int(fields[12])) / TICKS, network)


def datagrams_dropped():
    """Datagrams of this network namespace that found a receive buffer full."""
    names, counts = (line.split() for line in open("/proc/net/snmp") if line.startswith("Udp:"))
    return int(counts[names.index("RcvbufErrors")])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def publish(folder, mib):
    data = folder / "data"
    data.mkdir()
    with open("/dev/urandom", "rb") as random, open(data / "payload", "wb") as out:
        for _ in range(mib):
            out.write(random.read(1 << 20))
    files = lt.file_storage()
    lt.add_files(files, str(data / "payload"))
    torrent = lt.create_torrent(files, 1 << 20, lt.create_torrent.v1_only)
    lt.set_piece_hashes(torrent, str(data))
    path = folder / "payload.torrent"
    path.write_bytes(lt.bencode(torrent.generate()))
    return path, data


class Client:
    def __init__(self, args, kind, mode, torrent, output, peer=None):
        self.kind, self.port = kind, free_port()
        self.log = open(output / f"{mode}.log", "wb")
        peers = [] if peer is None else [f"127.0.0.1:{peer}"]
        utp, rc4 = "utp" in args.transport, "rc4" in args.transport
        if kind.startswith("ccbt"):
            program = args.ccbt.split(",")[int(kind[4:] or 0)]
            command = [program, mode, torrent, "--output", output, "--port", str(self.port), "--bind", "127.0.0.1"]
            command += ["--no-tracker", "--json", "--log-level", "error", "--no-checkpoint", "--no-config"]
            command += ["--utp", "--no-tcp"] if utp else []
            encryption = "require" if rc4 else "off"
            command += [f"--encryption-in={encryption}", f"--encryption-out={encryption}"]
            command += [word for peer in peers for word in ("--peer", peer)]
        else:
            command = [sys.executable, "-c", libtorrent_script(utp, rc4), mode, torrent, output, str(self.port), *peers]
        self.process = subprocess.Popen([str(word) for word in command], stdout=self.log, stderr=self.log)

    def cpu(self):
        return Cpu.of(self.process.pid, self.kind)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def libtorrent_script(utp, rc4):
    text, more = SCRIPT.read_text(), {}
    if utp:
        text = text.replace('_utp": False', '_utp": True')
        more |= {"enable_outgoing_tcp": False, "recv_socket_buffer_size": UTP_BUFFER}
    if rc4:
        text = text.replace("pe_disabled", "pe_forced")
        more |= {"allowed_enc_level": int(lt.enc_level.pe_rc4)}
    return text.replace("session = lt", f"settings.update({more})\nsession = lt", 1)


def transfer(seed, leech, copy, size):
    """What both have used from the first bytes to the end, the bytes of that time, and how long it took."""
    deadline, first, spent = time.monotonic() + 120, None, Cpu()
    while time.monotonic() < deadline:
        if first is None and (copy / "payload").exists() and (there := (copy / "payload").stat().st_blocks * 512):
            first = there, seed.cpu(), leech.cpu(), time.monotonic()
        try:
            # At its end threads go one by one.
            now = leech.cpu()
            spent = Cpu(now.all, max(now.network, spent.network))
        except (OSError, IndexError):
            pass  # It has just ended.
        if leech.process.poll() is not None or b"DONE" in (copy / "download.log").read_bytes():
            break
        time.sleep(0.005)
    if first is None:
        sys.exit("nothing was received: " + (copy / "download.log").read_text()[-2000:])
    there, seeded, leeched, at = first
    return seed.cpu() - seeded, spent - leeched, size - there, time.monotonic() - at


def run(args, seed_kind, leech_kind, torrent, data, folder):
    copy = pathlib.Path(tempfile.mkdtemp(dir=folder))
    seed = Client(args, seed_kind, "seed", torrent, data)
    dropped = datagrams_dropped()
    try:
        time.sleep(4)
        leech = Client(args, leech_kind, "download", torrent, copy, seed.port)
        seeded, leeched, size, took = transfer(seed, leech, copy, (data / "payload").stat().st_size)
        leech.stop()
        if (copy / "payload").read_bytes() != (data / "payload").read_bytes():
            log = (copy / "download.log").read_text()[-2000:]
            sys.exit(f"{seed_kind} to {leech_kind}: the copy differs; {log}")
        gib = size / 2**30
        return seeded / gib, leeched / gib, size / took / 2**20, datagrams_dropped() - dropped
    finally:
        seed.stop()
        shutil.rmtree(copy)


def report(transport, results):
    print(f"| {transport}: seed → leech | seed | leech | both | network threads: seed | leech | both | MiB/s | lost |")
    print("|---|---|---|---|---|---|---|---|---|")

    def median(values):
        return f"{statistics.median(values):.2f}"

    def spread(values):
        return f"{median(values)} ({min(values):.2f} to {max(values):.2f})"

    for pair, runs in results.items():
        seeds, leeches, rates, lost = zip(*runs)
        cells = [" → ".join(kind.replace("ccbt", "ccbt-fast") for kind in pair)]
        for of in (lambda cpu: cpu.all, lambda cpu: cpu.network):
            seed, leech = [of(cpu) for cpu in seeds], [of(cpu) for cpu in leeches]
            cells += [median(seed), median(leech), spread([sum(both) for both in zip(seed, leech)])]
        cells += [f"{statistics.median(rates):.0f}", f"{statistics.median(lost):.0f}"]
        print("| " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("ccbt")
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transport", default="utp", choices=["utp", "tcp", "rc4", "utp+rc4"])
    parser.add_argument("--dir", default="/dev/shm")
    parser.add_argument("--pairs", default="libtorrent-libtorrent,libtorrent-ccbt,ccbt-libtorrent,ccbt-ccbt")
    args = parser.parse_args()
    pairs = [tuple(pair.split("-")) for pair in args.pairs.split(",")]
    results = {pair: [] for pair in pairs}
    with tempfile.TemporaryDirectory(prefix="ccbt-utp-", dir=args.dir) as name:
        folder = pathlib.Path(name)
        torrent, data = publish(folder, args.mib)
        for _ in range(args.rounds):
            for pair in pairs:
                results[pair].append(run(args, *pair, torrent, data, folder))
    report(args.transport, results)


if __name__ == "__main__":
    main()
