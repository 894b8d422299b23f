# shellcheck shell=bash
# The programs of the database servers: where they come from, and what they are called.
#
# MariaDB comes from Debian's packages (the -core ones, which start no system service). Debian 12 has no MySQL, but Debian's
# unstable suite does: those packages and the libraries they need are fetched by a private apt, which checks the archive's
# signatures and leaves the system alone, and run through their own dynamic loader, so that a newer libc does no harm.
# Sourced by ./dev after base.bash.

mysql8_version=8.0.45-1
mysql8_server_sha256=0d6227408f63c01dadce99c1639f2427cc88495a0b3ed3292a85d9c2aa64e1fd
mysql8_client_sha256=cbb6881d471c60bcb3f6ac2fd2b8e982c11836a0ce98469aef89b49d9a346aea

# Binaries are shared by all checkouts of a user. Root's own cache folder is usually closed to the servers' user.
binaries_cache() {
  mkdir -p "$cache"
  if enterable "$cache"; then echo "$cache"; else mkdir -p /var/cache/trailmesh && echo /var/cache/trailmesh; fi
}

# mysql_root ENGINE: the folder with that MySQL's programs.
mysql_root() {
  case $1 in
    mysql8) echo "$(binaries_cache)/mysql-${mysql8_version%-*}" ;;
    mysql9) echo "$(binaries_cache)/mysql-9.7" ;;
  esac
}

install_server() {
  require openssl openssl
  if [[ $1 == mariadb ]]; then
    require mariadbd mariadb-server-core mariadb-install-db mariadb-server-core mariadb mariadb-client-core mariadb-binlog mariadb-client
    local plugins
    plugins=$(mariadb_plugins)
    [[ -z $plugins || -e $plugins/complete ]] || with_lock "$plugins.lock" fetch_mariadb_plugins "$plugins"
    return
  fi
  local root
  root=$(mysql_root "$1")
  [[ -e $root/complete ]] || with_lock "$root.lock" fetch_mysql "$1" "$root"
}

# Where MariaDB's plugins are; nothing if the server finds them by itself. Debian has them in the package of the service, which is not
# installed: a server of the machine's own would come with it.
mariadb_plugins() {
  local version
  version=$(dpkg-query --show --showformat='${Version}' mariadb-server-core 2>/dev/null || true)
  [[ -z $version || -e /usr/lib/mysql/plugin ]] || echo "$(binaries_cache)/mariadb-plugins-${version#*:}"
}

fetch_mariadb_plugins() {
  local package
  [[ ! -e $1/complete ]] || return 0
  package=mariadb-server=$(dpkg-query --show --showformat='${Version}' mariadb-server-core)
  say "${bold}fetching MariaDB's plugins into $1 (once; about 4 MB)${plain}"
  rm -rf "$1"
  fetch_packages "$1/debs" "$package"
  dpkg-deb --fsys-tarfile "$1"/debs/*.deb | tar --extract --directory "$1" --strip-components=5 ./usr/lib/mysql/plugin
  rm -rf "$1/debs"
  chmod -R a+rX "$1"
  touch "$1/complete"
}

fetch_mysql() {
  local engine=$1 root=$2 work=$2.fetching
  [[ ! -e $root/complete ]] || return 0
  [[ $(dpkg --print-architecture 2>/dev/null) == amd64 ]] || die "no recipe for $engine on this architecture" "use ./dev up mariadb"
  say "${bold}fetching $engine from Debian's archive into $root (once; about 100 MB)${plain}"
  rm -rf "$work"
  mkdir -p "$work/debs/partial" "$work/lists/partial" "$work/tree"
  private_apt "$work" update
  case $engine in
    mysql8) # no suite lists it any more, so the packages are named, and checked by their digests
      pool_package "$work" "mysql-server-core-8.0_${mysql8_version}_amd64.deb" "$mysql8_server_sha256"
      pool_package "$work" "mysql-client-core-8.0_${mysql8_version}_amd64.deb" "$mysql8_client_sha256"
      private_apt "$work" install "$work"/*.deb
      ;;
    mysql9) private_apt "$work" install 'mysql-server-core=9.*' 'mysql-client-core=9.*' ;;
  esac
  local deb
  for deb in "$work"/*.deb "$work"/debs/*.deb; do
    [[ -e $deb && ${deb##*/} != @(perl|libperl)* ]] && dpkg-deb --extract "$deb" "$work/tree"
  done
  keep_mysql_programs "$work/tree" "$root"
  rm -rf "$work"
}

# An apt with lists, cache and idea of what is installed (nothing) of its own. Two suites, because what one no longer has
# the other still does. A mirror that lags behind is no reason not to test, so the age of its lists is not asked; their
# signatures are checked.
private_apt() {
  local work=$1 mirror
  mirror=$(debian_mirror)
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$mirror" trixie "$mirror" sid >"$work/sources.list"
  : >"$work/status"
  cat >"$work/apt.conf" <<CONF
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$work/lists";
Dir::State::Status "$work/status";
Dir::Cache::Archives "$work/debs";
Dir::Cache::PkgCache "";
Dir::Cache::SrcPkgCache "";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::Check-Valid-Until "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
APT::Install-Recommends "false";
APT::Get::Download-Only "true";
APT::Get::Assume-Yes "true";
APT::Sandbox::User "$(id -un)";
CONF
  APT_CONFIG=$work/apt.conf apt-get --quiet=2 "${@:2}" >"$work/apt.log" 2>&1 || {
    tail -n 15 "$work/apt.log" >&2
    die "fetching packages from $mirror failed (private apt: ${*:2})" "check the network and the mirror (TRAILMESH_DEBIAN_MIRROR names another), then start again"
  }
}

pool_package() {
  local work=$1 file=$2 sha256=$3
  /usr/lib/apt/apt-helper -o APT::Sandbox::User="$(id -un)" download-file \
    "$(debian_mirror)/pool/main/m/mysql-8.0/$file" "$work/$file" "SHA256:$sha256" >"$work/apt.log" 2>&1 || {
    tail -n 5 "$work/apt.log" >&2
    die "cannot fetch $file with the right digest" "set TRAILMESH_DEBIAN_MIRROR to a mirror whose pool still holds it"
  }
}

# The mirror that this machine's own apt uses for its Debian release.
debian_mirror() {
  local mirror=${TRAILMESH_DEBIAN_MIRROR:-} codename
  codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  for _ in 1 2; do
    [[ -z $mirror ]] || break
    # shellcheck disable=SC2016 # apt expands $(…) of its format itself
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
      awk -v codename="$codename" '$2 == codename && $3 == "main" && $4 == "Debian" { print $1; exit }')
    # A fresh machine has no package lists yet.
    [[ -n $mirror ]] || as_root apt-get --quiet=2 update >/dev/null 2>&1 || true
  done
  [[ -n $mirror ]] || die "no Debian mirror in this machine's apt sources" "name one in TRAILMESH_DEBIAN_MIRROR"
  echo "${mirror%/}"
}

# Leaves what a server and its tools need, with a wrapper for each program, and marks the folder complete.
keep_mysql_programs() {
  local tree=$1 root=$2 kept=$1/../kept program path
  mkdir -p "$kept/bin" "$kept/share"
  mv "$tree/usr/share/mysql" "$kept/share/"
  mv "$tree/usr/lib" "$kept/"
  for program in mysqld mysql mysqlbinlog mysqldump; do
    for path in "$tree/usr/bin/$program" "$tree/usr/sbin/$program"; do
      [[ ! -e $path ]] || mv "$path" "$kept/bin/"
    done
    wrapper_script "$program" >"$kept/$program"
    chmod +x "$kept/$program"
  done
  rm -rf "$root"
  mv -T "$kept" "$root"
  for program in mysqld mysql mysqlbinlog mysqldump; do
    "$root/$program" --version >/dev/null || die "$program in $root does not run" "remove that folder and start again"
  done
  touch "$root/complete"
}

wrapper_script() {
  local options="--no-defaults --character-sets-dir=\"\$root/share/mysql/charsets\""
  [[ $1 != mysqld ]] ||
    options+=" --basedir=\"\$root\" --lc-messages-dir=\"\$root/share/mysql\" --plugin-dir=\"\$root/lib/mysql/plugin\""
  cat <<SCRIPT
#!/bin/sh
# $1 with the libraries it was built for; no option file of this machine or user is read.
root=\$(dirname "\$(readlink -f "\$0")")
lib=\$root/lib/x86_64-linux-gnu
exec "\$lib/ld-linux-x86-64.so.2" --library-path "\$lib" "\$root/bin/$1" $options "\$@"
SCRIPT
}

# programs ENGINE: sets `mysqld`, `client` and `binlog_tool`. None of them reads an option file.
set_programs() {
  if [[ $1 == mariadb ]]; then
    mysqld=mariadbd client=$state/bin/mariadb binlog_tool=$state/bin/mariadb-binlog
    plain_client "$client"
    plain_client "$binlog_tool"
  else
    local root
    root=$(mysql_root "$1")
    mysqld=$root/mysqld client=$root/mysql binlog_tool=$root/mysqlbinlog
  fi
}

plain_client() {
  [[ ! -x $1 ]] || return 0
  mkdir -p "${1%/*}"
  printf '#!/bin/sh\n# No option file of this machine or user is read.\nexec %s --no-defaults "$@"\n' "$(command -v "${1##*/}")" >"$1.new$BASHPID"
  chmod +x "$1.new$BASHPID"
  mv "$1.new$BASHPID" "$1"
}
