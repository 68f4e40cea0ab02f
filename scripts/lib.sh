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
    as_root setsid sh -c 'echo $$ >"$1"; shift; exec "$@"' - "$log.pid" dockerd --group "$(id -g)" $flags >"$log" 2>&1 &
    job=$!
    for waited in $(seq 1 150); do
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
