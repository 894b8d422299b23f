# shellcheck shell=bash
# What the mesh itself stands on: PostgreSQL and Redis, each as private as the database servers of servers.bash, whose folders,
# ports, secrets and life they share. PostgreSQL takes TLS only; Redis has a port with TLS and one without.
# Sourced by ./dev after servers.bash.

# --- programs --------------------------------------------------------------------------------------------------------------

# Debian's PostgreSQL is a folder per version, off the PATH.
postgres_bin() {
  local bin
  for bin in /usr/lib/postgresql/*/bin; do
    [[ ! -x $bin/initdb ]] || echo "$bin"
  done | sort --version-sort | tail -n 1
}

install_store() {
  require openssl openssl
  case $1 in
    postgres)
      [[ -n $(postgres_bin) ]] || install_packages postgresql-15
      # Tests put it in front of the server.
      require pgbouncer pgbouncer
      ;;
    redis) require redis-check-rdb redis-tools ;;
  esac
}

# The server is the same program under another name; the package of that name would start a service.
redis_program() {
  mkdir -p "$state/bin"
  [[ -e $state/bin/redis-server ]] || ln -sfn "$(type -P redis-check-rdb)" "$state/bin/redis-server"
  echo "$state/bin/redis-server"
}

# --- data folders and options ----------------------------------------------------------------------------------------------

initialise_store() {
  local store=$1 home=$2
  "${drop[@]}" mkdir -m 700 "$home/data.new"
  if [[ $store == postgres ]]; then
    say "${dim}preparing a data folder for postgres${plain}"
    # In C, so that text sorts by bytes on every machine. The password file is read by the dropped user.
    "${drop[@]}" "$(postgres_bin)/initdb" "--pgdata=$home/data.new" --username=postgres --auth=scram-sha-256 \
      --pwfile="$home/credentials/password" --encoding=UTF8 --locale=C.UTF-8 --no-sync >"$home/initialise.log" 2>&1 9>&- || {
      tail -n 20 "$home/initialise.log" >&2
      die "postgres could not make its data folder" "see $home/initialise.log, and that the disk is not full"
    }
    printf '%s\n' 'local all all scram-sha-256' 'hostssl all all 127.0.0.1/32 scram-sha-256' >"$home/data.new/pg_hba.conf"
  fi
  mv -T "$home/data.new" "$home/data"
}

# The sessions of a PostgreSQL that was killed hold its memory until they notice; a new one refuses to start before that.
await_leavers() {
  local cwd
  for _ in {1..200}; do
    for cwd in /proc/[0-9]*/cwd; do
      [[ $(readlink "$cwd" 2>/dev/null) != "$1/data" ]] || { sleep 0.05 && continue 2; }
    done
    return 0
  done
}

# store_command STORE HOME PORT: sets `command`.
set_store_command() {
  local store=$1 home=$2 port=$3 password
  if [[ $store == postgres ]]; then
    local options=(
      listen_addresses=127.0.0.1 "port=$port" "unix_socket_directories=$home" ssl=on "ssl_cert_file=$home/credentials/server.pem"
      "ssl_key_file=$home/credentials/server-key.pem" "ssl_ca_file=$home/credentials/ca.pem"
      # A schema for each tenant means many tables in one transaction.
      max_connections=300 max_locks_per_transaction=256 shared_buffers=128MB
      # Quick rather than safe against a power cut; a killed process still loses nothing.
      fsync=off full_page_writes=off
      "log_line_prefix=%m [%p] %q%u@%d " "timezone=Asia/Kathmandu" "log_timezone=UTC"
    )
    await_leavers "$home"
    # Nobody has it now; where nothing collects the dead, a killed server would still seem to.
    rm -f "$home/data/postmaster.pid" "$home"/.s.PGSQL.*
    command=("$(postgres_bin)/postgres" -D "$home/data")
    local option
    for option in "${options[@]}"; do command+=(-c "$option"); done
  else
    password=$(<"$state/secrets/password")
    if [[ ! -s $home/tls-port ]] || port_taken "$(<"$home/tls-port")"; then free_port >"$home/tls-port"; fi
    cat >"$home/redis.conf" <<CONF
bind 127.0.0.1
port $port
tls-port $(<"$home/tls-port")
tls-cert-file $home/credentials/server.pem
tls-key-file $home/credentials/server-key.pem
tls-ca-cert-file $home/credentials/ca.pem
tls-auth-clients no
requirepass $password
dir $home/data
save ""
appendonly no
maxmemory 512mb
maxmemory-policy noeviction
set-proc-title no
CONF
    chmod 600 "$home/redis.conf"
    chown "$(server_user)" "$home/redis.conf"
    command=("$(redis_program)" "$home/redis.conf")
  fi
}

# Ready means that it answers a question over TCP with the password.
store_answers() {
  local store=$1 home=$2 password
  password=$(<"$state/secrets/password")
  if [[ $store == postgres ]]; then
    [[ $(PGPASSWORD=$password PGSSLMODE=verify-full PGSSLROOTCERT=$state/secrets/ca.pem "$(postgres_bin)/psql" --no-psqlrc --tuples-only --no-align \
      --host=127.0.0.1 --port="$(<"$home/port")" --username=postgres --dbname=postgres --command='SHOW data_directory' 2>/dev/null) == "$home/data" ]]
  else
    [[ $(REDISCLI_AUTH=$password redis-cli -h 127.0.0.1 -p "$(<"$home/port")" --raw CONFIG GET dir 2>/dev/null) == *"$home/data" ]]
  fi
}

# --- what a program needs to know ------------------------------------------------------------------------------------------

store_environment() {
  local store=$1 home=$2 port password
  port=$(<"$home/port")
  password=$(<"$state/secrets/password")
  case $store in
    postgres)
      variable postgres URL "postgres://postgres:$password@127.0.0.1:$port/postgres?sslmode=verify-full&sslrootcert=$state/secrets/ca.pem"
      variable postgres BIN "$(postgres_bin)"
      ;;
    redis)
      variable redis URL "redis://:$password@127.0.0.1:$port/"
      variable redis TLS_URL "rediss://:$password@127.0.0.1:$(<"$home/tls-port")/"
      ;;
  esac
  variable "$store" CA "$state/secrets/ca.pem"
}

store_version() {
  case $1 in
    postgres) "$(postgres_bin)/postgres" --version | awk '{ print $3 }' ;;
    redis) "$(redis_program)" --version | sed -n 's/.* v=\([^ ]*\).*/\1/p' ;;
  esac
}
