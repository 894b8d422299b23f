"""Streams through the gateway by Python's grpcio, as its users write them."""

import datetime

import client


def steps(results):
    import echo_pb2 as pb
    import echo_pb2_grpc as pb_grpc

    pings = [("grpc.keepalive_time_ms", 100), ("grpc.keepalive_permit_without_calls", 1), ("grpc.http2.max_pings_without_data", 0)]
    channel = client.channel(*pings)
    echo = pb_grpc.EchoServiceStub(channel)

    def read(call, upto=None):
        """The outcome of a stream and the numbers that came."""
        numbers = []

        def all_of_it():
            for answer in call:
                numbers.append(answer.number)
                if len(numbers) == upto:
                    call.cancel()

        return client.attempt(all_of_it)[0] | {"messages": len(numbers), "in_order": numbers == list(range(1, len(numbers) + 1))}

    slowly = datetime.timedelta(milliseconds=10)
    results["thousand"] = read(echo.Count(pb.CountRequest(to=1000), timeout=60))
    results["cancel"] = read(echo.Count(pb.CountRequest(to=100_000, every=slowly), timeout=60), upto=5)
    results["late error"] = read(echo.Count(pb.CountRequest(to=3, fail_with=9), timeout=60))
    results["early error"] = read(echo.Count(pb.CountRequest(fail_with=5), timeout=60))
    results["deadline"] = read(echo.Count(pb.CountRequest(to=100_000, every=slowly), timeout=0.5))
    # Some ten pings fall into this one.
    results["pings"] = read(echo.Count(pb.CountRequest(to=4, every=datetime.timedelta(milliseconds=300)), timeout=60))
    waits = pb.EchoRequest(wait=datetime.timedelta(seconds=30))
    results["unary deadline"], _ = client.attempt(lambda: echo.Echo(waits, timeout=0.3))

    texts = [f"turn {turn}" for turn in range(100)]
    call = echo.Chat((pb.ChatRequest(text=text) for text in texts), timeout=60)
    results["chat"], answer = client.attempt(lambda: [answer.text for answer in call])
    results["chat"]["same"] = answer == texts

    chunks = [pb.UploadRequest(chunk=bytes([turn % 256]) * 30_000) for turn in range(100)]
    parts = [pb.UploadRequest(header=pb.UploadRequest.Header(name="from Python")), *chunks]
    results["upload"], answer = client.attempt(lambda: echo.Upload(iter(parts), timeout=60))
    results["upload"] |= {"name": answer.name, "bytes": answer.bytes, "chunks": answer.chunks} if answer else {}

    # Many streams at a time on one connection.
    calls = [echo.Count(pb.CountRequest(to=100), timeout=60) for _ in range(50)]
    results["many"] = sorted({str((result["code"], result["messages"])) for result in map(read, calls)})
    channel.close()


client.run(steps)
