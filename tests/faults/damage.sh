# What faults are made of. Run in the data directory; relations and databases are variables with their paths.
. ../relations
global=global
dbuser=$database_dbuser
# put FILE OFFSET_BYTES: what comes from standard input, in place.
put() { dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }
block() { dd if="$1" bs=8192 skip="$2" count=1 status=none; }
put_block() { dd of="$1" bs=8192 seek="$2" conv=notrunc status=none; }
blocks() { echo $(($(stat -c %s "$1") / 8192)); }
zero() { head -c 8192 /dev/zero | put_block "$1" "$2"; }
# Bytes that are in no format of PostgreSQL's.
nonsense() { yes 'not what was written here, at all' | head -c "$1"; }
garbage() { nonsense 8192 | put_block "$1" "$2"; }
# flip FILE OFFSET_BYTES: the lowest bit of one byte.
flip() {
    byte=$(od -An -tu1 -j"$2" -N1 "$1")
    # shellcheck disable=SC2059
    printf "\\$(printf %03o $((byte ^ 1)))" | put "$1" "$2"
}
# swap FILE BLOCK BLOCK
swap() {
    block "$1" "$2" >../swapped
    block "$1" "$3" | put_block "$1" "$2"
    put_block "$1" "$3" <../swapped
}
# stale BLOCK: a page of accounts as it was before an update.
stale() { block ../old_accounts "$1" | put_block "$accounts" "$1"; }
halve() { truncate -s $(($(blocks "$1") / 2 * 8192)) "$1"; }
# The WAL segments, oldest first.
segments() { find pg_wal -maxdepth 1 -type f -name '????????????????????????' | sort; }
# The segment that holds the end of the WAL: what is newer is a recycled file with an old address in its header.
last_segments() {
    for segment in $(segments); do
        [ "$(address_in "$segment")" = "$(address_of "$segment")" ] && echo "$segment"
    done | tail -n "$1"
}
address_in() { od -An -tx8 -j8 -N8 "$1" | tr -d ' '; }
address_of() { printf '%016x' $((0x$(basename "$1" | cut -c9-16) * 4294967296 + 0x$(basename "$1" | cut -c17-24) * 16777216)); }
