# shellcheck shell=bash
# What the mesh costs: the same questions of one store, asked of its files on the agent's machine and asked through gateway, query and agent, in
# one run on one machine; and how many rows a second come through. Sourced by ./dev after mesh.bash and bench.bash.

bench_mesh() {
  (($# == 0)) || usage_error "./dev bench mesh takes no arguments"
  cd "$checkout"
  make_state
  build_needs
  install_server mariadb
  build_trail release
  local place=$state/bench-mesh client
  say "${bold}building the client${plain} (release)"
  cargo build --quiet --release --locked --package integration-tests --example bench_mesh >&2 || die "the bench does not build" "see above"
  client=$(cargo metadata --locked --format-version 1 --no-deps | jq -r .target_directory)/release/examples/bench_mesh
  with_lock "$state/bench.lock" bench_mesh_alone
}

bench_mesh_alone() {
  local port key id
  watcher=''
  trap end_bench_mesh EXIT
  rm -rf "$place"
  mkdir -p "$place"
  private_mesh "$place" release
  start_server mariadb "$place/server"
  port=$(<"$place/server/home/port")
  MYSQL_PWD=$(<"$state/secrets/password")
  export MYSQL_PWD
  eval "$(server_environment mariadb "$place/server")"
  bench_mesh_people
  "$trail" agent enrol --mesh "$TRAILMESH_PUBLIC_URL" --ca "$mesh/ca.pem" --token-file "$place/token" --dir "$place/agent" >&2
  setpriv --pdeathsig TERM "$trail" agent run --dir "$place/agent" >"$place/agent.log" 2>&1 7>&- &
  watcher=$!
  bench_mesh_awaits .state.following true
  say "writing $((bench_rows * 2)) narrow row changes, which the agent reads as they come"
  bench_mesh_sql | "$TRAILMESH_TEST_MARIADB_CLIENT" -uroot -S "$TRAILMESH_TEST_MARIADB_SOCKET"
  bench_mesh_awaits .state.changes "$((bench_rows * 2))"
  say "asking"
  BENCH_URL=$TRAILMESH_PUBLIC_URL BENCH_CA=$mesh/ca.pem BENCH_KEY=$key BENCH_SERVER=bench BENCH_STORE=$place/agent/stores/$id \
    BENCH_ROWS=$bench_rows BENCH_ASKS=400 "$client" | tee "$place/numbers" >&2
  bench_mesh_table
}

bench_mesh_sql() {
  cat <<SQL
SET autocommit = 0;
CREATE DATABASE bench;
USE bench;
CREATE TABLE narrow (id INT PRIMARY KEY, a INT NOT NULL, b BIGINT NOT NULL);
INSERT INTO narrow SELECT seq, seq * 7 % 1000, seq * seq FROM seq_1_to_$bench_rows;
COMMIT;
UPDATE narrow SET a = a + 1;
COMMIT;
SQL
}

mesh_call() { curl --silent --show-error --fail-with-body --cacert "$mesh/ca.pem" --oauth2-bearer "${bearer:-}" "$TRAILMESH_PUBLIC_URL$1" "${@:2}"; }

# Somebody with a tenant, the server, an agent's token and a key for the client. Sets `key` and `id`.
bench_mesh_people() {
  local bearer='' mailed
  mesh_call /v1/auth/sign-up --json '{"email":"bench@example.org","password":"a long enough secret","displayName":"Bench"}' >/dev/null
  for _ in {1..100}; do
    mailed=$(cat "$mesh"/mail/* 2>/dev/null | tr -d '\r' | grep '^bt_[a-z]*_') && break
    sleep 0.1
  done
  mesh_call /v1/auth/verify-email --json "{\"token\":\"$mailed\"}" >/dev/null
  bearer=$(mesh_call /v1/auth/login --json '{"email":"bench@example.org","password":"a long enough secret"}' | jq -r .tokens.accessToken)
  mesh_call /v1/tenants --json '{"name":"Bench","region":"REGION_US"}' >/dev/null
  id=$(mesh_call /v1/servers --json "{\"server\":{\"name\":\"bench\",\"host\":\"127.0.0.1\",\"port\":$port,\"username\":\"trail\",\"tlsMode\":\"TLS_MODE_REQUIRED\"},\"password\":\"$MYSQL_PWD\"}" | jq -r .server.id)
  mesh_call /v1/agents --json '{"name":"bench"}' | jq -r .enrolmentToken >"$place/token"
  key=$(mesh_call /v1/keys --json '{"name":"bench","role":"ROLE_ANALYST"}' | jq -r .secret)
}

# bench_mesh_awaits FILTER VALUE: until the server's status says so.
bench_mesh_awaits() {
  local bearer=$key
  for _ in {1..600}; do
    if [[ $(mesh_call /v1/servers/bench/status | jq -r "$1") == "$2" ]]; then return; fi
    kill -0 "$watcher" 2>/dev/null || break
    sleep 0.5
  done
  tail -n 20 "$place/agent.log" >&2
  die "the agent does not come to $1 = $2" "see $place"
}

bench_mesh_table() {
  local name pid
  number() { awk -v name="$1" '$1 == name { print $2 }' "$place/numbers"; }
  printf '\n| what | beside the store | through the mesh |\n|---|---|---|\n'
  printf '| one row'\''s history, p50 | %s ms | %s ms |\n' "$(number history_alone_p50)" "$(number history_mesh_p50)"
  printf '| one row'\''s history, p99 | %s ms | %s ms |\n' "$(number history_alone_p99)" "$(number history_mesh_p99)"
  printf '| all changes of a table | %s rows/s | %s rows/s (%s MB/s) |\n' "$(number scan_alone)" "$(number stream_mesh)" "$(number stream_mesh_bytes)"
  printf '\n| process | resident MB, now | at most |\n|---|---|---|\n'
  for pid in $(mesh_pids) "$watcher"; do
    name=$(tr '\0' ' ' <"/proc/$pid/cmdline" | awk '{ n = split($1, part, "/"); print part[n], $2 }')
    awk -v name="$name" '/^VmRSS/ { now = $2 } /^VmHWM/ { most = $2 } END { printf "| %s | %.0f | %.0f |\n", name, now / 1024, most / 1024 }' "/proc/$pid/status"
  done
}

end_bench_mesh() {
  [[ -z $watcher ]] || kill -TERM "$watcher" 2>/dev/null || true
  end_private_mesh erase_server
  [[ ! -d $place/server ]] || erase_server "$place/server"
  [[ -n ${TRAILMESH_BENCH_KEEP:-} ]] || rm -rf "$place"
}
