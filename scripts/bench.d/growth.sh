# shellcheck shell=bash
# shellcheck disable=SC2154 # scripts/bench sets them

# growth: what backups cost as a cluster grows and as days go by. Clusters of about 0.5, 2 and 8 GB (SCALES sets
# others), the one of the backup bench made smaller and larger; of each
#
#   full       a first backup into an empty repository
#   day 1-7    a backup after 1 % of the rows were updated, each day those that come after the last day's
#   unchanged  once more
#   restore    of the last into an empty directory, recovered and stopped
#   verify     of the last
#
# All files are in the page cache, and the server does nothing else. Needs root, and 24 GB in TMPDIR.
bench_growth() {
    local scale
    trap clean_up_backup EXIT
    apt_install time util-linux
    make_workplace
    for scale in ${SCALES:-25 100 400}; do
        grow_to "$scale"
    done
    report_growth
}

grow_to() {
    local scale=$1 day
    SCALE=$scale ROWS=$((scale * 15000)) make_backup_cluster
    # A first reading fills the page cache.
    find "$directory/data/base" -type f -exec cat {} + >/dev/null
    du -sb --exclude=pg_wal "$directory/data" | cut -f 1 >"$directory/figures/$scale.cluster"
    measure_growth "$scale-full" backup-postgresql create
    for day in $(seq 7); do
        update_percent "$directory" 5432 "$day"
        sleep 3
        measure_growth "$scale-day" backup-postgresql create
        [ "$day" -gt 1 ] || record_size "$scale-first-day" backups
    done
    record_size "$scale-week" backups
    measure_growth "$scale-unchanged" backup-postgresql create
    clear_target
    measure_growth "$scale-restore" backup-postgresql restore latest --into "$directory/target"
    measure_growth "$scale-verify" backup-postgresql verify latest
    stop_cluster data
    rm -rf "$directory/data" "$directory/backups" "$directory/target"
}

measure_growth() {
    local name=$1
    shift
    # shellcheck disable=SC2046 # a list of assignments
    measure "$name" env $(pgbox_environment data) "$directory/pgbox" "$@"
    [ "${name#*-}" != full ] || record_size "$name" backups
}

# Of each cluster: seconds, seconds for each GB of it, and peak memory.
report_growth() {
    local scale kind
    printf '%-12s %-22s %9s %12s %9s %9s\n' 'cluster, GB' 'warm cache' s 's per GB' 'MiB peak' 'MB stored'
    for scale in ${SCALES:-25 100 400}; do
        growth_row "$scale" 'full' full "$(growth_size "$scale-full")"
        growth_row "$scale" 'a day, median of 7' day "$(growth_added "$scale")"
        for kind in unchanged restore verify; do
            growth_row "$scale" "$kind" "$kind" -
        done
    done
    judge_growth
}

growth_size() { median "$directory/figures/$1.size" | awk '{ printf "%.1f", $1 / 1e6 }'; }

# What a day adds to the repository, on average.
growth_added() {
    awk -v w="$(median "$directory/figures/$1-week.size")" -v f="$(median "$directory/figures/$1-full.size")" \
        'BEGIN { printf "%.1f", (w - f) / 7 / 1e6 }'
}

growth_row() {
    local scale=$1 label=$2 figure=$3 stored=$4
    awk -v c="$(median "$directory/figures/$scale.cluster")" -v t="$(median "$directory/figures/$scale-$figure")" \
        -v m="$(median "$directory/figures/$scale-$figure.memory")" -v l="$label" -v s="$stored" 'BEGIN {
            printf "%-12.2f %-22s %9.2f %12.3f %9.1f %9s\n", c / 1e9, l, t / 1e6, t / 1e6 / (c / 1e9), m / 1024, s
        }'
}

judge_growth() {
    local scale list=() most_memory
    for scale in ${SCALES:-25 100 400}; do
        list+=("$scale:$(median "$directory/figures/$scale.cluster"):$(median "$directory/figures/$scale-full"):$(
            median "$directory/figures/$scale-full.size"):$(median "$directory/figures/$scale-week.size"):$(
            median "$directory/figures/$scale-day"):$(growth_added "$scale")")
    done
    most_memory=$(cat "$directory"/figures/*.memory | sort -n | tail -n 1)
    printf '%s\n' "${list[@]}" | awk -F : -v memory="$most_memory" '
        function line(text, value, most) {
            printf "%-72s %8.2f (target: at most %s)%s\n", text, value, most, (value > most ? " MISSED" : "")
            missed += (value > most)
        }
        { cluster[NR] = $2; full[NR] = $3; first[NR] = $4; week[NR] = $5; day[NR] = $6; added[NR] = $7 }
        END {
            for (i = 1; i <= NR; i++)
                line(sprintf("%.1f GB: repository after seven days, in times of the first backup", cluster[i] / 1e9),
                     week[i] / first[i], 1.3)
            for (i = 2; i <= NR; i++) {
                line(sprintf("%.1f GB: full backup, seconds for each GB, in times of the smallest", cluster[i] / 1e9),
                     full[i] / cluster[i] / (full[1] / cluster[1]), 1.25)
                line(sprintf("%.1f GB: a day, seconds for each MB added, in times of the smallest", cluster[i] / 1e9),
                     day[i] / added[i] / (day[1] / added[1]), 1.25)
            }
            line("peak memory in MiB", memory / 1024, 256)
            exit missed > 0
        }'
}
