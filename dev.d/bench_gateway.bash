# shellcheck shell=bash
# The gateway beside its rivals, in one run on one machine: nginx passing gRPC on, and Go's grpc-gateway making gRPC out of JSON. All have
# the same certificates and cipher, the same service behind, the same client, and the client compares every answer to its last byte.
# What is compared is CPU time of the process, so that it does not matter what else runs on the machine and what the client takes.
# Sourced by ./dev after tools.bash, servers.bash and bench.bash.

# Rounds go through all rivals in turn; of a number that the machine's other work can only make worse, the best round counts.
gateway_rounds=${TRAILMESH_BENCH_ROUNDS:-3}
gateway_seconds=${TRAILMESH_BENCH_SECONDS:-4}
gateway_connections=2000

bench_gateway() {
  (($# == 0)) || usage_error "./dev bench gateway takes no arguments"
  cd "$checkout"
  make_state
  build_needs
  require nginx nginx-light
  install_store redis
  local place=$state/bench-gateway program
  program=$(gateway_program)
  with_lock "$state/bench.lock" bench_gateway_alone
}

# The parts of the bench, built as they would be shipped; prints the path.
gateway_program() {
  say "${bold}building the gateway${plain} (release; the first time takes some minutes)"
  cargo build --release --locked --package gateway --example bench_gateway >&2 || die "the bench does not build" "see above"
  echo "$(cargo metadata --locked --format-version 1 --no-deps | jq -r .target_directory)/release/examples/bench_gateway"
}

bench_gateway_alone() {
  # Not local: the trap at the end of this (sub)shell still needs them.
  declare -gA pid=() port=()
  local -A cost=() pace=() middle=() tail=() direct=() peak=() behind_cost=() redis_cost=()
  local subjects=() rival='' round speed
  trap end_bench_gateway EXIT
  rm -rf "$place"
  mkdir -p "$place/certificates"
  "$program" certificates "$place/certificates"
  # Each connection is a file.
  ulimit -n "$((gateway_connections * 4))" 2>/dev/null || ulimit -n "$(ulimit -H -n)"
  start_behind
  start_limits
  prepare_grpc_gateway
  start_part gateway
  start_part alone
  start_part nginx
  [[ -z $rival ]] || start_part grpc-gateway
  subjects=('nginx grpc' 'alone grpc' 'gateway grpc' 'gateway grpc-key')
  [[ -z $rival ]] || subjects+=('grpc-gateway json')
  subjects+=('alone json' 'gateway json' 'gateway json-key')
  for ((round = 1; round <= gateway_rounds; round++)); do
    say "${dim}round $round of $gateway_rounds${plain}"
    each_subject measure
  done
  print_gateway_table
  print_gateway_memory
}

each_subject() {
  local subject words
  for subject in "${subjects[@]}"; do
    read -ra words <<<"$subject"
    "$1" "${words[@]}"
  done
}

end_bench_gateway() {
  local name
  for name in "${!pid[@]}"; do [[ $name == redis ]] || kill -TERM "${pid[$name]}" 2>/dev/null || true; done
  [[ ! -d $place/redis ]] || erase_server "$place/redis"
  [[ -n ${TRAILMESH_BENCH_KEEP:-} ]] || rm -rf "$place"
}

# --- the processes ---------------------------------------------------------------------------------------------------------

# launch_part NAME COMMAND…: in the background, its words in a log.
launch_part() {
  local name=$1
  shift
  setsid "$@" </dev/null >"$place/$name.log" 2>&1 7>&- 8>&- 9>&- &
  pid[$name]=$!
}

# await_part NAME: until it answers a call rightly.
await_part() {
  local name=$1 kind=$2 words=()
  : >"$place/first"
  [[ $name != behind ]] || words=(--identity gateway)
  for _ in {1..150}; do
    kill -0 "${pid[$name]}" 2>/dev/null || break
    if port_taken "${port[$name]}" && load "$name" "$kind" --seconds 0.1 --connections 1 "${words[@]}" >"$place/first" 2>&1; then return; fi
    sleep 0.1
  done
  tail -n 5 "$place/$name.log" "$place/first" >&2
  die "$name does not answer" "see above"
}

start_behind() {
  port[behind]=$(free_port) port[auth]=$(free_port)
  launch_part behind "$program" behind --certificates "$place/certificates" \
    --bench "127.0.0.1:${port[behind]}" --auth "127.0.0.1:${port[auth]}"
  await_part behind grpc
}

start_limits() {
  start_server redis "$place/redis"
  local redis
  redis=$(server_environment redis "$place/redis")
  eval "$redis"
  pid[redis]=$(running_pid "$(home_of "$place/redis")")
}

# start_part NAME: the gateway or a rival of it, which is ended first if it runs.
start_part() {
  [[ -z ${pid[$1]:-} ]] || end_part "$1"
  port[$1]=$(free_port)
  case $1 in
    gateway) start_gateway && await_part gateway json-key ;;
    alone) start_gateway_alone && await_part alone json-key ;;
    nginx) start_nginx && await_part nginx grpc ;;
    grpc-gateway) start_grpc_gateway && await_part grpc-gateway json ;;
  esac
}

end_part() {
  kill -TERM "${pid[$1]}"
  wait "${pid[$1]}" || true
  unset "pid[$1]"
}

# As an installation has it: Redis with TLS, JSON logs, the usual bounds; only that the rates never refuse the bench, and that one tenant
# may have all of it, also more than a thousand calls at once.
start_gateway() {
  TRAILMESH_REDIS_URL=$TRAILMESH_TEST_REDIS_TLS_URL TRAILMESH_REDIS_CA_FILE=$TRAILMESH_TEST_REDIS_CA launch_gateway gateway
}

# Counts limits in its own memory: nearer to rivals, which have none.
start_gateway_alone() { launch_gateway alone --dev; }

launch_gateway() {
  launch_part "$1" "$program" gateway "${@:2}" --region eu --propagation-delay 0s \
    --listen "127.0.0.1:${port[$1]}" --admin-listen 127.0.0.1:0 \
    --identity-cert-file "$place/certificates/gateway.pem" --identity-key-file "$place/certificates/gateway-key.pem" \
    --trust-bundle-file "$place/certificates/bundle.pem" \
    --peer "auth=https://127.0.0.1:${port[auth]}" --peer "bench=https://127.0.0.1:${port[behind]}" \
    --tls-cert-file "$place/certificates/edge.pem" --tls-key-file "$place/certificates/edge-key.pem" \
    --rate-limits free=100000000/100000000 --strict-rate 100000000 --tenant-share 100 --max-in-flight 10000
}

start_nginx() {
  mkdir -p "$place/nginx"
  cat >"$place/nginx/nginx.conf" <<CONF
daemon off;
worker_processes $(nproc);
pid $place/nginx/pid;
error_log $place/nginx/error.log warn;
events { worker_connections $((gateway_connections * 3)); }
http {
  access_log off;
  client_body_temp_path $place/nginx/body;
  proxy_temp_path $place/nginx/proxy;
  fastcgi_temp_path $place/nginx/fastcgi;
  uwsgi_temp_path $place/nginx/uwsgi;
  scgi_temp_path $place/nginx/scgi;
  # As many calls on a connection as on the gateway's, which sets no limit.
  keepalive_requests 1000000000;
  upstream behind {
    server 127.0.0.1:${port[behind]};
    keepalive 256;
    keepalive_requests 1000000000;
  }
  server {
    listen 127.0.0.1:${port[nginx]} ssl http2;
    ssl_certificate $place/certificates/edge.pem;
    ssl_certificate_key $place/certificates/edge-key.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    location / {
      grpc_pass grpcs://behind;
      grpc_ssl_protocols TLSv1.3;
      grpc_ssl_certificate $place/certificates/gateway.pem;
      grpc_ssl_certificate_key $place/certificates/gateway-key.pem;
      grpc_ssl_trusted_certificate $place/certificates/bundle.pem;
      grpc_ssl_verify on;
      grpc_ssl_name localhost;
    }
  }
}
CONF
  launch_part nginx nginx -p "$place/nginx" -c "$place/nginx/nginx.conf" -e "$place/nginx/error.log"
}

# Sets `rival` when there is one.
prepare_grpc_gateway() {
  if ! command -v go >/dev/null; then
    say "${bold}grpc-gateway is left out:${plain} there is no go on the PATH"
    return
  fi
  say "building grpc-gateway with $(go env GOVERSION)"
  # A subshell, for it changes the folder.
  if (build_grpc_gateway) >"$place/go.log" 2>&1; then
    rival="grpc-gateway $(cd "$place/go" && go list -m -f '{{.Version}}' github.com/grpc-ecosystem/grpc-gateway/v2), $(go env GOVERSION)"
  else
    tail -n 5 "$place/go.log" >&2
    say "${bold}grpc-gateway is left out:${plain} it does not build here"
  fi
}

start_grpc_gateway() {
  launch_part grpc-gateway "$place/go/grpc-gateway" -listen "127.0.0.1:${port[grpc-gateway]}" -upstream "127.0.0.1:${port[behind]}" \
    -edge "$place/certificates/edge" -identity "$place/certificates/gateway" -bundle "$place/certificates/bundle.pem"
}

# Plugins and libraries at the versions of go.sum; the code is generated from the proto that the gateway loads.
build_grpc_gateway() {
  local go=$place/go python plugin bench=$checkout/services/gateway/examples/bench_gateway
  python=$(python_home)/bin/python || return
  cp -r "$checkout/dev.d/bench/grpc-gateway" "$go" && cd "$go" && mkdir bin || return
  GOBIN=$go/bin go install tool || return
  for plugin in go go-grpc grpc-gateway; do
    "$python" -m grpc_tools.protoc "--proto_path=$bench" "--proto_path=$checkout/proto" \
      "--plugin=protoc-gen-$plugin=bin/protoc-gen-$plugin" "--${plugin}_out=." "--${plugin}_opt=module=bench" \
      "--${plugin}_opt=Mbench.proto=bench/benchpb" "--${plugin}_opt=Mtrailmesh/policy/v1/policy.proto=bench/policypb" \
      "--${plugin}_opt=Mgoogle/api/annotations.proto=google.golang.org/genproto/googleapis/api/annotations" \
      "--${plugin}_opt=Mgoogle/api/http.proto=google.golang.org/genproto/googleapis/api/annotations" \
      "--${plugin}_opt=Mtrailmesh/common/v1/common.proto=bench/commonpb" \
      bench.proto trailmesh/policy/v1/policy.proto trailmesh/common/v1/common.proto || return
  done
  go build -mod=readonly -o grpc-gateway .
}

# --- measuring -------------------------------------------------------------------------------------------------------------

# load NAME KIND OPTION…: the client, on one of the processes.
load() {
  local name=$1 kind=$2
  shift 2
  "$program" load --address "127.0.0.1:${port[$name]}" --certificates "$place/certificates" --kind "$kind" "$@"
}

# ticks NAME: what the process and its children have used of the processors, in hundredths of a second.
ticks() {
  local id sum=0 fields
  for id in "${pid[$1]}" $(<"/proc/${pid[$1]}/task/${pid[$1]}/children"); do
    read -r fields <"/proc/$id/stat"
    # Past the program's name, which may hold anything.
    read -ra fields <<<"${fields##*) }"
    ((sum += fields[11] + fields[12], 1))
  done
  echo "$sum"
}

# rss NAME: resident kilobytes of the process and its children.
rss() {
  local id sum=0
  for id in "${pid[$1]}" $(<"/proc/${pid[$1]}/task/${pid[$1]}/children"); do
    ((sum += $(awk '$1 == "VmRSS:" { print $2 }' "/proc/$id/status"), 1))
  done
  echo "$sum"
}

# best MAP KEY VALUE: keeps the smaller number.
best() {
  local -n map=$1
  awk -v old="${map[$2]:-}" -v new="$3" 'BEGIN { exit !(old == "" || new + 0 < old + 0) }' && map[$2]=$3
  return 0
}

run_load() { load "$@" >"$place/answer" || die "$1 $2: $(head -c 600 "$place/answer")" "a bench with wrong answers measures nothing"; }

measure() {
  measure_peak "$@"
  measure_pace "$@"
}

# As fast as answers come: calls per second, and microseconds of the processor for one.
measure_peak() {
  local key="$1 $2" before after requests seconds behind redis
  before=$(ticks "$1") behind=$(ticks behind) redis=$(ticks redis)
  run_load "$1" "$2" --seconds "$gateway_seconds"
  after=$(ticks "$1") behind=$(($(ticks behind) - behind)) redis=$(($(ticks redis) - redis))
  read -r requests seconds _ <"$place/answer"
  speed=$(awk "BEGIN { printf \"%d\", $requests / $seconds }")
  ((speed <= ${peak[$key]:-0})) || peak[$key]=$speed
  best cost "$key" "$(awk "BEGIN { printf \"%.2f\", ($after - $before) * 10000 / $requests }")"
  best behind_cost "$key" "$(awk "BEGIN { printf \"%.2f\", $behind * 10000 / $requests }")"
  best redis_cost "$key" "$(awk "BEGIN { printf \"%.2f\", $redis * 10000 / $requests }")"
}

# At half of the speed that was just reached, calls that come when they come; and the same without anybody between, to see what it adds.
measure_pace() {
  local key="$1 $2" p50 p99 alone
  run_load "$1" "$2" --seconds "$gateway_seconds" --rate "$((speed / 2))"
  read -r _ _ p50 p99 _ <"$place/answer"
  run_load behind grpc --identity gateway --seconds "$gateway_seconds" --rate "$((speed / 2))"
  read -r _ _ _ alone _ <"$place/answer"
  ((p99 < ${tail[$key]:-1000000000})) || return 0
  pace[$key]=$((speed / 2)) middle[$key]=$p50 tail[$key]=$p99 direct[$key]=$alone
}

# --- printing --------------------------------------------------------------------------------------------------------------

print_gateway_table() {
  local subject
  printf '\n%s%-36s %9s %11s %11s | %9s %8s %8s %9s%s\n' "$bold" 'TLS outside, mutual TLS behind' 'calls/s' 'µs CPU/call' \
    'calls/CPU-s' 'half load' 'p50 ms' 'p99 ms' 'added p99' "$plain"
  for subject in "${subjects[@]}"; do
    awk -v name="$(subject_words "$subject")" -v peak="${peak[$subject]}" -v cost="${cost[$subject]}" -v pace="${pace[$subject]}" \
      -v p50="${middle[$subject]}" -v p99="${tail[$subject]}" -v direct="${direct[$subject]}" 'BEGIN {
        printf "%-36s %9d %11.1f %11d | %9d %8.2f %8.2f %9.2f\n", name, peak, cost, 1e6 / cost, pace, p50 / 1e3, p99 / 1e3, (p99 - direct) / 1e3 }'
  done
  printf '\n'
  print_ratio 'gRPC passed through, of nginx' 'nginx grpc' 'alone grpc' 1.0
  print_ratio 'the same with limits in Redis' 'nginx grpc' 'gateway grpc' 1.0
  if [[ -n $rival ]]; then
    print_ratio 'JSON, key, limits in Redis, of grpc-gateway' 'grpc-gateway json' 'gateway json-key' 2.0
    print_ratio 'JSON and no more, of grpc-gateway' 'grpc-gateway json' 'alone json' 2.0
  fi
  printf 'beside it: the service behind took %.1f µs a call from nginx, %.1f from the gateway; Redis %.1f µs for a call with limits\n' \
    "${behind_cost[nginx grpc]}" "${behind_cost[alone grpc]}" "${redis_cost[gateway json-key]}"
  printf '%s; %s%s; %s processors, load %s\n' "$(nginx -v 2>&1 | sed 's/.*: //')" "$("$(redis_program)" --version | sed -n 's/.* v=\([^ ]*\).*/Redis \1/p')" \
    "${rival:+; $rival}" "$(nproc)" "$(cut -d' ' -f1 /proc/loadavg)"
}

subject_words() {
  case $1 in
    'nginx grpc') echo 'nginx grpc_pass' ;;
    'alone grpc') echo 'gateway, gRPC' ;;
    'gateway grpc') echo 'gateway, gRPC, limits in Redis' ;;
    'gateway grpc-key') echo 'gateway, gRPC, key, limits in Redis' ;;
    'grpc-gateway json') echo 'grpc-gateway, JSON' ;;
    'alone json') echo 'gateway, JSON' ;;
    'gateway json') echo 'gateway, JSON, limits in Redis' ;;
    'gateway json-key') echo 'gateway, JSON, key, limits in Redis' ;;
  esac
}

# print_ratio WORDS RIVAL OURS GOAL: calls for one second of the processor.
print_ratio() {
  awk -v words="$1" -v rival="${cost[$2]}" -v ours="${cost[$3]}" -v goal="$4" \
    'BEGIN { printf "%-44s %.2f ×  (goal %.1f)\n", words, rival / ours, goal }'
}

# Connections that have made one call and rest.
print_gateway_memory() {
  local name before after
  printf '\n%s%-36s %12s %14s %16s%s\n' "$bold" 'memory, HTTP/2 connections at rest' 'RSS without' "with $gateway_connections" 'KiB/connection' "$plain"
  for name in nginx gateway ${rival:+grpc-gateway}; do
    # As it is when hardly anybody has called yet.
    start_part "$name"
    before=$(rss "$name")
    hold_connections "$name"
    awk -v name="$name" -v before="$before" -v after="$after" -v count="$gateway_connections" \
      'BEGIN { printf "%-36s %9.1f MB %11.1f MB %16.1f\n", name, before / 1e3, after / 1e3, (after - before) / count }'
  done
}

# Sets `after`.
hold_connections() {
  local name=$1 kind=grpc holder feed
  [[ $name != grpc-gateway ]] || kind=json
  # Of the one before.
  rm -f "$place/hold"
  mkfifo "$place/feed.$name"
  "$program" hold --address "127.0.0.1:${port[$name]}" --certificates "$place/certificates" --kind "$kind" \
    --connections "$gateway_connections" <"$place/feed.$name" >"$place/hold" 2>&1 9>&- &
  holder=$!
  exec {feed}>"$place/feed.$name"
  for _ in {1..600}; do
    [[ ! -s $place/hold ]] || break
    sleep 0.1
  done
  [[ $(<"$place/hold") == held ]] || die "$name does not hold $gateway_connections connections" "$(head -c 600 "$place/hold")"
  sleep 1
  after=$(rss "$name")
  exec {feed}>&-
  wait "$holder" || die "$name closed a connection that was at rest" "see why before believing the number"
}
