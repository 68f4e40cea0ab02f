//! Verifies backups: everything that they need is read, and the verdict is kept beside each.
//!
//! Reading is here and in the repository; what follows from it is decided in `plan::verification`. Packs are read once
//! for all backups that are verified together. Other backups that need what was found damaged get their verdict, too:
//! it would be no help to restore the one beside it. Nothing is written but verdicts.

mod indexes;
mod naming;
mod proof;
mod reading;
mod wal;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use chrono::{DateTime, Utc};
use serde::Serialize;

use self::naming::name_relations;
pub(crate) use self::proof::{clear_left_behind, left_behind};
use super::Tools;
use super::made_tablespace::MadeTablespace;
use crate::plan::{
    BackupFormat, BackupName, BackupSummary, Damage, DamageCode, DamagedFile, Judgement, Observed, Proof,
    Verification, VerificationVerdict, judge,
};
use crate::progress::Progress;
use crate::repository::{
    CHUNK_SIZE_BYTES, ChunkFault, ChunkId, ChunkList, EntryContent, FaultyChunk, PackScan, Repository,
    RepositoryError, SharedLock, TableEntry, TrustedChunks,
};
use crate::sys::step_point;

/// What a verification came to.
#[derive(Debug, Serialize)]
pub struct VerifyReport {
    /// A judgement for each backup that was verified, newest first.
    pub backups: Vec<Verified>,
    /// The backups that were not to be verified, and need what was found damaged.
    pub also_damaged: Vec<Verified>,
    /// The packs that are not what was written, and how that was noticed.
    pub damaged_packs: BTreeMap<String, String>,
    /// The packs that could not be read, and why.
    pub unreadable_packs: BTreeMap<String, String>,
    /// How many packs were read.
    pub pack_count: usize,
    /// How much was read of them.
    pub read_bytes: u64,
    /// What came of the proofs, where they were asked for.
    pub proofs: BTreeMap<BackupName, Proof>,
    /// Why a proof was not tried, where it would have written outside its own directory. It is no damage.
    pub not_tried: BTreeMap<BackupName, String>,
    /// Archived WAL files that are not what was archived, as `CLUSTER/NAME`, and how that was noticed, where they were asked
    /// for.
    pub damaged_wal: BTreeMap<String, String>,
    /// What is wrong with one of the two files that hold the key of an encrypted repository, where that was asked for.
    pub damaged_identity: Option<String>,
}

impl VerifyReport {
    /// Whether anything is damaged that was read.
    pub fn has_damage(&self) -> bool {
        let has_failed = self.proofs.values().any(|proof| !proof.is_passed());
        has_failed
            || !self.damaged_wal.is_empty()
            || self.damaged_identity.is_some()
            || !self.damaged_packs.is_empty()
            || self.backups.iter().any(|backup| backup.judgement.is_damaged())
    }

    /// The backups that were found sound.
    pub fn sound(&self) -> impl Iterator<Item = BackupName> {
        let is_sound = |backup: &&Verified| matches!(&backup.judgement, Judgement::Reached(verdict) if !verdict.is_damaged());
        self.backups.iter().filter(is_sound).map(|backup| backup.name)
    }

    /// Whether anything could not be read, so that nothing is known of it.
    pub fn has_unreadable(&self) -> bool {
        let is_undecided = |backup: &Verified| matches!(backup.judgement, Judgement::Undecided { .. });
        !self.unreadable_packs.is_empty() || self.backups.iter().any(is_undecided)
    }
}

/// One backup, verified.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// Its name.
    pub name: BackupName,
    /// What was found.
    #[serde(flatten)]
    pub judgement: Judgement,
    /// What was known before.
    pub former: Verification,
    /// Why the verdict could not be kept, where it could not.
    pub not_kept: Option<String>,
}

/// Whether a backup can be verified at all: a plain copy has no hashes to compare with.
pub fn is_verifiable(backup: &BackupSummary) -> bool {
    backup.format == BackupFormat::Chunked
}

/// Reads all that these backups need, and keeps the verdict on each.
///
/// # Errors
/// [`crate::error::Kind::Busy`] while another process writes or removes, and what could not be read of the repository as a
/// whole. Damage is no error: it is what the report tells.
pub fn verify(
    tools: &Tools,
    repository: &Repository,
    names: &[BackupName],
    now: DateTime<Utc>,
) -> anyhow::Result<VerifyReport> {
    clear_left_behind(tools);
    let lock = repository.lock_shared("verifying backups").context("lock the repository")?;
    let summaries = repository.backups().context("list the backups")?;
    let mut needed = repository.chunk_set();
    for name in names {
        // Damage of a table is judged below, with all else of its backup.
        let Ok(entries) = repository.entries(*name) else { continue };
        for (_, chunks) in files(&entries) {
            needed.extend(&chunks.load()?);
        }
    }
    let scan = repository.scan_packs(&lock, needed, tools.progress).context("read the packs")?;
    let verification = Job { tools, repository, scan: &scan, now };
    let (chosen, others): (Vec<&BackupSummary>, _) = summaries
        .iter()
        .filter(|backup| is_verifiable(backup))
        .partition(|backup| names.contains(&backup.name));
    let backups = chosen.into_iter().map(|backup| {
        let judgement = verification.judge(backup);
        verification.keep(&lock, backup, judgement)
    });
    let backups = backups.collect();
    let also_damaged = verification.also_damaged(&lock, &others);
    Ok(VerifyReport {
        backups,
        also_damaged,
        pack_count: scan.pack_count,
        read_bytes: scan.read_bytes,
        damaged_packs: scan.damaged_packs,
        unreadable_packs: scan.unreadable_packs,
        proofs: BTreeMap::new(),
        not_tried: BTreeMap::new(),
        damaged_wal: BTreeMap::new(),
        damaged_identity: None,
    })
}

/// Judges the backups that rest on what is known to be damaged or missing, and those that were found damaged before. Only
/// what of theirs has no copy elsewhere is read, and the lock is taken for keeping the verdicts alone.
///
/// # Errors
/// [`crate::error::Kind::Busy`] while another process writes: what is known of the packs is not lost by it.
pub fn judge_damaged(
    tools: &Tools,
    repository: &Repository,
    now: DateTime<Utc>,
) -> anyhow::Result<Vec<Verified>> {
    let trusted = repository.trusted_chunks().context("read the indexes of the packs")?;
    let mut doubtful = repository.chunk_set();
    let mut concerned = Vec::new();
    for backup in repository.backups().context("list the backups")?.into_iter().filter(is_verifiable) {
        let mut rests_on_doubtful = true;
        if let Ok(entries) = repository.entries(backup.name) {
            let lacking = lacking_chunks(&entries, &trusted)?;
            rests_on_doubtful = !lacking.is_empty();
            doubtful.extend(&lacking);
        }
        if rests_on_doubtful || backup.verification.is_damaged() {
            concerned.push(backup);
        }
    }
    if concerned.is_empty() {
        return Ok(Vec::new());
    }
    let scan = repository.scan_packs_beside(doubtful, tools.progress).context("read the damaged packs")?;
    let job = Job { tools, repository, scan: &scan, now };
    let judged = concerned.into_iter().map(|backup| (job.judge(&backup), backup));
    // That nothing of a backup was found damaged here is no verdict: not all of it was read.
    let is_news = |(judgement, backup): &(Judgement, BackupSummary)| {
        judgement.is_damaged() || backup.verification.is_damaged()
    };
    let news: Vec<_> = judged.filter(is_news).collect();
    if news.is_empty() {
        return Ok(Vec::new());
    }
    let lock = repository.lock_shared("keeping what reading back found").context("lock the repository")?;
    Ok(news.into_iter().map(|(judgement, backup)| job.keep(&lock, &backup, judgement)).collect())
}

/// The chunks that no pack has that is trusted.
fn lacking_chunks(entries: &[TableEntry], trusted: &TrustedChunks) -> Result<Vec<ChunkId>, RepositoryError> {
    let mut lacking = Vec::new();
    for (_, chunks) in files(entries) {
        lacking.extend(chunks.load()?.iter().filter(|chunk| !trusted.contains(chunk)));
    }
    Ok(lacking)
}

/// Reads every archived WAL file of every cluster. Returns those that are not what was archived, and why.
///
/// # Errors
/// What could not be read: that is no damage.
pub fn verify_archived_wal(
    repository: &Repository,
    progress: &dyn Progress,
) -> anyhow::Result<BTreeMap<String, String>> {
    let _lock = repository.lock_shared("verifying archived WAL").context("lock the repository")?;
    let mut damaged = BTreeMap::new();
    for cluster in repository.archived_clusters().context("list the archived WAL")? {
        let archive = repository.wal_archive(cluster);
        let files = archive.files().context("list the archived WAL")?;
        progress.begin("reading archived WAL", Some(files.iter().map(|file| file.stored_bytes).sum()));
        for file in files {
            match archive.fetch(&file.name, &mut std::io::sink()) {
                Ok(_) => {}
                Err(error @ (RepositoryError::Damaged { .. } | RepositoryError::OtherContent { .. })) => {
                    damaged.insert(format!("{cluster}/{}", file.name), error.to_string());
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("read the archived '{}'", file.name));
                }
            }
            progress.advance(file.stored_bytes);
        }
        progress.end();
    }
    Ok(damaged)
}

/// What came of proving a backup.
#[derive(Debug)]
pub enum Proving {
    /// It was restored and read.
    Done(Proof),
    /// It was not tried, since that would have written outside the directory of the proof: why. This says nothing
    /// against the backup.
    NotTried(String),
}

/// Restores a backup that was found sound where nobody uses it, reads all of it, and keeps what came of it.
///
/// # Errors
/// [`crate::error::Kind::Refused`] without room for it, [`crate::error::Kind::Busy`] while another proof is at work, and
/// what says nothing about the backup. That it does not recover or read is in the [`Proof`].
pub fn prove(
    tools: &Tools,
    repository: &Repository,
    name: BackupName,
    now: DateTime<Utc>,
) -> anyhow::Result<Proving> {
    let backup = repository.find(name)?;
    let made = {
        let _reading = repository.lock_shared("proving a backup").context("lock the repository")?;
        MadeTablespace::in_backup(&repository.reader(name)?)?
    };
    if let Some(made) = made.first() {
        return Ok(Proving::NotTried(made.reason(name)));
    }
    let proof = proof::prove(tools, repository, &backup, now)?;
    let lock = repository.lock_shared("keeping a proof").context("lock the repository")?;
    // Another verification may have come to another verdict meanwhile.
    if let Verification::Done(verdict) = repository.find(name)?.verification {
        let verdict = VerificationVerdict { proof: Some(proof.clone()), ..verdict };
        repository.keep_verdict(&lock, name, &verdict).context("keep the proof")?;
    }
    Ok(Proving::Done(proof))
}

struct Job<'a> {
    tools: &'a Tools<'a>,
    repository: &'a Repository,
    scan: &'a PackScan,
    now: DateTime<Utc>,
}

impl Job<'_> {
    fn judge(&self, backup: &BackupSummary) -> Judgement {
        let mut judgement = judge(self.observe(backup), self.now);
        if let Judgement::Reached(verdict) = &mut judgement {
            // What it holds never changes, so that a proof stands.
            verdict.proof = backup.verification.proof().cloned();
        }
        judgement
    }

    fn keep(&self, lock: &SharedLock, backup: &BackupSummary, judgement: Judgement) -> Verified {
        let not_kept = match &judgement {
            Judgement::Reached(verdict) => {
                step_point("verified");
                let kept = self.repository.keep_verdict(lock, backup.name, verdict);
                step_point("kept the verdict");
                kept.err().map(|error| format!("{:#}", anyhow::Error::new(error)))
            }
            Judgement::Undecided { .. } => None,
        };
        Verified { name: backup.name, judgement, former: backup.verification.clone(), not_kept }
    }

    /// Everything that reading told of one backup.
    fn observe(&self, backup: &BackupSummary) -> Observed {
        let mut observed = Observed { read_bytes: self.scan.read_bytes, ..Observed::default() };
        let entries = self.repository.entries(backup.name);
        match entries.and_then(|entries| self.observe_chunks(&entries, &mut observed)) {
            Ok(()) => {}
            Err(error) if backup.is_complete() => {
                observe_failure(error, DamageCode::TableDamaged, &mut observed);
            }
            Err(error) => observe_failure(error, DamageCode::DocumentDamaged, &mut observed),
        }
        // A damaged chunk of a segment is told already.
        if observed.damage.is_empty() && observed.unreadable.is_empty() {
            let checked = self.repository.reader(backup.name).and_then(|reader| wal::check(&reader));
            match checked {
                Ok(damage) => observed.damage.extend(damage),
                Err(error) => observe_failure(error, DamageCode::WalBroken, &mut observed),
            }
        }
        name_relations(self.tools, backup, &mut observed.damage);
        observed
    }

    fn observe_chunks(&self, entries: &[TableEntry], observed: &mut Observed) -> Result<(), RepositoryError> {
        let mut faults = Faults::default();
        for (entry, chunks) in files(entries) {
            for (number, chunk) in chunks.load()?.iter().enumerate() {
                let in_damaged = self.scan.in_damaged_packs.get(chunk);
                observed.damaged_packs.extend(in_damaged.map(ToString::to_string));
                if let Some(faulty) = self.scan.faulty.get(chunk) {
                    faults.add(entry, number, *chunk, faulty);
                }
            }
        }
        observed.damage.extend(faults.damage.into_values());
        observed.unreadable.extend(faults.unreadable);
        Ok(())
    }

    /// The backups beside those that were verified that need a chunk that was found damaged.
    fn also_damaged(&self, lock: &SharedLock, others: &[&BackupSummary]) -> Vec<Verified> {
        if self.scan.faulty.values().all(|faulty| faulty.fault == ChunkFault::Unreadable) {
            return Vec::new();
        }
        let mut verified = Vec::new();
        for backup in others {
            let Ok(entries) = self.repository.entries(backup.name) else { continue };
            let mut observed = Observed { read_bytes: self.scan.read_bytes, ..Observed::default() };
            if let Err(error) = self.observe_chunks(&entries, &mut observed) {
                observe_failure(error, DamageCode::TableDamaged, &mut observed);
            }
            if observed.damage.is_empty() {
                continue;
            }
            name_relations(self.tools, backup, &mut observed.damage);
            verified.push(self.keep(lock, backup, judge(observed, self.now)));
        }
        verified
    }
}

/// What is wrong with the chunks of a backup.
#[derive(Default)]
struct Faults {
    damage: BTreeMap<ChunkId, Damage>,
    unreadable: BTreeSet<String>,
}

impl Faults {
    /// Sets down that a file has a faulty chunk.
    fn add(&mut self, entry: &TableEntry, number: usize, chunk: ChunkId, faulty: &FaultyChunk) {
        let code = match faulty.fault {
            ChunkFault::Damaged => DamageCode::ChunkDamaged,
            ChunkFault::Missing => DamageCode::ChunkMissing,
            ChunkFault::Unreadable => {
                self.unreadable.insert(format!("'{}': chunk {chunk}: {}", entry.path, faulty.reason));
                return;
            }
        };
        let of_chunk = self.damage.entry(chunk).or_insert_with(|| Damage {
            pack: faulty.pack.map(|pack| pack.to_string()),
            chunk: Some(chunk.to_string()),
            ..Damage::new(code, faulty.reason.clone())
        });
        let offset = number as u64 * CHUNK_SIZE_BYTES as u64;
        of_chunk.files.push(DamagedFile { file: entry.path.to_string(), offset, relation: None });
    }
}

/// Every file, with its chunks.
fn files(entries: &[TableEntry]) -> impl Iterator<Item = (&TableEntry, &ChunkList)> {
    entries.iter().filter_map(|entry| match &entry.content {
        EntryContent::File { chunks, .. } => Some((entry, chunks)),
        _ => None,
    })
}

/// Tells damage from what could not be read.
fn observe_failure(error: RepositoryError, code: DamageCode, observed: &mut Observed) {
    match error {
        RepositoryError::Damaged { what } => observed.damage.push(Damage::new(code, what)),
        RepositoryError::Io { source, action, path } if is_about_content(&source) => {
            let problem = format!("could not {action} '{}': {source}", path.display());
            observed.damage.push(Damage::new(code, problem));
        }
        error => observed.unreadable.push(format!("{:#}", anyhow::Error::new(error))),
    }
}

/// Whether a file is gone, cut short or far too large, which no disk that comes back will mend.
fn is_about_content(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | UnexpectedEof | FileTooLarge)
}
