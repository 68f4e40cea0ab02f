//! Which way a backup is put in the place of the present data: built anew beside it, or by changing the present files.
//! Pure.
//!
//! Beside it, in staging, is the safer way: the former cluster stays in one piece until the new one has served, and a
//! rename brings it back. It writes everything, and needs the room of a second cluster. In place, the present data goes
//! into the repository first, and then only what differs is written. That is taken where it saves much, or where there
//! is no room for the other.

use super::backups::BackupName;
use super::diagnosis::ClusterCondition;
use super::recovery::{Action, InPlace, Plan, Refusal};
use crate::format::{bytes, count, counted};
use serde::Serialize;

/// What a restore needs beyond the cluster's own size: the segments that the server will write at once.
pub const SPARE_BYTES: u64 = 64 << 20;
/// What must be spared for the quicker way to be taken. Any disk writes this in about a second, which nobody notices
/// beside the stop and the start of a server.
const LEAST_SPARED_BYTES: u64 = 64 << 20;
/// At most one part in so many may differ. What differs is read, compressed and stored before it is changed, with the
/// server down; building beside leaves that for when it serves again. At a quarter, both are down for about as long.
const MOST_DIFFERING_PART: u64 = 4;
/// No cluster's files shrink to less than this part of their size in the repository.
const BEST_COMPRESSION: u64 = 16;

/// What a person asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Whatever is best.
    #[default]
    Best,
    /// Every file from the backup, none of the present ones.
    Full,
}

/// Files, counted and measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many.
    pub file_count: u64,
    /// Their bytes.
    pub size_bytes: u64,
}

impl Amount {
    /// Counts another file in.
    pub fn add(&mut self, size_bytes: u64) {
        self.file_count += 1;
        self.size_bytes += size_bytes;
    }
}

/// How the present files differ from those of a backup, by an estimate: files that are not known from a backup are
/// looked at in samples, and a server may still write to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Files that differ or are missing, and the bytes of them that would be written.
    pub written: Amount,
    /// Files that are the same.
    pub left: Amount,
    /// Files that the backup does not have.
    pub removed: Amount,
    /// What the files that are missing or longer in the backup need beyond what the others free.
    pub growth_bytes: u64,
    /// What the repository may not have of the present data.
    pub unstored_bytes: u64,
}

/// All that the choice rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The size of the whole backup.
    pub backup_bytes: u64,
    /// What differs; or why the present files cannot be changed into those of the backup.
    pub difference: Result<Difference, String>,
    /// What is free on the disk of the data directory.
    pub free_bytes: u64,
    /// What is free on the disk of the repository.
    pub repository_free_bytes: u64,
}

/// The way that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The cluster is built in staging. Why.
    Staged(String),
    /// The present files are changed. How they differ, and why.
    InPlace(Difference, String),
}

impl Survey {
    fn staging_bytes(&self) -> u64 {
        self.backup_bytes.saturating_add(SPARE_BYTES)
    }

    /// Chooses the way. `condition` is that of the present cluster.
    ///
    /// # Errors
    /// A [`Refusal`] where there is room for neither.
    pub fn choose(&self, condition: &ClusterCondition, wish: Wish) -> Result<Way, Refusal> {
        let has_room = self.free_bytes >= self.staging_bytes();
        match (self.objection(condition, wish), &self.difference) {
            (None, Ok(difference)) => Ok(Way::InPlace(*difference, "most of it is the same".to_owned())),
            (Some(objection), _) if has_room => Ok(Way::Staged(objection)),
            (_, Ok(difference)) if wish == Wish::Best => self.without_staging(difference),
            (_, Err(reason)) if wish == Wish::Best => Err(self.no_room(reason)),
            _ => Err(self.no_room("with --full none of them is kept")),
        }
    }

    /// Why the present files are not to be changed where there is room to build beside them; `None` where they are.
    fn objection(&self, condition: &ClusterCondition, wish: Wish) -> Option<String> {
        if wish == Wish::Full {
            return Some("every file is wanted from the backup".to_owned());
        }
        let difference = match &self.difference {
            Ok(difference) => difference,
            Err(reason) => return Some(reason.clone()),
        };
        if *condition != ClusterCondition::Sound {
            return Some("the present cluster is not sound, and stays in one piece".to_owned());
        }
        let (written, left) = (difference.written.size_bytes, difference.left.size_bytes);
        if written > self.backup_bytes / MOST_DIFFERING_PART {
            return Some(format!("{} of {} differ", bytes(written), bytes(self.backup_bytes)));
        }
        if left < LEAST_SPARED_BYTES {
            return Some(format!("it is small: {} would be spared", bytes(left)));
        }
        if self.repository_free_bytes < difference.unstored_bytes {
            return Some(format!(
                "about {} of the present data would have to be stored first, and {} are free in the repository",
                bytes(difference.unstored_bytes),
                bytes(self.repository_free_bytes)
            ));
        }
        let needed_bytes = needed_bytes(difference);
        (self.free_bytes < needed_bytes).then(|| format!("it takes {}", bytes(needed_bytes)))
    }

    fn without_staging(&self, difference: &Difference) -> Result<Way, Refusal> {
        let needed_bytes = needed_bytes(difference);
        if self.free_bytes < needed_bytes {
            return Err(self.no_room(&format!("to change them takes {}", bytes(needed_bytes))));
        }
        if self.repository_free_bytes < difference.unstored_bytes / BEST_COMPRESSION {
            let reason = format!(
                "{} of them would have to be stored before they are changed, and the repository has room for {}",
                bytes(difference.unstored_bytes),
                bytes(self.repository_free_bytes)
            );
            return Err(self.no_room(&reason));
        }
        let reason = format!("there is no room to build it beside ({})", bytes(self.staging_bytes()));
        Ok(Way::InPlace(*difference, reason))
    }

    fn no_room(&self, reason: &str) -> Refusal {
        let missing_bytes = self.staging_bytes().saturating_sub(self.free_bytes);
        Refusal {
            reason: format!(
                "it takes {} beside the present data, and {} are free; nor can the present files be changed: {reason}",
                bytes(self.staging_bytes()),
                bytes(self.free_bytes)
            ),
            hint: format!("free {} there, then run it again. Nothing was changed.", bytes(missing_bytes)),
            is_busy: false,
        }
    }
}

/// What has to be free on the disk of the data directory to change the files that are there.
pub fn needed_bytes(difference: &Difference) -> u64 {
    difference.growth_bytes.saturating_add(SPARE_BYTES)
}

impl Plan {
    /// The same plan, going the way that was chosen for it, which its remarks tell with what it takes.
    #[must_use]
    pub fn going(mut self, backup: BackupName, way: &Way, survey: &Survey) -> Self {
        match way {
            Way::Staged(reason) => self.remarks.push(format!(
                "every file is written, beside the present data: {reason}; that takes {}, and {} are free",
                bytes(survey.staging_bytes()),
                bytes(survey.free_bytes)
            )),
            Way::InPlace(difference, reason) => {
                for step in &mut self.steps {
                    if let Action::Replace(replacement) = &step.action
                        && let Some(aside) = replacement.aside
                    {
                        let difference = *difference;
                        step.action = Action::ReplaceInPlace(InPlace { backup, aside, difference });
                    }
                }
                self.remarks
                    .push(format!("the present files are changed: {reason}; {}", words_of(difference)));
                self.remarks.push(format!(
                    "that takes {} on the disk of the data, and {} are free; about {} in the repository, and {} are free",
                    bytes(needed_bytes(difference)),
                    bytes(survey.free_bytes),
                    bytes(difference.unstored_bytes),
                    bytes(survey.repository_free_bytes)
                ));
            }
        }
        self
    }
}

fn words_of(difference: &Difference) -> String {
    let Difference { written, left, removed, .. } = difference;
    format!(
        "about {} of {} are written, in {} of {}, and {} ({}) that it does not have removed",
        bytes(written.size_bytes),
        bytes(written.size_bytes + left.size_bytes),
        count(written.file_count),
        counted(written.file_count + left.file_count, "file"),
        counted(removed.file_count, "other"),
        bytes(removed.size_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn survey(written_bytes: u64) -> Survey {
        let amount = |size_bytes| Amount { file_count: 10, size_bytes };
        let difference = Difference {
            written: amount(written_bytes),
            left: amount((10 * GIB).saturating_sub(written_bytes)),
            removed: amount(0),
            growth_bytes: 0,
            unstored_bytes: written_bytes,
        };
        Survey {
            backup_bytes: 10 * GIB,
            difference: Ok(difference),
            free_bytes: 100 * GIB,
            repository_free_bytes: 100 * GIB,
        }
    }

    fn choose(survey: &Survey) -> Result<Way, Refusal> {
        survey.choose(&ClusterCondition::Sound, Wish::Best)
    }

    fn is_in_place(survey: &Survey) -> bool {
        matches!(choose(survey), Ok(Way::InPlace(..)))
    }

    #[test]
    fn with_room_the_present_files_are_changed_only_where_that_saves_much() {
        assert!(is_in_place(&survey(GIB / 10)));
        assert!(!is_in_place(&survey(3 * GIB)));
        let small = Survey { backup_bytes: 50 << 20, ..survey(0) };
        let difference =
            Difference { left: Amount { file_count: 9, size_bytes: 50 << 20 }, ..Difference::default() };
        assert!(!is_in_place(&Survey { difference: Ok(difference), ..small }));
    }

    #[test]
    fn a_damaged_cluster_is_left_in_one_piece_where_there_is_room() {
        let way = survey(GIB / 10).choose(&ClusterCondition::Damaged, Wish::Best).unwrap();
        assert!(matches!(way, Way::Staged(reason) if reason.contains("not sound")));
        let tight = Survey { free_bytes: GIB, ..survey(GIB / 10) };
        let way = tight.choose(&ClusterCondition::Damaged, Wish::Best).unwrap();
        assert!(matches!(way, Way::InPlace(..)));
    }

    #[test]
    fn without_room_beside_the_present_files_are_changed_however_much_differs() {
        let tight = Survey { free_bytes: GIB, ..survey(9 * GIB) };
        assert!(is_in_place(&tight));
        let way = tight.choose(&ClusterCondition::Sound, Wish::Full);
        assert!(way.is_err_and(|refusal| refusal.reason.contains("--full")));
    }

    #[test]
    fn a_repository_that_cannot_take_the_present_data_refuses_what_needs_it() {
        let full = Survey { repository_free_bytes: 1 << 20, ..survey(GIB) };
        assert!(!is_in_place(&full), "there is room beside");
        let refused = choose(&Survey { free_bytes: GIB, ..full }).unwrap_err();
        assert!(refused.reason.contains("the repository has room for 1.0 MiB"), "{}", refused.reason);
        assert!(refused.hint.contains("Nothing was changed"));
    }

    #[test]
    fn no_room_at_all_is_refused_with_what_it_takes() {
        let mut survey = survey(GIB);
        survey.free_bytes = 1 << 20;
        let refused = choose(&survey).unwrap_err();
        assert!(refused.reason.contains("it takes 10.1 GiB beside the present data, and 1.0 MiB are free"));
        survey.difference = Err("a mount is in it".to_owned());
        assert!(choose(&survey).unwrap_err().reason.contains("a mount is in it"));
    }
}
