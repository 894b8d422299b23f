# shellcheck shell=bash
# The demo through the mesh: the same accident, found and undone by people who reach the database's agent through gateway and services, each a
# process with its own certificate. Every step is a curl or trail command that a reader could type in the checkout.
# Sourced by ./dev after demo.bash and mesh.bash.

mesh_story() {
  # A plan from the mesh names the rows with conflicts, not every row.
  explaining_act() { :; }
  local engine=$1 build=$2 started=$SECONDS port traffic before transaction redo=''
  mesh_act "$build"
  register_act "$engine"
  accident_act
  finding_act
  others_act
  undoing_act
  proof_act
  kept_act
  narrate "Done in $((SECONDS - started)) s."
}

# What the reader types once.
mesh_helpers() {
  cat <<SH
API=$TRAILMESH_PUBLIC_URL CA=$(shown "$mesh/ca.pem")
call() { curl --silent --show-error --fail-with-body --max-time 60 --write-out '\n' --cacert "\$CA" --oauth2-bearer "\${TOKEN:-}" "\$API\$1" "\${@:2}"; }
mailed() { cat \$(grep -lr "To: \$1" $(shown "$mesh/mail") | xargs -r ls -t | head -n 1) | tr -d '\r' | grep '^bt_[a-z]*_'; }
SH
}

mesh_act() {
  narrate "The mesh: auth, vault, tenant, query, recovery and the gateway, a process each, with mutual TLS between them."
  private_mesh "$checkout/$work" "$1"
  typed "$(mesh_helpers)"
  narrate "Ada signs up, proves her address with the token of the mail, signs in, and founds a tenant."
  typed "call /v1/auth/sign-up --json '{\"email\":\"ada@example.org\",\"password\":\"a long enough secret\",\"displayName\":\"Ada\"}'"
  await "a mail" mail_came ada@example.org
  typed "call /v1/auth/verify-email --json \"{\\\"token\\\":\\\"\$(mailed ada@example.org)\\\"}\""
  typed "TOKEN=\$(call /v1/auth/login --json '{\"email\":\"ada@example.org\",\"password\":\"a long enough secret\"}' | jq -r .tokens.accessToken)"
  typed "call /v1/tenants --json '{\"name\":\"The shop\",\"region\":\"REGION_US\"}'"
}

mail_came() { grep -qlr "To: $1" "$mesh/mail"; }

# Where an agent that runs in front of the reader would be started with a unit file: services/ingest-agent/dist/.
register_act() {
  narrate "A shop on a private $1 server. Ada registers it; its password goes to the vault, and only the agent beside it opens it again."
  start_server "$1" "$checkout/$work/server" --transaction-isolation=READ-COMMITTED 7>&-
  describe_server "$1" "$checkout/$work/server"
  port=$(<"$work/server/home/port")
  unset "${!TRAIL_@}"
  typed "export MYSQL_PWD=\$(cat .dev/secrets/password) XDG_CONFIG_HOME=\$PWD/$work/config"
  open_shop
  typed "call /v1/servers --json \"{\\\"server\\\":{\\\"name\\\":\\\"shop\\\",\\\"host\\\":\\\"127.0.0.1\\\",\\\"port\\\":$port,\\\"username\\\":\\\"trail\\\",\\\"tlsMode\\\":\\\"TLS_MODE_REQUIRED\\\"},\\\"password\\\":\\\"\$MYSQL_PWD\\\"}\""
  narrate "The agent enrols with a token that works once, makes its own key, dials out to the gateway, and listens nowhere."
  typed "call /v1/agents --json '{\"name\":\"beside-the-shop\"}' | jq -r .enrolmentToken >$work/token"
  typed "$trail agent enrol --mesh \$API --ca \$CA --token-file $work/token --dir $work/agent"
  local run="$trail agent run --dir $work/agent"
  printf '%s$ %s &%s\n' "$green" "$run" "$plain"
  # Should this script be killed, the kernel ends the agent.
  eval "exec setpriv --pdeathsig TERM $run" >"$work/watch.log" 2>&1 7>&- &
  watcher=$!
  narrate "Ada's own tool asks the mesh instead of a store. From here on every trail command goes through gateway, query and agent."
  typed "echo 'a long enough secret' | $trail login --mesh \$API --ca \$CA --email ada@example.org"
  typed "$trail servers"
  typed "export TRAIL_SERVER=shop"
  await "the agent to follow the shop" agent_follows
  typed "$trail status"
  compare_shops >/dev/null || die "the two copies of the shop differ before anything happened" "see $work/proof"
  start_traffic
  sleep 2
}

agent_follows() {
  kill -0 "$watcher" 2>/dev/null || { cat "$work/watch.log" >&2 && die "trail agent run ended" "see the lines above"; }
  [[ $(call /v1/servers/shop/status | jq '.agentConnected and .state.following') == true ]]
}

others_act() {
  narrate "Not everybody may see everything. Analysts are denied what customers prefer, from a second later on; whoever asks as one is shown the rest, and told."
  typed "call /v1/access-rules --json '{\"rule\":{\"role\":\"ROLE_ANALYST\",\"schemaName\":\"shop\",\"tableName\":\"customers\",\"columns\":[\"preferences\"],\"effect\":\"EFFECT_DENY\"}}'"
  sleep 1
  typed "KEY=\$(call /v1/keys --json '{\"name\":\"report\",\"role\":\"ROLE_ANALYST\"}' | jq -r .secret)"
  typed "TOKEN=\$KEY call /v1/servers/shop/changes:query --json '{\"filter\":{\"tables\":[{\"schema\":\"shop\",\"table\":\"customers\"}]},\"pageSize\":1}' | jq -c '.changes[0] | {op, key, changed, after, redacted}'"
  typed "TOKEN=\$KEY call /v1/servers/shop/changes:query --json '{\"filter\":{\"column\":\"preferences\",\"tables\":[{\"schema\":\"shop\",\"table\":\"customers\"}]}}' || echo 'refused: not even by a filter'"
}

kept_act() {
  narrate "Who did what is in the tenant's own log. And the control plane kept no row: its database does not know a word that the shop's rows are full of."
  typed "call '/v1/audit?pageSize=100' | jq -r '.entries[] | [.time, .call.method, .outcome] | @tsv' | head -n 12"
  typed "$(shown "$(postgres_bin)")/pg_dump \"\$TRAILMESH_MIGRATE_DATABASE_URL\" | grep -c Grüße || true"
  (($("$(postgres_bin)/pg_dump" "$TRAILMESH_MIGRATE_DATABASE_URL" | grep -c Grüße || true) == 0)) || die "the control plane kept rows" "look into its database"
}
