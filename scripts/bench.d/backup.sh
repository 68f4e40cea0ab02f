# shellcheck shell=bash
# shellcheck disable=SC2154 # scripts/bench sets them

# backup: how fast and how small are backups, next to pg_basebackup, pgBackRest, restic and cp on the same running
# cluster: pgbench at scale 100 and a table of 1.5 million rows of text and jsonb (SCALE and ROWS set others). The tools
# take turns, all files are in the page cache, and the server does nothing else. Needs root, and 20 GB in TMPDIR.
#
#   full       into an empty repository
#   second     after 1 % of the rows were updated: those next to each other, as in a table that grows
#   unchanged  once more
#   restore    of the last, into an empty directory; pgbox recovers it, too, and stops it cleanly
#
# pgbox's own restores are held against each other, each after 1 % of the rows were updated, from the command until the
# server serves again: one that writes every file, and one that writes what differs.
#
# pgBackRest compresses with zstd at level 3 and runs two processes, as its documentation advises; neither it nor
# pg_basebackup has to wait for an archive.
bench_backup() {
    local rounds=${1:-3} round
    trap clean_up_backup EXIT
    apt_install time util-linux pgbackrest restic zstd
    make_workplace
    make_backup_cluster
    for round in $(seq 0 "$rounds"); do
        say "round $round of $rounds"
        bench_copies
        bench_repositories
        bench_restores
        # The first round only fills the page cache.
        [ "$round" -gt 0 ] || find "$directory/figures" -type f -delete
    done
    report_backup
}

make_backup_cluster() {
    local scale=${SCALE:-100} rows=${ROWS:-1500000}
    say "making a cluster: pgbench at scale $scale and $rows rows of text and jsonb"
    as_postgres "$programs/initdb" -D "$directory/data" -U postgres --data-checksums --no-sync >/dev/null
    start_cluster data -c max_wal_size=8GB -c autovacuum=off
    as_postgres "$programs/pgbench" -q -i -s "$scale" -h "$directory" postgres 2>/dev/null
    as_postgres "$programs/psql" -qh "$directory" postgres <<SQL
CREATE TABLE documents AS
    SELECT number AS id, md5(number::text) AS key, repeat(md5((number * 7)::text) || ' ', 3 + number % 5) AS body,
           jsonb_build_object('number', number, 'tags', ARRAY[md5((number % 1000)::text), 'tag'], 'at', now()) AS fields
    FROM generate_series(1, $rows) AS number;
ALTER TABLE documents ADD PRIMARY KEY (id);
VACUUM FREEZE ANALYZE;
CHECKPOINT;
SQL
    write_pgbackrest_configuration
    # As often as a person has it that worked with it a moment ago.
    sleep 3
}

write_pgbackrest_configuration() {
    cat >"$directory/pgbackrest.conf" <<CONF
[global]
repo1-path=$directory/pgbackrest
lock-path=$directory/pgbackrest-lock
log-level-file=off
log-level-console=warn
compress-type=zst
compress-level=3
process-max=2
start-fast=y
archive-check=n
[main]
pg1-path=$directory/data
pg1-socket-path=$directory
pg1-user=postgres
CONF
    chown postgres: "$directory/pgbackrest.conf"
}

# Tools that copy everything each time.
bench_copies() {
    measure cat sh -c "find '$directory/data/base' -type f -exec cat {} + >/dev/null"
    measure zstd sh -c "tar -cf - -C '$directory/data' base 2>/dev/null | zstd -q -1 -T2 >/dev/null"
    clear_target
    measure cp cp -r "$directory/data" "$directory/target"
    record_size cp target
    clear_target
    measure basebackup "$programs/pg_basebackup" -h "$directory" -U postgres -c fast --no-sync -D "$directory/target"
    record_size basebackup target
    clear_target
    measure basebackup-gzip "$programs/pg_basebackup" -h "$directory" -U postgres -c fast --no-sync -Ft -z \
        -D "$directory/target"
    record_size basebackup-gzip target
    clear_target
    measure basebackup-zstd "$programs/pg_basebackup" -h "$directory" -U postgres -c fast --no-sync -Ft -Xfetch \
        --compress client-zstd:level=3,workers=2 -D "$directory/target"
    record_size basebackup-zstd target
    clear_target
}

# Tools that keep a repository: full, second, unchanged, restore.
bench_repositories() {
    rm -rf "$directory/backups" "$directory/pgbackrest" "$directory/restic"
    as_postgres pgbackrest --config="$directory/pgbackrest.conf" --stanza=main --no-online stanza-create 2>/dev/null
    as_postgres restic init --quiet --repo "$directory/restic" --insecure-no-password 2>/dev/null ||
        as_postgres env RESTIC_PASSWORD=x restic init --quiet --repo "$directory/restic" >/dev/null
    back_up_with_each full --type=full
    update_percent "$directory" 5432 1
    back_up_with_each second --type=incr
    back_up_with_each unchanged --type=incr
    clear_target
    # shellcheck disable=SC2046 # a list of assignments
    measure pgbox-restore env $(pgbox_environment data) "$directory/pgbox" backup-postgresql restore latest \
        --into "$directory/target"
    clear_target
    measure pgbackrest-restore pgbackrest --config="$directory/pgbackrest.conf" --stanza=main \
        --pg1-path="$directory/target" --type=none restore
    clear_target
    measure restic-restore env RESTIC_PASSWORD=x restic --quiet --repo "$directory/restic" restore latest \
        --target "$directory/target"
    clear_target
}

back_up_with_each() {
    local kind=$1 type=$2
    # Files whose time is not older than a moment are read again by all who look at times.
    sleep 3
    # shellcheck disable=SC2046 # a list of assignments
    measure "pgbox-$kind" env $(pgbox_environment data) "$directory/pgbox" backup-postgresql create
    record_size "pgbox-$kind" backups
    measure "pgbackrest-$kind" pgbackrest --config="$directory/pgbackrest.conf" --stanza=main "$type" backup
    record_size "pgbackrest-$kind" pgbackrest
    measure "restic-$kind" env RESTIC_PASSWORD=x restic --quiet --repo "$directory/restic" backup "$directory/data"
    record_size "restic-$kind" restic
}

bench_restores() {
    local name kind
    name=$(find "$directory/backups" -maxdepth 1 -name 'data_*' -type d -printf '%f\n' | sort | tail -n 1)
    rm -rf "$directory/restored"
    run_pgbox restored backup-postgresql restore "$name" --yes 2>/dev/null
    for kind in all difference; do
        # The backup that follows every restore, unless it is left out as below.
        run_pgbox restored backup-postgresql create 2>/dev/null
        sleep 3
        update_percent /var/run/postgresql "$(sed -n 4p "$directory/restored/postmaster.pid")" 1
        sleep 3
        # shellcheck disable=SC2046 # a list of assignments
        measure "pgbox-restore-$kind" env $(pgbox_environment restored) "$directory/pgbox" backup-postgresql restore \
            "$name" --yes --no-backup $([ "$kind" = difference ] || echo --full)
        grep -q 'into the present files' "$directory/output" || [ "$kind" = all ] ||
            fail "it wrote every file: $(cat "$directory/output")"
    done
    run_pgbox restored maintenance stop 2>/dev/null
    rm -rf "$directory/restored"
}

# Updates the n-th hundredth of the rows, those next to each other.
update_percent() {
    as_postgres "$programs/psql" -qh "$1" -p "$2" postgres <<SQL
UPDATE pgbench_accounts SET abalance = abalance + 1
    WHERE aid BETWEEN (SELECT max(aid) / 100 * ($3 - 1) + 1 FROM pgbench_accounts)
                  AND (SELECT max(aid) / 100 * $3 FROM pgbench_accounts);
UPDATE documents SET body = reverse(body)
    WHERE id BETWEEN (SELECT max(id) / 100 * ($3 - 1) + 1 FROM documents)
                 AND (SELECT max(id) / 100 * $3 FROM documents);
CHECKPOINT;
SQL
}

clear_target() {
    rm -rf "$directory/target"
    install -d -m 0700 -o postgres -g postgres "$directory/target"
}

record_size() { du -sb "$directory/$2" | cut -f 1 >>"$directory/figures/$1.size"; }

report_backup() {
    say "cluster: $(du -sb "$directory/data" | awk '{ printf "%.2f GB", $1 / 1e9 }'), $(nproc) processors"
    printf '%-44s %9s %9s %9s %9s %12s\n' 'medians, warm cache' s 'CPU s' 'MiB peak' ratio 'MB stored'
    backup_row 'read floor: cat >/dev/null' cat
    backup_row 'tar | zstd -1 -T2 >/dev/null' zstd
    backup_row 'cp -r' cp
    backup_row 'pg_basebackup' basebackup
    backup_row 'pg_basebackup -Ft -z' basebackup-gzip
    backup_row 'pg_basebackup client-zstd:3,workers=2' basebackup-zstd
    local kind tool
    for kind in full second unchanged; do
        for tool in pgbox pgbackrest restic; do
            backup_row "$tool, $kind" "$tool-$kind" "pgbackrest-$kind"
        done
    done
    backup_row 'pgbox, restore elsewhere, recovered' pgbox-restore pgbackrest-restore
    backup_row 'pgbackrest, restore' pgbackrest-restore pgbackrest-restore
    backup_row 'restic, restore' restic-restore pgbackrest-restore
    backup_row 'pgbox, restore of all, with the start' pgbox-restore-all pgbox-restore-all
    backup_row 'pgbox, restore of what differs' pgbox-restore-difference pgbox-restore-all
    judge_backup
}

# The ratio is to pgBackRest's time for the same, or to its full backup.
backup_row() {
    local size='-'
    [ ! -e "$directory/figures/$2.size" ] || size=$(median "$directory/figures/$2.size" | awk '{ printf "%.1f", $1 / 1e6 }')
    printf '%-44s %9s %9s %9s %9s %12s\n' "$1" "$(seconds "$(median "$directory/figures/$2")")" \
        "$(seconds "$(median "$directory/figures/$2.cpu")")" \
        "$(median "$directory/figures/$2.memory" | awk '{ printf "%.1f", $1 / 1024 }')" \
        "$(ratio "$2" "${3:-pgbackrest-full}")" "$size"
}

seconds() { awk -v us="$1" 'BEGIN { printf "%.2f", us / 1000000 }'; }

ratio() {
    awk -v a="$(median "$directory/figures/$1")" -v b="$(median "$directory/figures/$2")" 'BEGIN { printf "%.2f", a / b }'
}

judge_backup() {
    local full second_added other_added
    full=$(ratio pgbox-full pgbackrest-full)
    second_added=$(added pgbox) other_added=$(added pgbackrest)
    awk -v f="$full" -v s="$(ratio pgbox-second pgbackrest-second)" -v a="$second_added" -v o="$other_added" \
        -v e="$(ratio pgbox-restore pgbackrest-restore)" -v d="$(ratio pgbox-restore-difference pgbox-restore-all)" \
        -v u="$(median "$directory/figures/pgbox-unchanged")" -v m="$(median "$directory/figures/pgbox-full.memory")" \
        -v p="$(median "$directory/figures/pgbox-full.size")" -v r="$(median "$directory/figures/pgbackrest-full.size")" '
        function line(text, value, most) {
            printf "%-72s %8.2f (target: at most %s)%s\n", text, value, most, (value > most ? " MISSED" : "")
            missed += (value > most)
        }
        BEGIN {
            line("full backup, in times of pgBackRest", f, 0.4)
            line("its repository, in times of pgBackRest", p / r, 1)
            line("second backup, in times of pgBackRest", s, 1)
            line("bytes that it added, in times of pgBackRest", a / o, 0.5)
            line("unchanged, in seconds", u / 1000000, 0.3)
            line("restore into an empty directory, in times of pgBackRest", e, 0.7)
            line("restore after 1 % changed, in times of one that writes every file", d, 0.25)
            line("peak memory in MiB", m / 1024, 256)
            exit missed > 0
        }'
}

# What the second backup added to a repository.
added() {
    awk -v a="$(median "$directory/figures/$1-second.size")" -v b="$(median "$directory/figures/$1-full.size")" \
        'BEGIN { printf "%.0f", a - b }'
}

clean_up_backup() {
    [ -n "$directory" ] || return 0
    [ ! -e "$directory/data/postmaster.pid" ] || stop_cluster data || true
    rm -rf "$directory"
}
