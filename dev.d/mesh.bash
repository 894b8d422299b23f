# shellcheck shell=bash
# The mesh on this machine: PostgreSQL and Redis of this checkout, and the services before them, in one process or each in its own.
# Sourced by ./dev after stores.bash.

mesh=$state/mesh

# The mesh in one process, in the background; prints what a person needs for a first request.
up_mesh() {
  prepare_mesh
  if [[ -n $(mesh_pids) ]]; then
    [[ -s $mesh/about ]] || die "the services of ./dev mesh run here" "stop them first: ./dev down"
    cat "$mesh/about"
    return
  fi
  local port program pid
  program=$(mesh_binary)
  rm -f "$mesh/about"
  port=$(public_port)
  say "${bold}starting the mesh${plain} (log: $(shown "$mesh/log"))"
  [[ ! -e $mesh/log ]] || mv "$mesh/log" "$mesh/log.old"
  mesh_environment
  setsid "$program" up --dev "--state=$mesh" "--listen=127.0.0.1:$port" </dev/null >"$mesh/about.new" 2>"$mesh/log" 7>&- 8>&- 9>&- &
  pid=$!
  # The program prints one page when everything answers, and nothing after it.
  for _ in {1..600}; do
    if [[ -s $mesh/about.new ]] && grep -q '^Stop it' "$mesh/about.new"; then
      mv "$mesh/about.new" "$mesh/about"
      cat "$mesh/about"
      return
    fi
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  tail -n 20 "$mesh/log" >&2
  die "the mesh did not come up" "see $(shown "$mesh/log")"
}

# PostgreSQL with our database, Redis, and a folder of our own.
prepare_mesh() {
  local store
  start_engines "${stores[@]}"
  for store in "${stores[@]}"; do : >"$(folder_of "$store")/kept"; done
  mkdir -p "$mesh"
  chmod 700 "$mesh"
  # Roles belong to the whole server, and tests use it too: one password for all of this checkout.
  (umask 077 && cp "$state/secrets/password" "$mesh/database-password")
  set -a
  for store in "${stores[@]}"; do eval "$(server_environment "$store" "$(folder_of "$store")")"; done
  set +a
  [[ $(mesh_sql "SELECT 1 FROM pg_database WHERE datname = 'trailmesh'") == 1 ]] || mesh_sql 'CREATE DATABASE trailmesh'
}

mesh_sql() { "$(postgres_bin)/psql" --no-psqlrc --quiet --tuples-only --no-align --dbname="$TRAILMESH_TEST_POSTGRES_URL" --command="$1"; }

mesh_environment() {
  export TRAILMESH_MIGRATE_DATABASE_URL=${TRAILMESH_TEST_POSTGRES_URL/\/postgres\?/\/trailmesh?}
  export TRAILMESH_REDIS_URL=$TRAILMESH_TEST_REDIS_URL
}

# 8443, or the port of last time, or any.
public_port() {
  local port
  port=$(cat "$mesh/port" 2>/dev/null || echo 8443)
  ! port_taken "$port" || port=$(free_port)
  echo "$port" | tee "$mesh/port"
}

# Whatever runs with our folder.
mesh_pids() {
  local file
  for file in /proc/[0-9]*/cmdline; do
    ! grep --quiet --no-messages --null-data --line-regexp --fixed-strings --regexp="--state=$mesh" \
      --regexp="--trust-bundle-file=$mesh/ca.pem" "$file" || basename "$(dirname "$file")"
  done
}

stop_mesh() {
  local pids pid
  pids=$(mesh_pids)
  rm -f "$mesh/about"
  [[ -n $pids ]] || return 0
  # shellcheck disable=SC2086 # a word per process
  kill -TERM $pids 2>/dev/null || true
  for _ in {1..300}; do
    [[ -n $(mesh_pids) ]] || return 0
    sleep 0.1
  done
  for pid in $(mesh_pids); do
    say "process $pid of the mesh did not stop within 30 seconds; killing it"
    kill -KILL "$pid" 2>/dev/null || true
  done
}

# mesh_binary [release]: the binary of the mesh, built; prints its path.
mesh_binary() {
  local build=${1:-debug} flags=()
  [[ $build == debug ]] || flags=(--release)
  build_needs
  say "${bold}building trailmesh${plain} ($build; the first time takes some minutes)"
  (cd "$checkout" && cargo build --quiet --locked --bin trailmesh "${flags[@]}" 7>&-) >&2 || die "trailmesh does not build" "see above"
  echo "$(cargo metadata --manifest-path="$checkout/Cargo.toml" --locked --format-version 1 --no-deps | jq -r .target_directory)/$build/trailmesh"
}

write_docs() {
  (($# == 0)) || usage_error "./dev docs takes no arguments"
  local program
  program=$(mesh_binary)
  cd "$checkout" && "$program" docs docs
}

# The services one by one, each in the background with its own certificate, as an installation runs them.
run_mesh() {
  (($# == 0)) || usage_error "./dev mesh takes no arguments"
  prepare_mesh
  [[ -z $(mesh_pids) ]] || die "a mesh runs here" "stop it first: ./dev down"
  local program
  program=$(mesh_binary)
  mesh_environment
  mesh_apart "$(public_port)"
  say "The mesh is up, a process each: $TRAILMESH_PUBLIC_URL (logs: $(shown "$mesh")/*.log, mails: $(shown "$mesh/mail"))."
  say "Stop it with ./dev down."
}

# private_mesh FOLDER BUILD: the same with a PostgreSQL and a Redis of its own under FOLDER; end_private_mesh takes all of it away.
private_mesh() {
  local store program
  private_place=$1 mesh=$1/mesh
  mkdir -p "$mesh"
  chmod 700 "$mesh"
  program=$(mesh_binary "$2")
  for store in "${stores[@]}"; do
    start_server "$store" "$1/$store" 7>&-
    set -a
    eval "$(server_environment "$store" "$1/$store")"
    set +a
  done
  (umask 077 && cp "$state/secrets/password" "$mesh/database-password")
  mesh_sql 'CREATE DATABASE trailmesh'
  mesh_environment
  mesh_apart "$(free_port)"
}

end_private_mesh() {
  local store
  [[ -n ${private_place:-} ]] || return 0
  stop_mesh
  for store in "${stores[@]}"; do [[ ! -d $private_place/$store ]] || "$1" "$private_place/$store"; done
}

# mesh_apart PORT: migrates the database and starts every service, the gateway on PORT.
mesh_apart() {
  local name peers=() port=$1 service_port=()
  local names=(auth vault tenant query recovery)
  (umask 077 && mkdir -p "$mesh/mail")
  for name in seal-key vault-root-key; do
    [[ -s $mesh/$name ]] || (umask 077 && openssl rand -base64 32 >"$mesh/$name")
  done
  TRAILMESH_VAULT_GATEWAY_PINS=$("$program" identity "$mesh" "${names[@]}" gateway | sed -n 's/^pin *//p' | paste -sd,)
  export TRAILMESH_VAULT_GATEWAY_PINS
  (
    for name in "${names[@]}"; do export "TRAILMESH_${name^^}_DATABASE_PASSWORD_FILE=$mesh/database-password"; done
    "$program" migrate run --dev
  )
  for name in "${names[@]}"; do
    service_port+=("$(free_port)")
    peers+=("$name=https://127.0.0.1:${service_port[-1]}")
  done
  export TRAILMESH_DEV=true TRAILMESH_LOG_FORMAT=text
  TRAILMESH_PEERS=$(IFS=, && echo "${peers[*]}")
  export TRAILMESH_PEERS TRAILMESH_PUBLIC_URL=https://localhost:$port
  export TRAILMESH_AUTH_SEAL_KEY_FILE=$mesh/seal-key TRAILMESH_AUTH_MAIL_DIR=$mesh/mail
  export TRAILMESH_VAULT_ROOT_KEY_FILE=$mesh/vault-root-key
  export TRAILMESH_GATEWAY_TLS_CERT_FILE=$mesh/localhost.pem TRAILMESH_GATEWAY_TLS_KEY_FILE=$mesh/localhost-key.pem
  for name in "${!names[@]}"; do run_service "${names[name]}" "${service_port[name]}"; done
  run_service gateway "$port"
}

# run_service NAME PORT: starts it and waits until it is ready.
run_service() {
  local name=$1 port=$2 admin url
  admin=$(free_port)
  url=postgres://trailmesh_$name:$(<"$mesh/database-password")@${TRAILMESH_MIGRATE_DATABASE_URL#*@}
  [[ ! -e $mesh/$name.log ]] || mv "$mesh/$name.log" "$mesh/$name.log.old"
  # The bundle is an argument because mesh_pids knows our processes by it.
  TRAILMESH_DATABASE_URL=$url TRAILMESH_IDENTITY_CERT_FILE=$mesh/$name.pem TRAILMESH_IDENTITY_KEY_FILE=$mesh/$name-key.pem \
    TRAILMESH_LISTEN=127.0.0.1:$port TRAILMESH_ADMIN_LISTEN=127.0.0.1:$admin \
    setsid "$program" "$name" "--trust-bundle-file=$mesh/ca.pem" </dev/null >"$mesh/$name.log" 2>&1 7>&- 8>&- 9>&- &
  for _ in {1..300}; do
    if [[ $(ready_answer "$admin") == *' 200 '* ]]; then return; fi
    kill -0 "$!" 2>/dev/null || break
    sleep 0.1
  done
  tail -n 20 "$mesh/$name.log" >&2
  die "$name did not become ready" "see $(shown "$mesh/$name.log")"
}

# The first line of what the admin port says of being ready.
ready_answer() {
  local line=''
  { exec 6<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 0
  printf 'GET /readyz HTTP/1.0\r\n\r\n' >&6
  read -rt 2 line <&6 || true
  exec 6>&-
  echo "$line"
}
