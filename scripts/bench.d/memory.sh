# shellcheck shell=bash
# shellcheck disable=SC2154 # scripts/bench sets them

# memory: how much memory do backups take as clusters grow? Beside a fresh cluster lie files of 1 GiB, 10 of them, then
# 50, then 150 (or as the arguments say), in which every chunk has a header of its own and is a hole otherwise. So there
# are as many chunks as a cluster of that size has; each is read, hashed, compressed and stored, and takes 4 KiB of the
# disk: 150 GiB take 6 GB in TMPDIR, and the one restore that writes everything, at the first size only, 10 GiB more for a
# while. Needs root, PostgreSQL and GNU time.
#
#   create          into an empty repository, then of what was added
#   second          once more, when nothing has to be read
#   verify          of the newest
#   restore         of the newest into the present files, of which little differs
#   restore --into  of the newest, beside the present cluster
#   cleanup, list   of all
bench_memory() {
    local size count=0 sizes=("$@")
    [ "$#" -gt 0 ] || sizes=(10 50 150)
    trap clean_up_memory EXIT
    apt_install time util-linux perl
    make_workplace
    run_pgbox data init-postgresql >/dev/null 2>&1
    for size in "${sizes[@]}"; do
        say "$size GiB"
        add_sparse_files "$((count + 1))" "$size"
        count=$size
        measure_size "$size"
    done
    report_memory "${sizes[@]}"
}

add_sparse_files() {
    as_postgres mkdir -p "$directory/data/sparse"
    # shellcheck disable=SC2016 # it is Perl that expands them
    as_postgres perl -e '
        my ($directory, $first, $last) = @ARGV;
        for my $file ($first .. $last) {
            open my $out, ">", "$directory/$file" or die "$file: $!";
            for my $chunk (0 .. 8191) {
                defined sysseek $out, $chunk * 131072, 0 or die "$file: $!";
                syswrite $out, pack "NN", $file, $chunk or die "$file: $!";
            }
            truncate $out, 1 << 30 or die "$file: $!";
        }' "$directory/data/sparse" "$1" "$2"
    # Files whose time is not older than a moment are read again.
    sleep 3
}

measure_size() {
    local size=$1
    measure_backups "create-$size" create
    sleep 1
    measure_backups "second-$size" create --force
    measure_backups "verify-$size" verify latest
    measure_backups "restore-$size" restore latest --yes
    grep -q 'into the present files' "$directory/output" || fail "it wrote every file: $(cat "$directory/output")"
    if [ "$size" = "${sizes[0]}" ]; then
        measure_backups "into-$size" restore latest --into "$directory/target"
        rm -rf "$directory/target"
    fi
    measure_backups "cleanup-$size" cleanup
    measure_backups "list-$size" list
}

measure_backups() {
    local name=$1
    shift
    # shellcheck disable=SC2046 # a list of assignments
    measure "$name" env $(pgbox_environment data) "$directory/pgbox" backup-postgresql "$@"
}

report_memory() {
    local what size
    printf '%-16s' 'MiB peak (s)'
    printf '%18s' "${@/%/ GiB}"
    for what in create second verify restore into cleanup list; do
        printf '\n%-16s' "$what"
        for size in "$@"; do
            printf '%18s' "$(memory_cell "$directory/figures/$what-$size")"
        done
    done
    printf '\n'
    sort -n "$directory"/figures/*.memory | awk '{ most = $1 } END {
        printf "most of all: %.1f MiB (target: at most 256)%s\n", most / 1024, (most > 262144 ? " MISSED" : "")
        exit most > 262144 }'
}

memory_cell() {
    [ -e "$1" ] || return 0
    printf '%s (%s)' "$(awk '{ printf "%.1f", $1 / 1024 }' "$1.memory")" "$(awk '{ printf "%.1f", $1 / 1e6 }' "$1")"
}

clean_up_memory() {
    [ -n "$directory" ] || return 0
    [ ! -e "$directory/data/postmaster.pid" ] || run_pgbox data maintenance stop 2>/dev/null || true
    rm -rf "$directory"
}
