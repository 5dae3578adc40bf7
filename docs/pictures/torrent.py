"""The seconds in which libtorrent brings a file from one process to another, hashed and synced.

    torrent.py FILE DIR     FILE is seeded by a second process, and comes to DIR
"""

import os
import subprocess
import sys
import time

import libtorrent as lt

PIECE_BYTES = 1 << 20


def session(port):
    return lt.session({
        "listen_interfaces": f"127.0.0.1:{port}", "enable_dht": False, "enable_lsd": False,
        "enable_upnp": False, "enable_natpmp": False, "alert_mask": 0,
        "enable_incoming_utp": False, "enable_outgoing_utp": False,
        "allow_multiple_connections_per_ip": True,
    })


def add(to, torrent, directory, flags):
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    params.save_path = directory
    params.flags = (params.flags | flags) & ~lt.torrent_flags.auto_managed & ~lt.torrent_flags.paused
    return to.add_torrent(params)


def seed(torrent, directory):
    own = session(0)
    handle = add(own, torrent, directory, lt.torrent_flags.seed_mode)
    while not handle.status().is_seeding:
        time.sleep(0.01)
    print(own.listen_port(), flush=True)
    sys.stdin.read()


def main(file, directory):
    os.makedirs(directory)
    torrent = directory + ".torrent"
    files = lt.file_storage()
    lt.add_files(files, file)
    made = lt.create_torrent(files, PIECE_BYTES, lt.create_torrent.v2_only)
    lt.set_piece_hashes(made, os.path.dirname(file))
    with open(torrent, "wb") as out:
        out.write(lt.bencode(made.generate()))
    words = [sys.executable, __file__, "--seed", torrent, os.path.dirname(file)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        port = int(other.stdout.readline())
        own = session(0)
        handle = add(own, torrent, directory, lt.torrent_flags.default_flags)
        while handle.status().state in (lt.torrent_status.checking_files, lt.torrent_status.checking_resume_data):
            time.sleep(0.005)
        since = time.time()
        handle.connect_peer(("127.0.0.1", port))
        while not handle.status().is_seeding:
            time.sleep(0.005)
        with open(os.path.join(directory, os.path.basename(file)), "rb") as copy:
            os.fdatasync(copy.fileno())
        print(f"{time.time() - since:.3f}", flush=True)
        other.kill()
    os._exit(0)


if sys.argv[1] == "--seed":
    seed(*sys.argv[2:])
else:
    main(*sys.argv[1:])
