//! The write-ahead log: the names of its files, its pages, its records, and what some records say.
//!
//! All of it is pure. Where the bytes of a segment come from is the caller's business ([`WalSource`]).

mod decode;
mod moment;
mod name;
mod page_header;
mod range;
mod reader;
mod record;
mod segment_file;
mod transactions;

pub use decode::{Checkpoint, Parameters, WalEvent, checkpoint_size_bytes};
pub use moment::WalMoment;
pub use name::{
    WalFileName, WalFileNameError, is_backup_history_file, is_history_file, is_partial_segment_name,
    is_segment_name, is_valid_segment_size, timeline_of_file,
};
pub(super) use page_header::is_valid_block_size;
pub use page_header::{LONG_HEADER_SIZE_BYTES, WalGeometry, WalPageHeader, WalPageHeaderError};
pub use range::WalRange;
pub use reader::{WalFault, WalReader, WalSource};
pub use record::{
    BlockReference, BlockRestore, RECORD_HEADER_SIZE_BYTES, RecordBody, RecordHeader, RelationLocator,
    WalRecord,
};
pub use segment_file::SegmentFileError;
pub use transactions::{MultixactCreated, Outcome, TransactionEnd};

#[cfg(test)]
mod tests;
