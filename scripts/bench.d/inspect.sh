# shellcheck shell=bash
# shellcheck disable=SC2154 # scripts/bench sets them

# inspect: how fast are the inspections, next to pg_checksums on the same files? A cluster of 2 GB without user indexes
# and WAL, so that both read the same pages and nothing else; the same with its primary keys and WAL, for the whole deep
# check; a fresh cluster and one of 100,000 relations for the check before every start. All files are in the page
# cache, and the programs take turns. Needs root, PostgreSQL with pgbench, GNU time, and 6 GB in TMPDIR.
bench_inspect() {
    local rounds=${1:-5}
    trap clean_up_inspect EXIT
    apt_install time util-linux
    make_workplace
    make_inspect_clusters
    bench_pages "$rounds"
    bench_structure "$rounds" fresh
    bench_structure "$rounds" served
    bench_structure "$rounds" many
    report_inspect
}

make_inspect_clusters() {
    say 'making a fresh cluster'
    as_postgres "$programs/initdb" -D "$directory/fresh" -U postgres --data-checksums --no-sync >/dev/null
    # What every start but the first sees: a configuration that is known to be good, and the seal of the last stop.
    cp -a "$directory/fresh" "$directory/served"
    run_pgbox served init-postgresql --no-backup >/dev/null 2>&1
    run_pgbox served maintenance stop >/dev/null 2>&1
    say 'making a cluster of 2 GB'
    cp -a "$directory/fresh" "$directory/pages"
    # Without WAL for what is loaded, as in the cluster that is compared.
    start_cluster pages -c wal_level=minimal -c max_wal_senders=0
    as_postgres "$programs/pgbench" -q -i -I dtg -s 150 -h "$directory" postgres 2>/dev/null
    as_postgres "$programs/psql" -qh "$directory" -c VACUUM postgres
    stop_cluster pages
    say 'making a cluster of 100,000 relations'
    cp -a "$directory/fresh" "$directory/many"
    start_cluster many -c max_locks_per_transaction=1000
    as_postgres "$programs/psql" -qh "$directory" postgres <<'SQL'
DO $$ BEGIN
    FOR number IN 1..10000 LOOP
        EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY)', number);
    END LOOP;
END $$;
SQL
    for number in 1 2 3 4; do
        as_postgres "$programs/psql" -qh "$directory" -c "CREATE DATABASE d$number TEMPLATE postgres STRATEGY file_copy" template1
    done
    stop_cluster many
}



check_cluster() {
    local name=$1 cluster=$2
    shift 2
    # shellcheck disable=SC2046,SC2086 # lists of assignments
    measure "$name" env ${THREADS:-} $(pgbox_environment "$cluster") "$directory/pgbox" maintenance check "$@"
}

bench_pages() {
    local round
    for round in $(seq 0 "$1"); do
        say "pages: round $round of $1"
        measure cat sh -c "cat '$directory'/pages/base/*/* '$directory'/pages/global/* >/dev/null"
        measure pg_checksums "$programs/pg_checksums" --check -D "$directory/pages"
        THREADS=RAYON_NUM_THREADS=1 check_cluster pages-one pages --deep
        check_cluster pages-all pages --deep
        # The first round only fills the page cache.
        [ "$round" -gt 0 ] || find "$directory/figures" -type f -delete
    done
    say 'pages: with primary keys and the WAL that made them'
    start_cluster pages
    as_postgres "$programs/pgbench" -q -i -I p -h "$directory" postgres 2>/dev/null
    stop_cluster pages
    for round in $(seq 0 "$1"); do
        check_cluster whole pages --deep
        [ "$round" -gt 0 ] || rm -f "$directory"/figures/whole*
    done
    tail -n 1 "$directory/output" >"$directory/figures/extent"
}

bench_structure() {
    local round
    for round in $(seq 0 "$1"); do
        # What every row has in it: to become the user postgres and to start a program.
        measure nothing true
        check_cluster "$2" "$2"
        [ "$round" -gt 0 ] || rm -f "$directory"/figures/"$2"*
    done
    tail -n 1 "$directory/output" >"$directory/figures/$2.extent"
}

report_inspect() {
    local bytes
    bytes=$(cat "$directory"/pages/base/*/* "$directory"/pages/global/* 2>/dev/null | wc -c)
    printf '%-56s %9s %9s %9s %9s\n' 'medians, warm cache' ms 'CPU ms' 'MiB peak' ratio
    inspect_row 'to start a program that does nothing (in every row)' nothing
    inspect_row 'read floor: cat >/dev/null' cat
    inspect_row 'pg_checksums --check' pg_checksums
    inspect_row 'maintenance check --deep, one thread' pages-one
    inspect_row "maintenance check --deep, $(nproc) threads" pages-all
    inspect_row 'the same with primary keys and their WAL' whole
    inspect_row 'maintenance check, fresh cluster (target: < 20 ms)' fresh
    inspect_row 'the same, after pgbox has served it once' served
    inspect_row 'maintenance check, 100,000 relations (target: < 400 ms)' many
    cat "$directory/figures/extent" "$directory/figures/fresh.extent" "$directory/figures/many.extent"
    awk -v b="$bytes" -v c="$(median "$directory/figures/pg_checksums")" -v o="$(median "$directory/figures/pages-one")" \
        -v a="$(median "$directory/figures/pages-all")" -v r="$(median "$directory/figures/cat")" 'BEGIN {
        printf "as fast as pg_checksums: %.2f times with one thread, %.2f with all (target: 1.6)\n", c / o, c / a
        printf "one thread: %.1f ms more than to read alone\n", (o - r) / 1000
        exit c / a < 1.6 }'
}

inspect_row() {
    local time
    time=$(median "$directory/figures/$2")
    printf '%-56s %9s %9s %9s %9s\n' "$1" "$(milliseconds "$time")" \
        "$(milliseconds "$(median "$directory/figures/$2.cpu")")" \
        "$(median "$directory/figures/$2.memory" | awk '{ printf "%.1f", $1 / 1024 }')" \
        "$(awk -v c="$(median "$directory/figures/pg_checksums")" -v t="$time" 'BEGIN { printf "%.2f", c / t }')"
}

clean_up_inspect() {
    local cluster
    [ -n "$directory" ] || return 0
    for cluster in pages many served; do
        [ ! -e "$directory/$cluster/postmaster.pid" ] || stop_cluster "$cluster" || true
    done
    rm -rf "$directory"
}
