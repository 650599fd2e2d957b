"""Serves byte ranges of a folder's files over TLS: CERTIFICATE KEY FOLDER. Prints its port."""

import re
import socket
import ssl
import sys
import threading
import urllib.parse

certificate, key, folder = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)


def serve(plain):
    try:
        with context.wrap_socket(plain, server_side=True) as stream:
            head = b""
            while data := stream.recv(4096):
                head += data
                while b"\r\n\r\n" in head:
                    request, head = head.split(b"\r\n\r\n", 1)
                    answer(stream, request)
    except OSError:
        plain.close()


def answer(stream, request):
    path = urllib.parse.unquote(request.split()[1].decode())
    first, last = map(int, re.search(rb"(?i)\nrange: *bytes=(\d+)-(\d+)", request).groups())
    with open(folder + path, "rb") as file:
        whole = file.read()
    part = whole[first : last + 1]
    stream.sendall(
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\nContent-Range: bytes %d-%d/%d\r\n\r\n"
        % (len(part), first, last, len(whole))
        + part
    )


while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
