# shellcheck shell=bash
# gRPC clients that are compiled: integration-tests/clients/go and /java, with the code that buf generates from our protos. Where the
# language is not, its client is left out, and that is said; where it is, a client that does not compile is a failure.
# Sourced by ./dev after tools.bash.

# What the clients call; buf adds what that imports.
client_protos=(proto/trailmesh/query/v1/query_service.proto proto/trailmesh/recovery/v1/recovery_service.proto)

# compiled_client LANGUAGE TOOLCHAIN: prints the program that make_LANGUAGE_client compiled; nothing where it is left out.
compiled_client() {
  local language=$1 home sources
  sources=$(cd "$checkout" && find proto "integration-tests/clients/$language" -type f | LC_ALL=C sort | xargs sha256sum) || return
  home=$(tools_folder "$language-client" "$2 $sources" "$checkout/dev.d/clients.bash")
  with_lock "$cache/tools/$language-client.lock" make_client "$language" "$home" >&2 || return
  [[ ! -e $home/complete ]] || echo "$home/client"
}

# Made beside, and moved when it is whole: a client that did not arrive is tried again the next time.
make_client() {
  local language=$1 home=$2 making=$2.making
  [[ ! -e $home/complete ]] || return 0
  say "${bold}compiling the $language client into $home (again when the protos change)${plain}"
  rm -rf "$home" "$making"
  cp -r "$checkout/integration-tests/clients/$language" "$making" || return
  if ! (cd "$making" && "fetch_for_$language") >"$making/fetch.log" 2>&1; then
    tail -n 5 "$making/fetch.log" >&2
    ! grep -qE 'checksum mismatch|Checksum validation failed' "$making/fetch.log" ||
      die "what was fetched for the $language client is not what was pinned" "see $making/fetch.log"
    rm -rf "$making"
    left_out "$language" "what it is made with cannot be had: see above"
    return 0
  fi
  (cd "$making" && generate_code && "compile_$language") >&2 ||
    die "integration-tests/clients/$language does not compile" "see above"
  mv "$making" "$home" && touch "$home/complete"
  # What other states of the protos left behind.
  find "$cache/tools" -maxdepth 1 -name "$language-client-*" ! -path "$home" -mtime +7 -exec rm -rf {} +
}

left_out() { say "${bold}the $1 client is left out:${plain} $2"; }

# Here, with the plugins of ./bin.
generate_code() {
  local buf wanted=() proto
  buf=$(python_home)/bin/buf || return
  for proto in "${client_protos[@]}"; do wanted+=(--path "$checkout/$proto"); done
  PATH=$PWD/bin:$PATH "$buf" generate "$checkout" --template buf.gen.yaml --output . "${wanted[@]}"
}

go_client() {
  command -v go >/dev/null || { left_out go "there is no go on the PATH" && return; }
  compiled_client go "$(go version)"
}

# As go.sum has them. No other Go is fetched: where this one is too old for go.mod, that is said.
fetch_for_go() {
  GOTOOLCHAIN=local GOFLAGS=-mod=readonly GOBIN=$PWD/bin timeout 300 go install tool &&
    GOTOOLCHAIN=local GOFLAGS=-mod=readonly timeout 300 go list -deps google.golang.org/grpc
}

compile_go() {
  GOTOOLCHAIN=local CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags='-s -w' -o client . && rm -rf gen bin
}

java_client() {
  local program version
  for program in java javac mvn; do
    command -v "$program" >/dev/null || { left_out java "there is no $program on the PATH" && return; }
  done
  version=$(javac -version 2>&1)
  [[ $version =~ ^javac\ ([0-9]+) && ${BASH_REMATCH[1]} -ge 17 ]] || { left_out java "$version is older than 17" && return; }
  # protoc is there for others too, at other versions.
  [[ $(uname -m) == x86_64 ]] || { left_out java "its tools are pinned for x86_64" && return; }
  compiled_client java "$version"
}

# As jars.sha256 has them.
fetch_for_java() {
  local dependency=org.apache.maven.plugins:maven-dependency-plugin:3.11.0 unknown
  timeout 300 mvn --batch-mode --quiet --strict-checksums "$dependency:copy-dependencies" -DoutputDirectory=lib </dev/null || return
  unknown=$(cd lib && comm -23 <(sha256sum -- * | LC_ALL=C sort) <(LC_ALL=C sort ../jars.sha256)) || return
  [[ -z $unknown ]] || { echo "checksum mismatch: not in jars.sha256: $unknown" && return 1; }
  mkdir bin && mv lib/protoc-gen-grpc-java-*.exe bin/protoc-gen-grpc-java && mv lib/protoc-*.exe bin/protoc && chmod +x bin/*
}

compile_java() {
  local sources
  mapfile -t sources < <(find gen -name '*.java')
  javac -nowarn -proc:none -g:none -d classes -cp 'lib/*' Job.java "${sources[@]}" || return
  # A client runs for a second: what makes a long run fast would only be in the way.
  # shellcheck disable=SC2016
  printf '#!/bin/sh\nhome=$(dirname "$0")\nexec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$home/classes:$home/lib/*" Job\n' >client
  chmod +x client && rm -rf gen bin
}
