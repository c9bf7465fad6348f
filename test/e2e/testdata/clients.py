"""usage: clients.py COUNT

Two things that asyncio programs do: many connections at a time, each to an
address of its own, and a half-close before the answer.
"""
import asyncio
import sys


async def greeting(number):
    host = f"192.168.11.{1 + number % 250}"
    reader, writer = await asyncio.open_connection(host, 22)
    peer = writer.get_extra_info("peername")
    line = await reader.readline()
    await together.wait()
    writer.close()
    await writer.wait_closed()
    assert peer == (host, 22), peer
    assert line == f"{host}:22\n".encode(), line


async def question(number):
    reader, writer = await asyncio.open_connection("192.168.11.251", 80)
    writer.write(b"question %d" % number)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer == b"answer to question %d" % number, answer


async def main(count):
    global together
    together = asyncio.Barrier(count)
    await asyncio.gather(*map(greeting, range(count)))
    await asyncio.gather(*map(question, range(count)))
    print(count, "greetings and answers")


asyncio.run(main(int(sys.argv[1])))
