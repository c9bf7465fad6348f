"""Fetches http://NAME/ over a connection by name, and prints the answer and the
peer."""
import http.client
import socket
import sys

connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=60)
connection.sock = socket.create_connection((sys.argv[1], 80), timeout=60)
connection.request("GET", "/")
peer = connection.sock.getpeername()[0]
print(connection.getresponse().read().decode(), "peer", peer)
