"""Prints the addresses that Python finds for a name, one in a line, and nothing
for a name that does not exist."""
import socket
import sys

try:
    found = socket.getaddrinfo(sys.argv[1], None, type=socket.SOCK_STREAM)
except socket.gaierror as err:
    if err.errno not in (socket.EAI_NONAME, socket.EAI_NODATA):
        raise
    found = []
for *_, address in found:
    print(address[0])
