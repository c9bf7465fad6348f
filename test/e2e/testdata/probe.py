"""usage: probe.py NAME ADDRESS...

The order in which getaddrinfo gives the addresses of a name, which it finds out
by probing for sources, and the source of a socket that is connected to each address.
"""
import socket
import sys

name, *addresses = sys.argv[1:]
for answer in socket.getaddrinfo(name, 443, type=socket.SOCK_DGRAM):
    print(name, answer[4][0])
for address in addresses:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 53))
        print(address, "from", probe.getsockname()[0], "to", probe.getpeername()[0])
