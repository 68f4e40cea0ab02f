//! WAL that is gone, cut or garbage. After a clean stop nothing needs it; after a kill, what it held is nowhere else.

use crate::faults::fault::Expect::{Lossless, Salvages};
use crate::faults::fault::fault;

super::faults! {
    all_wal_is_lost = fault("rm pg_wal/0*").alone_each(Lossless, Salvages("lost")).with_backup_each(Lossless, Salvages("lost"));
    the_wal_directory_is_lost = fault("rm -r pg_wal").alone_each(Lossless, Salvages("lost")).with_backup_each(Lossless, Salvages("lost"));
    the_last_segment_is_lost =
        fault("rm $(last_segments 1)").alone_each(Lossless, Salvages("lost")).with_backup_each(Lossless, Salvages("lost"));
    the_last_segment_is_garbage = fault("for segment in $(last_segments 1); do nonsense 16777216 > $segment; done")
        .alone_each(Lossless, Salvages("lost"))
        .with_backup_each(Lossless, Salvages("lost"));
    the_last_segment_is_cut = fault("truncate -s 8192 $(last_segments 1)")
        .alone_each(Lossless, Salvages("lost"))
        .with_backup_each(Lossless, Salvages("lost"));
    the_last_segment_is_zeroed = fault("for segment in $(last_segments 1); do head -c 16777216 /dev/zero > $segment; done")
        .alone_each(Lossless, Salvages("lost"))
        .with_backup_each(Lossless, Salvages("lost"));
    segments_that_nothing_needs_are_lost = fault("rm $(segments | head -n 1)");
    a_stranger_lies_among_the_segments = fault("echo x > pg_wal/README; : > pg_wal/000000010000000000000099.partial");
}
