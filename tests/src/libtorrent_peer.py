"""libtorrent as a peer, and as a second opinion on torrent files, for the Rust harness.

    libtorrent_peer.py info TORRENT             prints what libtorrent reads in the file, as one JSON object
    libtorrent_peer.py create ITEM TORRENT PIECE_LENGTH [v1|symlinks]    makes a torrent file, hybrid unless told v1;
        symlinks: v1 with symbolic links as such
    libtorrent_peer.py resume TORRENT DIR OUT    checks what is in DIR and writes its resume data to OUT
    libtorrent_peer.py peer TORRENT DIR PORT [SETTINGS]    downloads to or seeds from DIR; prints one JSON object per
        line; SETTINGS is a JSON object of more settings

TORRENT of `peer` may be a magnet link. Its commands on stdin, one per line: `connect IP PORT`,
`limit BYTES` (a second, received), `sequential`, and `stats` and `peers`, which are answered. It ends when stdin does.
"""

import json
import os
import sys
import threading
import time

import libtorrent as lt


def say(**event):
    # One write: two threads speak.
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def info(path):
    torrent = lt.torrent_info(path)
    files = torrent.files()
    trackers = [(t.tier, t.url) for t in torrent.trackers()]
    say(
        name=torrent.name(),
        info_hash=str(torrent.info_hash()),
        piece_length=torrent.piece_length(),
        pieces=torrent.num_pieces(),
        private=torrent.priv(),
        comment=torrent.comment(),
        trackers=[url for _, url in sorted(trackers)],
        web_seeds=[seed["url"] for seed in torrent.web_seeds()],
        files=[[files.file_path(i), files.file_size(i)] for i in range(files.num_files())],
    )


def create(item, path, piece_length, *kind):
    storage = lt.file_storage()
    flags = lt.create_torrent.v1_only if kind else 0
    if "symlinks" in kind:
        flags |= lt.create_torrent.symlinks
    lt.add_files(storage, item, lambda _: True, flags)
    torrent = lt.create_torrent(storage, int(piece_length), flags)
    lt.set_piece_hashes(torrent, os.path.dirname(item))
    with open(path, "wb") as out:
        out.write(lt.bencode(torrent.generate()))


def session(port, more={}):
    return lt.session(
        {
            "listen_interfaces": f"127.0.0.1:{port}",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "enable_outgoing_utp": False,
            "enable_incoming_utp": False,
            "allow_multiple_connections_per_ip": True,
            # Plain connections out, either kind in: encryption has tests of its own.
            "out_enc_policy": int(lt.enc_policy.disabled),
            "in_enc_policy": int(lt.enc_policy.enabled),
            "min_reconnect_time": 1,
            "unchoke_slots_limit": -1,
            "alert_mask": int(
                lt.alert.category_t.error_notification
                | lt.alert.category_t.status_notification
                | lt.alert.category_t.storage_notification
            ),
            **more,
        }
    )


def obey(handle):
    """Takes commands until stdin ends."""
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "connect":
            handle.connect_peer((rest[0], int(rest[1])))
        elif word == "limit":
            handle.set_download_limit(int(rest[0]))
        elif word == "sequential":
            handle.set_flags(lt.torrent_flags.sequential_download)
        elif word == "stats":
            status = handle.status()
            say(event="stats", uploaded=status.total_payload_upload, downloaded=status.total_payload_download)
        elif word == "peers":
            # Those that are through their handshakes: the pieces that they are believed to have.
            known = [peer for peer in handle.get_peer_info() if not peer.flags & (peer.connecting | peer.handshake)]
            say(event="peers", pieces=[[at for at, has in enumerate(peer.pieces) if has] for peer in known])


def peer(path, folder, port, more="{}"):
    ses = session(port, json.loads(more))
    if path.startswith("magnet:"):
        params = lt.parse_magnet_uri(path)
    else:
        params = lt.add_torrent_params()
        params.ti = lt.torrent_info(path)
    params.save_path = folder
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    handle = ses.add_torrent(params)
    commands = threading.Thread(target=obey, args=(handle,), daemon=True)
    commands.start()
    listening = finished = False
    last = None
    while commands.is_alive():
        status = handle.status()
        for alert in ses.pop_alerts():
            if alert.category() & lt.alert.category_t.error_notification:
                print(alert, file=sys.stderr, flush=True)
        # For the report of a failed test.
        now = (status.num_peers, status.num_pieces, str(status.state))
        if now != last:
            print("peers %d, pieces %d, %s" % now, file=sys.stderr, flush=True)
            last = now
        checked = status.state in (lt.torrent_status.downloading, lt.torrent_status.finished, lt.torrent_status.seeding)
        ready = checked or status.state == lt.torrent_status.downloading_metadata
        if ready and not listening and ses.listen_port() == port:
            listening = True
            say(event="listening", port=port, done=status.is_seeding)
        if checked and status.is_seeding and not finished:
            finished = True
            say(event="finished")
        commands.join(0.1)


def resume(path, folder, out):
    ses = session(0)
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(path)
    params.save_path = folder
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    handle = ses.add_torrent(params)
    done = (lt.torrent_status.downloading, lt.torrent_status.finished, lt.torrent_status.seeding)
    while handle.status().state not in done:
        time.sleep(0.02)
    handle.pause()
    handle.save_resume_data(lt.torrent_handle.flush_disk_cache)
    while True:
        ses.wait_for_alert(1000)
        for alert in ses.pop_alerts():
            if isinstance(alert, lt.save_resume_data_alert):
                with open(out, "wb") as file:
                    file.write(lt.write_resume_data_buf(alert.params))
                return


if __name__ == "__main__":
    if sys.argv[1] == "info":
        info(sys.argv[2])
    elif sys.argv[1] == "create":
        create(*sys.argv[2:])
    elif sys.argv[1] == "resume":
        resume(*sys.argv[2:])
    else:
        peer(sys.argv[2], sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
