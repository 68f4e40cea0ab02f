//! Where each number of the control file stands: the offsets of `ControlFileData` in `pg_control.h` on a 64-bit
//! machine. All before the checkpoint's `nextXid` is at the same place in every version.

/// The offsets of one layout, in bytes.
pub(super) struct Places {
    /// `checkPointCopy.nextXid`, and what follows it in the copy of the checkpoint.
    pub(super) next_xid: usize,
    pub(super) next_oid: usize,
    pub(super) next_multi: usize,
    pub(super) next_multi_offset: usize,
    pub(super) oldest_xid: usize,
    pub(super) oldest_multi: usize,
    pub(super) checkpoint_time: usize,
    pub(super) unlogged_lsn: usize,
    /// Its timeline follows.
    pub(super) min_recovery_point: usize,
    /// `backupEndPoint` and `backupEndRequired` follow.
    pub(super) backup_start_point: usize,
    pub(super) wal_level: usize,
    pub(super) wal_log_hints: usize,
    /// The first of six limits that follow one another; `track_commit_timestamp` is the last.
    pub(super) max_connections: usize,
    pub(super) max_prepared_transactions: usize,
    pub(super) track_commit_timestamp: usize,
    /// `maxAlign`; `floatFormat` follows.
    pub(super) alignment: usize,
    /// `blcksz`; `relseg_size` follows.
    pub(super) block_size: usize,
    /// `slru_pages_per_segment`, which 19 added.
    pub(super) slru_pages_per_segment: Option<usize>,
    /// `xlog_blcksz`; `xlog_seg_size`, `nameDataLen`, `indexMaxKeys`, `toast_max_chunk_size`, `loblksize` and
    /// `float8ByVal` follow.
    pub(super) wal_block_size: usize,
    /// `data_checksum_version_init`, which 19 added.
    pub(super) initial_checksum_version: Option<usize>,
    pub(super) data_checksum_version: usize,
    /// `default_char_signedness`, which 18 added.
    pub(super) char_signedness: Option<usize>,
    pub(super) nonce: usize,
    pub(super) crc: usize,
}

/// 13 to 17.
pub(super) const FROM_13: Places = Places {
    next_xid: 64,
    next_oid: 72,
    next_multi: 76,
    next_multi_offset: 80,
    oldest_xid: 84,
    oldest_multi: 92,
    checkpoint_time: 104,
    unlogged_lsn: 128,
    min_recovery_point: 136,
    backup_start_point: 152,
    wal_level: 172,
    wal_log_hints: 176,
    max_connections: 180,
    max_prepared_transactions: 192,
    track_commit_timestamp: 200,
    alignment: 204,
    block_size: 216,
    slru_pages_per_segment: None,
    wal_block_size: 224,
    initial_checksum_version: None,
    data_checksum_version: 252,
    char_signedness: None,
    nonce: 256,
    crc: 288,
};

/// 18 put the signedness of `char` before the nonce.
pub(super) const FROM_18: Places = Places { char_signedness: Some(256), nonce: 257, crc: 292, ..FROM_13 };

/// 19 widened the checkpoint by eight bytes, and added two numbers behind it.
pub(super) const FROM_19: Places = Places {
    next_xid: 72,
    next_oid: 80,
    next_multi: 84,
    next_multi_offset: 88,
    oldest_xid: 96,
    oldest_multi: 104,
    checkpoint_time: 112,
    unlogged_lsn: 136,
    min_recovery_point: 144,
    backup_start_point: 160,
    wal_level: 180,
    wal_log_hints: 184,
    max_connections: 188,
    max_prepared_transactions: 200,
    track_commit_timestamp: 208,
    alignment: 212,
    block_size: 224,
    slru_pages_per_segment: Some(232),
    wal_block_size: 236,
    initial_checksum_version: Some(264),
    data_checksum_version: 268,
    char_signedness: Some(272),
    nonce: 273,
    crc: 308,
};
