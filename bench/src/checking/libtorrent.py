"""Checks or hashes one file with libtorrent at its best: hashing.py verify TORRENT DIR | create FILE PIECE_LEN THREADS.

Prints one JSON object: wall seconds and CPU seconds of the work alone, without the interpreter's start.
"""

import json
import os
import resource
import sys
import time

import libtorrent as lt

# create_torrent::v1_only, which the binding does not name: version 1 only, as the others make it.
V1_ONLY = 1 << 6


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def verify(torrent, folder):
    cores = os.cpu_count() or 1
    settings = lt.high_performance_seed()
    settings.update(
        {
            "listen_interfaces": "",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "alert_mask": lt.alert.category_t.error_notification | lt.alert.category_t.status_notification,
            "aio_threads": 4 * cores,
            "hashing_threads": cores,
            # Blocks of 16 KiB that may wait to be hashed: 64 MiB; its preset asks for less.
            "checking_mem_usage": 4096,
            "max_queued_disk_bytes": 64 << 20,
            "active_checking": 4,
        }
    )
    session = lt.session(settings)
    info = lt.torrent_info(torrent)
    started, used = time.monotonic(), cpu()
    handle = session.add_torrent({"ti": info, "save_path": folder, "flags": lt.torrent_flags.update_subscribe})
    while not handle.status().is_seeding:
        session.wait_for_alert(2)
        for alert in session.pop_alerts():
            if isinstance(alert, (lt.file_error_alert, lt.torrent_error_alert)):
                sys.exit(str(alert))
    return started, used


def create(path, piece_len, _threads):
    started, used = time.monotonic(), cpu()
    storage = lt.file_storage()
    lt.add_files(storage, path)
    torrent = lt.create_torrent(storage, int(piece_len), V1_ONLY)
    lt.set_piece_hashes(torrent, os.path.dirname(path))
    lt.bencode(torrent.generate())
    return started, used


began = {"verify": verify, "create": create}[sys.argv[1]](*sys.argv[2:])
print(json.dumps({"seconds": time.monotonic() - began[0], "cpu_s": cpu() - began[1]}), flush=True)
os._exit(0)
