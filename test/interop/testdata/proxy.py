"""A proxy for CONNECT-UDP over HTTP/3 that echoes all datagrams itself.

usage: proxy.py CERTIFICATE KEY
prints its port, then the path of each request. It refuses port 9. Before each
echo it sends a datagram of an unknown context, and a capsule of an unknown type.
"""

import asyncio
import sys

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DatagramReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration


class Proxy(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # aioquic announces datagrams and extended CONNECT along with WebTransport.
        self.http = H3Connection(self._quic, enable_webtransport=True)

    def quic_event_received(self, event):
        for e in self.http.handle_event(event):
            if isinstance(e, HeadersReceived):
                self.answer(e.stream_id, dict(e.headers))
            elif isinstance(e, DatagramReceived):
                self.http.send_data(e.stream_id, b"\x17\x03abc", end_stream=False)
                self.http.send_datagram(e.stream_id, b"\x02of no known context")
                self.http.send_datagram(e.stream_id, e.data)
        self.transmit()

    def answer(self, stream, headers):
        path = headers[b":path"].decode()
        print(headers[b":method"].decode(), headers.get(b":protocol", b"").decode(), path, flush=True)
        if path.endswith("/9/"):
            self.http.send_headers(stream, [(b":status", b"403")], end_stream=True)
        else:
            self.http.send_headers(stream, [(b":status", b"200"), (b"capsule-protocol", b"?1")])


async def main(certificate, key):
    configuration = QuicConfiguration(
        alpn_protocols=H3_ALPN, is_client=False, max_datagram_frame_size=65536, max_datagram_size=1400,
    )
    configuration.load_cert_chain(certificate, key)
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Proxy)
    print(server._transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
