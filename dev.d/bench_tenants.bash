# shellcheck shell=bash
# What many tenants cost: cells, each a PostgreSQL server of its own with the schemas of its tenants, and the functions by which the service
# and the migrations work on them. Sourced by ./dev after servers.bash and stores.bash.

# A cell is at most this large: PostgreSQL 15 lists all roles of a server, in quadratic time, when a session first takes one.
tenants_per_cell=2000

bench_tenants() {
  local tenants=10000
  while (($# > 0)); do
    case $1 in
      --tenants) tenants=${2:-} && shift ;;
      *) usage_error "./dev bench tenants takes --tenants N, not '$1'" ;;
    esac
    shift
  done
  [[ $tenants =~ ^[1-9][0-9]+$ ]] || usage_error "--tenants is a number from 10 on"
  cd "$checkout"
  make_state
  build_needs
  install_store postgres
  local place=$state/bench-tenants program profile=${TRAILMESH_BENCH_PROFILE:-release}
  program=$(tenants_program)
  with_lock "$state/bench.lock" bench_tenants_alone
}

# Built as it would be shipped; prints the path.
tenants_program() {
  local words=(--profile "$profile") folder=$profile
  [[ $profile != dev ]] || folder=debug
  say "${bold}building${plain} ($profile; the first time takes some minutes)"
  cargo build "${words[@]}" --locked --package trailmesh --example bench_tenants >&2 || die "the bench does not build" "see above"
  echo "$(cargo metadata --locked --format-version 1 --no-deps | jq -r .target_directory)/$folder/examples/bench_tenants"
}

bench_tenants_alone() {
  local cells=$(((tenants + tenants_per_cell - 1) / tenants_per_cell)) cell words=()
  # A small run has several cells too.
  ((cells > 1)) || cells=2
  trap end_bench_tenants EXIT
  end_bench_tenants
  mkdir -p "$place"
  for ((cell = 1; cell <= cells; cell++)); do
    start_tenants_cell "$cell"
    words+=(--cell "$TRAILMESH_TEST_POSTGRES_URL")
  done
  PATH=$(postgres_bin):$PATH "$program" "${words[@]}" --tenants "$tenants"
}

# With its data safe from a power cut, as an installation has it; tests do without.
start_tenants_cell() {
  local folder=$place/$1 server
  start_server postgres "$folder" -c fsync=on -c full_page_writes=on -c max_wal_size=512MB
  server=$(server_environment postgres "$folder")
  eval "$server"
}

end_bench_tenants() {
  local folder
  for folder in "$place"/*/; do [[ ! -d $folder ]] || erase_server "${folder%/}"; done
  rm -rf "$place"
}
