# shellcheck shell=bash
# shellcheck disable=SC2154 # scripts/bench sets them

# archive: what a server waits for each WAL segment that it has archived, and a recovery for each that it fetches, next
# to pgBackRest and cp. The tools take turns, each with segments of its own that pgbench filled; what starting a process
# takes is measured with /bin/true, and start-up is what is left of fetching a file that was never archived.
# Needs root.
bench_archive() {
    local rounds=${1:-20} segment system
    trap clean_up_backup EXIT
    apt_install time util-linux pgbackrest
    make_workplace
    make_archive_cluster "$rounds"
    system=$(as_postgres "$programs/psql" -Atqh "$directory" postgres -c 'SELECT system_identifier FROM pg_control_system()')
    as_postgres mkdir "$directory/copies" "$directory/fetched"
    run_pgbox data backup-postgresql create 2>/dev/null
    as_postgres pgbackrest --config="$directory/pgbackrest.conf" --stanza=main --no-online stanza-create 2>/dev/null
    while read -r segment; do
        archive_one "$segment" "$system"
    done < <(find "$directory/data/pg_wal" -maxdepth 1 -name '0000000100000000000000[0-9A-F][0-9A-F]' -printf '%f\n' |
        sort | head -n "$rounds")
    report_archive
}

make_archive_cluster() {
    say 'making a cluster, and WAL'
    as_postgres "$programs/initdb" -D "$directory/data" -U postgres --data-checksums --no-sync >/dev/null
    write_pgbackrest_configuration
    start_cluster data -c max_wal_size=8GB -c autovacuum=off -c wal_keep_size=8GB
    # A scale of 1 fills about one segment.
    as_postgres "$programs/pgbench" -q -i -s "$(($1 + 10))" -h "$directory" postgres 2>/dev/null
}

archive_one() {
    local segment=$1 system=$2 path=$directory/data/pg_wal/$1
    measure true true
    measure cp cp "$path" "$directory/copies/$segment"
    measure archive "$directory/pgbox" archive-wal --data-directory="$directory/data" \
        --backup-directory="$directory/backups" --queue-limit=1GB "$path"
    measure pgbackrest-push pgbackrest --config="$directory/pgbackrest.conf" --stanza=main archive-push "$path"
    measure fetch "$directory/pgbox" fetch-wal --backup-directory="$directory/backups" \
        --system-identifier="$system" "$segment" "$directory/fetched/$segment"
    cmp "$path" "$directory/fetched/$segment" || fail "$segment came back as something else"
    measure pgbackrest-get pgbackrest --config="$directory/pgbackrest.conf" --stanza=main archive-get "$segment" \
        "$directory/fetched/$segment"
    # Status 1, as it has to be, is what measure would take for a failure.
    # shellcheck disable=SC2016 # the inner shell's parameters
    measure nothing sh -c '"$@" 2>/dev/null; [ $? -eq 1 ]' - "$directory/pgbox" fetch-wal \
        --backup-directory="$directory/backups" --system-identifier="$system" 00000009.history "$directory/fetched/none"
    measure shell sh -c 'true; [ $? -eq 0 ]'
}

report_archive() {
    printf '%-44s %9s\n' 'medians, a full segment of 16 MiB' ms
    archive_row 'nothing: a process' true
    archive_row 'cp' cp
    archive_row 'pgbox archive-wal' archive
    archive_row 'pgbackrest archive-push' pgbackrest-push
    archive_row 'pgbox fetch-wal' fetch
    archive_row 'pgbackrest archive-get' pgbackrest-get
    awk -v n="$(median "$directory/figures/nothing")" -v s="$(median "$directory/figures/shell")" 'BEGIN {
        startup = (n - s) / 1000
        printf "start-up: %.2f ms (target: at most 5)%s\n", startup, (startup > 5 ? " MISSED" : "")
        exit startup > 5 }'
}

archive_row() { printf '%-44s %9s\n' "$1" "$(milliseconds "$(median "$directory/figures/$2")")"; }
