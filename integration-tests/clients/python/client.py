"""What the scripts beside this one share: stubs made from the protos, a channel, and outcomes as JSON."""

import json
import os
import pathlib
import sys
import tempfile
import time
import traceback

import grpc
import grpc_tools
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

# The task: one JSON object on standard input, so that no secret is on a command line.
task = json.load(sys.stdin)


def make_stubs(folder):
    """Compiles every proto under the task's roots into `folder`."""
    roots = task["protos"]
    files = [str(path.relative_to(root)) for root in roots for path in sorted(pathlib.Path(root).rglob("*.proto"))]
    # The types of google.protobuf come with the tools.
    included = str(pathlib.Path(grpc_tools.__file__).parent / "_proto")
    command = ["protoc", *(f"--proto_path={root}" for root in [*roots, included])]
    command += [f"--python_out={folder}", f"--grpc_python_out={folder}", *files]
    if protoc.main(command) != 0:
        sys.exit("the protos do not compile")
    sys.path.insert(0, folder)


def channel(*options):
    """A channel to the gateway that trusts the task's authority and nobody else."""
    authority = pathlib.Path(task["ca"]).read_bytes()
    return grpc.secure_channel(task["target"], grpc.ssl_channel_credentials(authority), options=options)


def outcome(error):
    """How a call ended: its code, and from the rich status the reason and domain."""
    if error is None:
        return {"code": "OK"}
    result = {"code": error.code().name}
    rich = rpc_status.from_call(error) if hasattr(error, "trailing_metadata") else None
    for detail in rich.details if rich else []:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            result |= {"reason": info.reason, "domain": info.domain}
    return result


def attempt(call):
    """The outcome of a call, with how long it took and what it answered."""
    began, answer, error = time.monotonic(), None, None
    try:
        answer = call()
    except (grpc.RpcError, grpc.FutureCancelledError) as raised:
        error = raised
    result = {"code": "CANCELLED"} if isinstance(error, grpc.FutureCancelledError) else outcome(error)
    return result | {"seconds": time.monotonic() - began}, answer


def run(steps):
    """Runs `steps`, a function that fills a dictionary, and prints that."""
    results = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            make_stubs(folder)
            steps(results)
        print(json.dumps(results), flush=True)
        code = 0
    except BaseException:
        traceback.print_exc()
        code = 1
    # Threads of an open channel would keep the process.
    sys.stderr.flush()
    os._exit(code)
