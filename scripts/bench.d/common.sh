# shellcheck shell=bash
# shellcheck disable=SC2154 # scripts/bench sets them
# What the benchmarks share: clusters of the user postgres, measured runs, medians. Sourced, never run.

median() { sort -n "$1" | awk '{ v[NR] = $1 } END { printf "%.1f\n", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
milliseconds() { awk -v us="$1" 'BEGIN { printf "%.1f", us / 1000 }'; }

cargo_target() { echo "${CARGO_TARGET_DIR:-$repository/target}"; }

as_postgres() { setpriv --reuid postgres --regid postgres --init-groups env -C "$directory" "$@"; }

# A directory with the release binary and the figures, for clusters of the user postgres.
make_workplace() {
    [ "$(id -u)" -eq 0 ] || fail 'the clusters belong to the user postgres: run this as root'
    find_cargo
    install_postgresql
    programs=/usr/lib/postgresql/${POSTGRES_VERSION:-15}/bin
    say 'building the release binary'
    (cd "$repository" && cargo build --release --locked --quiet)
    directory=$(mktemp -d)
    install -d -m 0755 "$directory/figures"
    install -m 0755 "$(cargo_target)/release/pgbox" "$directory/pgbox"
    chmod 0755 "$directory"
    chown postgres: "$directory" "$directory/figures"
}

start_cluster() {
    local name=$1
    shift
    as_postgres "$programs/pg_ctl" -s -w -D "$directory/$name" -l "$directory/$name.log" \
        -o "-c listen_addresses='' -c unix_socket_directories='$directory' -c fsync=off -c shared_buffers=512MB $*" start
}

stop_cluster() { as_postgres "$programs/pg_ctl" -s -m fast -w -D "$directory/$1" stop; }

# Runs a command once, and records its time and its processors' time in microseconds, and its peak memory in KiB; fails
# with what it printed.
measure() {
    local name=$1 begin end
    shift
    begin=$(date +%s%N)
    as_postgres "$(type -P time)" -o "$directory/figures/last" -f '%M %U %S' "$@" >"$directory/output" 2>&1 ||
        fail "$* failed: $(cat "$directory/output")"
    end=$(date +%s%N)
    echo $(((end - begin) / 1000)) >>"$directory/figures/$name"
    awk '{ print $1 }' "$directory/figures/last" >>"$directory/figures/$name.memory"
    awk '{ print ($2 + $3) * 1000000 }' "$directory/figures/last" >>"$directory/figures/$name.cpu"
}

# The environment of pgbox for a cluster of the workplace, as a list of assignments.
pgbox_environment() {
    echo "PGDATA=$directory/$1 BACKUP_DIR=$directory/backups LOG_DIR=$directory/log PGPORT=0"
}

run_pgbox() {
    local cluster=$1
    shift
    # shellcheck disable=SC2046 # a list of assignments
    as_postgres env $(pgbox_environment "$cluster") "$directory/pgbox" "$@"
}
