"""The main job by Python's grpcio: what changed, the plan that undoes it, and its script."""

import hashlib

import client


def steps(results):
    from trailmesh.change.v1 import change_pb2 as words
    from trailmesh.query.v1 import query_service_pb2 as query
    from trailmesh.query.v1 import query_service_pb2_grpc as query_grpc
    from trailmesh.recovery.v1 import recovery_service_pb2 as recovery
    from trailmesh.recovery.v1 import recovery_service_pb2_grpc as recovery_grpc

    channel = client.channel()
    changes = query_grpc.QueryServiceStub(channel)
    plans = recovery_grpc.RecoveryServiceStub(channel)
    key = [("authorization", f"Bearer {client.task['key']}")]
    server = client.task["server"]
    orders = words.Filter(tables=[words.TableFilter(schema="shop", table="orders")])

    page = changes.QueryChanges(query.QueryChangesRequest(server=server, filter=orders, page_size=1), metadata=key, timeout=30)
    newest = page.changes[0]
    results["newest"] = {
        "op": words.Op.Name(newest.op),
        "before": {cell.column: value_of(cell.value) for cell in newest.before.cells},
        "more": page.next_page_token != "",
        "complete": page.coverage.complete,
    }
    frames = changes.StreamChanges(query.StreamChangesRequest(server=server, filter=orders), metadata=key, timeout=30)
    results["streamed"] = sum(len(frame.changes) for frame in frames)

    accident = words.Filter(transaction=f"{newest.position.file}:{newest.position.offset}")
    planned = plans.PlanUndo(recovery.PlanUndoRequest(server=server, filter=accident), metadata=key, timeout=30)
    results["plan"] = {"included": planned.plan.summary.included, "conflicts": len(planned.conflicts)}
    call = plans.GetScript(recovery.GetScriptRequest(plan_id=planned.plan.id), metadata=key, timeout=30)
    script = b"".join(piece.chunk.data for piece in call)
    digest = hashlib.sha256(script).hexdigest()
    before = dict(call.initial_metadata()).get("trailmesh-digest")
    after = dict(call.trailing_metadata()).get("trailmesh-digest")
    results["script"] = {
        "text": script.decode(),
        "digests": [digest == planned.plan.digest, before == digest, after == digest],
    }

    # A follower hears of what comes, and hangs up.
    following = changes.FollowChanges(query.FollowChangesRequest(server=server, filter=orders, last=1), metadata=key, timeout=30)
    for frame in following:
        if frame.changes:
            results["followed"] = words.Op.Name(frame.changes[0].op)
            break
    following.cancel()
    channel.close()


def value_of(value):
    kind = value.WhichOneof("kind")
    if kind == "null":
        return None
    found = getattr(value, kind)
    return found.hex() if isinstance(found, bytes) else found


client.run(steps)
