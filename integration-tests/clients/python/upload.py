"""A log file sent in streams by Python's grpcio: half of it, from the wrong place, and the rest."""

import pathlib

import client
import grpc


def steps(results):
    from trailmesh.query.v1 import upload_service_pb2 as words
    from trailmesh.query.v1 import upload_service_pb2_grpc as upload_grpc

    channel = client.channel()
    uploads = upload_grpc.UploadServiceStub(channel)
    key = [("authorization", f"Bearer {client.task['key']}")]
    log = pathlib.Path(client.task["log"])
    whole = log.read_bytes()
    begin = words.CreateUploadRequest(name=client.task["name"], file=log.name, size=len(whole))
    upload = uploads.CreateUpload(begin, metadata=key, timeout=30).upload.id

    def send(offset, end):
        def messages():
            yield words.UploadFileRequest(upload_id=upload, offset=offset)
            for at in range(offset, end, 100_000):
                yield words.UploadFileRequest(data=whole[at : min(at + 100_000, end)])

        return uploads.UploadFile(messages(), metadata=key, timeout=60).next_offset

    results["id"] = upload
    half = len(whole) // 2
    results["half"] = send(0, half) == half
    try:
        send(0, half)
    except grpc.RpcError as error:
        results["again"] = client.outcome(error)
    results["whole"] = send(half, len(whole)) == len(whole)
    done = uploads.FinishUpload(words.FinishUploadRequest(upload_id=upload), metadata=key, timeout=30).upload
    results["done"] = {"state": words.UploadState.Name(done.state), "changes": done.changes}
    channel.close()


client.run(steps)
