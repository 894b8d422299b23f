"""Calls of the mesh by Python's grpcio, as its users write them."""

import client
import grpc


def steps(results):
    from trailmesh.tenant.v1 import server_service_pb2 as pb
    from trailmesh.tenant.v1 import server_service_pb2_grpc as pb_grpc

    # Pings every 200 ms, with and without calls: a server that minds would end the connection.
    pings = [("grpc.keepalive_time_ms", 200), ("grpc.keepalive_permit_without_calls", 1), ("grpc.http2.max_pings_without_data", 0)]
    states = []
    channel = client.channel(*pings)
    channel.subscribe(lambda state: states.append(state.name), try_to_connect=True)
    servers = pb_grpc.ServerServiceStub(channel)
    key = [("authorization", f"Bearer {client.task['key']}")]
    person = [("authorization", f"Bearer {client.task['token']}")]

    def step(name, method, request, metadata, **more):
        results[name], answer = client.attempt(lambda: method(request, metadata=metadata, **({"timeout": 30} | more)))
        return answer

    answer = step("key", servers.ListServers, pb.ListServersRequest(), key)
    results["key"]["servers"] = [server.name for server in answer.servers] if answer else None
    step("nobody", servers.ListServers, pb.ListServersRequest(), [])
    step("wrong key", servers.ListServers, pb.ListServersRequest(), [("authorization", "Bearer bt_live_wrong")])

    # A person in two tenants says which; a key has only one.
    step("no tenant", servers.ListServers, pb.ListServersRequest(), person)
    for name in ["tenant", "nonsense_tenant"]:
        metadata = [*person, ("x-trailmesh-tenant", client.task[name])]
        step(name.replace("_", " "), servers.ListServers, pb.ListServersRequest(), metadata)

    server = pb.Server(name=client.task["name"], host="db.example.com", username="trail", labels={"from": "Python"})
    request = pb.RegisterServerRequest(server=server)
    coded = [*key, ("x-mfa-code", client.task["code"])]
    step("no code", servers.RegisterServer, request, key)
    answer = step("code", servers.RegisterServer, request, coded)
    results["code"]["port"] = answer.server.port if answer else None
    step("code again", servers.RegisterServer, request, coded)
    step("nonsense id", servers.GetServer, pb.GetServerRequest(server_id="nonsense"), key)

    for name, path in [
        ("unknown method", "/trailmesh.tenant.v1.ServerService/Nothing"),
        ("internal method", "/trailmesh.auth.v1.GuardService/Authenticate"),
    ]:
        method = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
        step(name, method, b"", key)

    step("deadline", servers.ListServers, pb.ListServersRequest(), key, timeout=0.000_001)
    call = servers.ListServers.future(pb.ListServersRequest(), metadata=key)
    call.cancel()
    results["cancel"], _ = client.attempt(call.result)

    calls = [servers.ListServers.future(pb.ListServersRequest(), metadata=key, timeout=60) for _ in range(200)]
    results["parallel"] = sorted({client.outcome(call if call.exception() else None)["code"] for call in calls})
    results["disconnected"] = [state for state in states if state in ("TRANSIENT_FAILURE", "SHUTDOWN")]
    channel.close()


client.run(steps)
