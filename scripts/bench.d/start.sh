# shellcheck shell=bash
# shellcheck disable=SC2154 # scripts/bench sets them

# start: how much later than with a bare `pg_ctl -w start` does a container whose entry point is start-services
# accept connections? Both kinds start the same cluster, cleanly stopped, from the same image, in turns. The clock
# starts where the container's first process would, so what the engine takes to make a container counts for neither;
# it stops at the server's own line "ready to accept connections", and for pg_ctl also at its return.
bench_start() {
    local image=pgbox-bench
    local rounds=${1:-15} round
    trap 'clean_up_start; stop_engine' EXIT
    ensure_engine || fail 'no Docker engine answers, and none could be started'
    build_image "$image"
    directory=$(mktemp -d)
    chmod 0755 "$directory"
    mkdir "$directory"/{data,logs,backups,times}
    make_cluster
    for round in $(seq "$rounds"); do
        say "round $round of $rounds"
        run_once pgbox start-services
        # shellcheck disable=SC2016 # the container's variables
        run_once bare sh -c 'setpriv --reuid postgres --regid postgres --init-groups \
            pg_ctl -s -w -D "$PGDATA" -l "$LOG_DIR/postgresql.log" start; date +%s%N >/times/returned; exec sleep infinity'
    done
    report_start
}

# A cluster with enough relations and bytes to look at, and one backup, so that no start has one to make.
make_cluster() {
    local container
    say 'making the cluster'
    container=$(run_container start-services)
    docker exec "$container" init-postgresql --wait >&2
    docker exec --user postgres "$container" pgbench -q -i -s 10 postgres >&2
    docker exec "$container" backup-postgresql create >&2
    docker exec "$container" chown postgres: /var/log/postgresql
    docker stop "$container" >/dev/null
    docker rm "$container" >/dev/null
}

run_container() {
    # shellcheck disable=SC2016 # the container's variables
    docker run --detach --label "pgbox-bench=$$" --stop-timeout 60 --env PGDATA=/var/lib/postgresql-data/pgdata \
        --volume "$directory/data:/var/lib/postgresql-data" --volume "$directory/logs:/var/log/postgresql" \
        --volume "$directory/backups:/var/lib/postgresql-backup" --volume "$directory/times:/times" \
        --entrypoint sh "$image" -c 'date +%s%N >/times/started; exec "$@"' - "$@"
}

run_once() {
    local kind=$1 container
    shift
    as_root rm -f "$directory/times/returned" "$directory/logs/postgresql.log"
    container=$(run_container "$@")
    wait_until_ready "$kind" "$container"
    record "$kind-ready" "$(ready_at)"
    [ "$kind" != bare ] || record bare-returned "$(cat "$directory/times/returned")"
    case $kind in
        pgbox) docker stop "$container" >/dev/null ;;
        bare) docker exec --user postgres "$container" pg_ctl -s -m fast -w stop ;;
    esac
    docker rm --force "$container" >/dev/null
}

wait_until_ready() {
    local kind=$1 container=$2 deadline=$((SECONDS + 60))
    until grep -qs 'ready to accept connections' "$directory/logs/postgresql.log" &&
        { [ "$kind" = pgbox ] || [ -s "$directory/times/returned" ]; }; do
        if [ $SECONDS -ge $deadline ]; then
            docker logs "$container" >&2
            fail "the server did not come up within 60 s ($kind)"
        fi
        sleep 0.1
    done
}

# PostgreSQL's line begins with its time, to the millisecond.
ready_at() {
    local stamp
    stamp=$(grep -m 1 'ready to accept connections' "$directory/logs/postgresql.log" | cut -d ' ' -f 1-3)
    date --date "$stamp" +%s%N
}

record() { echo $((($2 - $(cat "$directory/times/started")) / 1000)) >>"$directory/$1"; }

report_start() {
    local pgbox bare returned
    pgbox=$(median "$directory/pgbox-ready")
    bare=$(median "$directory/bare-ready")
    returned=$(median "$directory/bare-returned")
    printf '%-42s %9s %9s %9s\n' 'from the first process, in ms' median least most
    row 'start-services: accepting connections' pgbox-ready
    row 'pg_ctl -w start: accepting connections' bare-ready
    row 'pg_ctl -w start: returned' bare-returned
    awk -v p="$pgbox" -v b="$bare" -v r="$returned" 'BEGIN {
        printf "ratio: %.2f to the return of pg_ctl -w start (target: at most 1.3), %.2f to its server accepting connections\n", p / r, p / b
        exit p / r > 1.3 }'
}

row() {
    printf '%-42s %9s %9s %9s\n' "$1" "$(milliseconds "$(median "$directory/$2")")" \
        "$(milliseconds "$(sort -n "$directory/$2" | head -n 1)")" "$(milliseconds "$(sort -n "$directory/$2" | tail -n 1)")"
}

clean_up_start() {
    local container
    for container in $(docker ps --all --quiet --filter "label=pgbox-bench=$$"); do
        docker rm --force "$container" >/dev/null
    done
    [ -z "$directory" ] || as_root rm -rf "$directory"
}
