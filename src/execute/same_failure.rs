//! Whether two clusters that did not start failed for a cause that is in neither.
//!
//! A restored copy is a control: when it fails with the words with which the former cluster failed, what keeps both down is
//! around them. That does not hold where the server names a file of the data: the same file may be damaged in both, each in
//! its own way, and an older backup may have it whole. Only where both have the very same content in it is there nothing
//! that an exchange of the data could put right.

use crate::cluster::inspect::follow;
use crate::plan::recovery::FormerFailure;
use crate::plan::start_failure::{Cause, StartFailure};
use crate::sys::ReadRoot;
use std::io;

/// What is known of a cluster that did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FailureTrace {
    words: String,
    file: NamedFile,
}

/// The file of the data that a server named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NamedFile {
    /// It named none.
    None,
    /// It is not there, or cannot be read.
    Unread,
    /// The hash of its content.
    Content(blake3::Hash),
}

/// What comes after a cluster failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another source may do better.
    TryOn,
    /// Nothing that could be put in its place would.
    Stop(&'static str),
}

impl FailureTrace {
    /// Of a cluster that is still in its directory.
    pub(super) fn of(root: &ReadRoot, report: &StartFailure) -> Option<Self> {
        let place = match &report.cause {
            Cause::Data { place } => Some(place.as_str()),
            _ => None,
        };
        Some(Self { words: report.words.clone()?, file: named_file(root, place) })
    }

    /// Of the former cluster, which is still in place.
    pub(super) fn of_former(root: &ReadRoot, failure: &FormerFailure) -> Self {
        Self { words: failure.words.clone(), file: named_file(root, failure.place.as_deref()) }
    }

    /// Decides what comes after this failure, which came after others. `has_backup`: whether a backup is tried next.
    pub(super) fn after(&self, others: &[Self], has_backup: bool) -> Next {
        let mut alike = others.iter().filter(|other| other.words == self.words).peekable();
        if alike.peek().is_none() {
            return Next::TryOn;
        }
        if alike.any(|other| self.shows_no_data(other)) {
            return Next::Stop("it fails as the former one did, so the data are not the cause");
        }
        if has_backup {
            return Next::TryOn;
        }
        Next::Stop("it fails as the former one did, and there is no other backup")
    }

    /// Whether a cluster that failed with the same words shows that the data are not the cause.
    fn shows_no_data(&self, other: &Self) -> bool {
        match (self.file, other.file) {
            (NamedFile::None, NamedFile::None) => true,
            (NamedFile::Content(ours), NamedFile::Content(theirs)) => ours == theirs,
            _ => false,
        }
    }
}

fn named_file(root: &ReadRoot, place: Option<&str>) -> NamedFile {
    let Some(place) = place else { return NamedFile::None };
    hash_of(root, place).map_or(NamedFile::Unread, NamedFile::Content)
}

fn hash_of(root: &ReadRoot, place: &str) -> io::Result<blake3::Hash> {
    let (directory, name) = place.rsplit_once('/').unwrap_or((".", place));
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut follow(root, directory)?.open_file(name)?, &mut hasher)?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const FIRST: &str = "first";
    const OTHER: &str = "other";
    const NOT_NAMED: &str = "";
    const GONE: &str = "gone";
    const WORDS: &str = "FATAL: no";

    /// What a cluster said, and what was in the file that it named.
    fn trace((words, content): (&str, &str)) -> FailureTrace {
        let file = match content {
            NOT_NAMED => NamedFile::None,
            GONE => NamedFile::Unread,
            content => NamedFile::Content(blake3::hash(content.as_bytes())),
        };
        FailureTrace { words: words.to_owned(), file }
    }

    #[rstest]
    #[case::other_words(("FATAL: else", NOT_NAMED), (WORDS, NOT_NAMED), false, true)]
    #[case::the_same_words_about_no_file((WORDS, NOT_NAMED), (WORDS, NOT_NAMED), true, false)]
    #[case::the_same_file((WORDS, FIRST), (WORDS, FIRST), true, false)]
    #[case::another_content_and_a_backup((WORDS, FIRST), (WORDS, OTHER), true, true)]
    #[case::another_content_and_no_backup((WORDS, FIRST), (WORDS, OTHER), false, false)]
    #[case::gone_in_both_and_a_backup((WORDS, GONE), (WORDS, GONE), true, true)]
    #[case::gone_in_one_and_a_backup((WORDS, GONE), (WORDS, FIRST), true, true)]
    fn the_same_words_stop_where_another_backup_could_not_help(
        #[case] former: (&str, &str),
        #[case] present: (&str, &str),
        #[case] has_backup: bool,
        #[case] goes_on: bool,
    ) {
        let next = trace(present).after(&[trace(former)], has_backup);
        assert_eq!(next == Next::TryOn, goes_on, "{next:?}");
    }

    #[test]
    fn every_failure_before_counts_and_not_only_the_last() {
        let former = [trace((WORDS, FIRST)), trace(("FATAL: else", NOT_NAMED))];
        assert!(matches!(trace((WORDS, FIRST)).after(&former, true), Next::Stop(_)));
    }
}
