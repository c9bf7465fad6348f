"""Asks an edge over HTTP/3 for CONNECT-UDP, and echoes datagrams through it.

usage: client.py ROOTS PORT TARGET-HOST TARGET-PORT
prints the status, then what came back of each datagram.
"""

import asyncio
import os
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DatagramReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration

SIZES = (1, 0, 62, 63, 64, 1100, 1200)


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic, enable_webtransport=True)
        self.status = asyncio.get_running_loop().create_future()
        self.datagrams = asyncio.Queue()

    def quic_event_received(self, event):
        for e in self.http.handle_event(event):
            if isinstance(e, HeadersReceived) and not self.status.done():
                self.status.set_result(dict(e.headers)[b":status"].decode())
            elif isinstance(e, DatagramReceived):
                self.datagrams.put_nowait(e.data)


async def main(roots, port, host, target):
    configuration = QuicConfiguration(
        alpn_protocols=H3_ALPN, cafile=roots, server_name="127.0.0.1",
        max_datagram_frame_size=65536, max_datagram_size=1400,
    )
    async with connect("127.0.0.1", int(port), configuration=configuration, create_protocol=Client) as c:
        stream = c._quic.get_next_available_stream_id()
        c.http.send_headers(stream, [
            (b":method", b"CONNECT"), (b":protocol", b"connect-udp"), (b":scheme", b"https"),
            (b":authority", f"127.0.0.1:{port}".encode()),
            (b":path", f"/.well-known/masque/udp/{host}/{target}/".encode()),
            (b"capsule-protocol", b"?1"),
        ])
        c.transmit()
        status = await asyncio.wait_for(c.status, 60)
        print("status", status)
        if status != "200":
            return
        for size in SIZES:
            sent = os.urandom(size)
            c.http.send_datagram(stream, b"\x02of no known context")  # to be dropped
            c.http.send_datagram(stream, b"\x00" + sent)
            c.transmit()
            got = await asyncio.wait_for(c.datagrams.get(), 60)
            print(size, "same" if got == b"\x00" + sent else f"differs: {len(got)} bytes")


asyncio.run(main(*sys.argv[1:]))
