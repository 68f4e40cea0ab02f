//! Whether a file is the WAL segment that its name says.

use super::name::WalFileName;
use super::page_header::{WalPageHeader, WalPageHeaderError};
use crate::pg::{Lsn, SystemIdentifier, TimelineId};

/// Why a file is not the segment of its name. The server makes segments by renaming old ones, so that such a file need
/// not be damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentFileError {
    /// It does not begin with a page of WAL.
    #[error(transparent)]
    Header(#[from] WalPageHeaderError),
    /// It is another cluster's.
    #[error("it is of cluster {found}, and this one is {expected}")]
    OtherCluster {
        /// Whose it is.
        found: SystemIdentifier,
        /// Whose it should be.
        expected: SystemIdentifier,
    },
    /// It begins with another page.
    #[error("it holds the WAL at {0}")]
    OtherPlace(Lsn),
    /// It was written later than its name says.
    #[error("it begins with a page of timeline {0}")]
    LaterTimeline(TimelineId),
    /// It is too short or too long.
    #[error("it has {found} bytes instead of {expected}")]
    Length {
        /// What it has.
        found: u64,
        /// What a segment of the cluster has.
        expected: u32,
    },
}

impl WalFileName {
    /// Checks by its first page and its length that a file is this segment.
    ///
    /// # Errors
    /// [`SegmentFileError`].
    pub fn check_file(
        self,
        first_page: &[u8],
        size_bytes: u64,
        cluster: SystemIdentifier,
    ) -> Result<(), SegmentFileError> {
        let header = WalPageHeader::parse(first_page)?;
        if header.system_identifier != cluster {
            return Err(SegmentFileError::OtherCluster {
                found: header.system_identifier,
                expected: cluster,
            });
        }
        if header.page_address != self.start_lsn() {
            return Err(SegmentFileError::OtherPlace(header.page_address));
        }
        // The first segment of a timeline begins with pages that its parent wrote.
        if header.timeline > self.timeline {
            return Err(SegmentFileError::LaterTimeline(header.timeline));
        }
        let expected = self.segment_size_bytes();
        if size_bytes != u64::from(expected) {
            return Err(SegmentFileError::Length { found: size_bytes, expected });
        }
        Ok(())
    }
}
