"""CPU time of uTP, TCP and RC4 on loopback: ccbt-fast and libtorrent, each with each.

    .cache/venv/bin/python bench/transports.py CCBT_FAST [--mib 512] [--rounds 3] [--transport utp|tcp|rc4|utp+rc4]

Prints, for each pair of seed and leech, the CPU seconds per GiB that either process has used between the moment when
the seed was ready and the end of the download (medians), and the rate. libtorrent gets the settings of
bench/src/clients/libtorrent.py; CCBT_FAST may be several programs, separated by commas, which take turns.
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


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


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
    def __init__(self, args, mode, torrent, output, peer=None):
        self.port = free_port()
        self.log = open(output / f"{mode}.log", "wb")
        peers = [] if peer is None else [f"127.0.0.1:{peer}"]
        utp, rc4 = "utp" in args.transport, "rc4" in args.transport
        if args.kind.startswith("ccbt"):
            program = args.ccbt.split(",")[int(args.kind[4:] or 0)]
            command = [program, mode, torrent, "--output", output, "--port", str(self.port), "--bind", "127.0.0.1"]
            command += ["--no-tracker", "--json", "--log-level", "error", "--no-checkpoint", "--no-config"]
            command += ["--utp", "--no-tcp"] if utp else []
            encryption = "require" if rc4 else "off"
            command += [f"--encryption-in={encryption}", f"--encryption-out={encryption}"]
            command += [word for peer in peers for word in ("--peer", peer)]
        else:
            text = SCRIPT.read_text()
            if utp:
                text = text.replace('_utp": False', '_utp": True')
                text = text.replace("session = lt", 'settings["enable_outgoing_tcp"] = False\nsession = lt', 1)
            if rc4:
                text = text.replace("pe_disabled", "pe_forced")
                text = text.replace("session = lt", 'settings["allowed_enc_level"] = lt.enc_level.pe_rc4\nsession = lt', 1)
            command = [sys.executable, "-c", text, mode, torrent, output, str(self.port), *peers]
        self.process = subprocess.Popen([str(word) for word in command], stdout=self.log, stderr=self.log)

    def cpu(self):
        return cpu_seconds(self.process.pid)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def run(args, seed_kind, leech_kind, torrent, data, folder):
    copy = pathlib.Path(tempfile.mkdtemp(dir=folder))
    args.kind = seed_kind
    seed = Client(args, "seed", torrent, data)
    try:
        time.sleep(4)
        before, started = seed.cpu(), time.monotonic()
        args.kind = leech_kind
        leech = Client(args, "download", torrent, copy, seed.port)
        spent = 0.0
        deadline = time.monotonic() + 120
        size = (data / "payload").stat().st_size
        while time.monotonic() < deadline:
            try:
                spent = leech.cpu()
            except (FileNotFoundError, IndexError):
                pass
            if leech.process.poll() is not None or b"DONE" in (copy / "download.log").read_bytes():
                break
            time.sleep(0.02)
        took = time.monotonic() - started
        seeded = seed.cpu() - before
        leech.stop()
        whole = (copy / "payload").read_bytes() == (data / "payload").read_bytes()
        if not whole:
            sys.exit(f"{seed_kind} to {leech_kind}: the copy differs; " + (copy / "download.log").read_text()[-2000:])
        return seeded, spent, size / took
    finally:
        seed.stop()
        shutil.rmtree(copy)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("ccbt")
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transport", default="utp", choices=["utp", "tcp", "rc4", "utp+rc4"])
    parser.add_argument("--dir", default="/dev/shm")
    parser.add_argument("--pairs", default="libtorrent-libtorrent,libtorrent-ccbt,ccbt-libtorrent,ccbt-ccbt")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ccbt-utp-", dir=args.dir) as name:
        folder = pathlib.Path(name)
        torrent, data = publish(folder, args.mib)
        per_gib = 1024 / args.mib
        pairs = [pair.split("-") for pair in args.pairs.split(",")]
        results = {tuple(pair): [] for pair in pairs}
        for _ in range(args.rounds):
            for pair in pairs:
                results[tuple(pair)].append(run(args, *pair, torrent, data, folder))
        print(f"{args.transport}: CPU s/GiB of the seed and of the leech, MiB/s")
        for (seed, leech), runs in results.items():
            seeded, spent, rate = (statistics.median(column) for column in zip(*runs))
            print(f"{seed:>10} -> {leech:10} {seeded * per_gib:6.2f} {spent * per_gib:6.2f} {rate / 2**20:8.0f}")


if __name__ == "__main__":
    main()
