//! `maintenance check`: what an inspection of the data directory found, for a person.

use super::arguments::is_given;
use clap::ArgMatches;
use pgbox::cluster::inspect::Depth;
use pgbox::execute::{Tools, decide};
use pgbox::format::{count, counted};
use pgbox::plan::{ClusterCondition, Diagnosis, Finding, Presence, Remedy, Severity};
use pgbox::ui::Ui;

/// The most blocks that are listed one by one.
const MOST_BLOCKS: usize = 8;

/// Inspects the data directory, reading only, and tells what was found.
pub(super) fn run(arguments: &ArgMatches, tools: &Tools, ui: &Ui) -> anyhow::Result<u8> {
    let depth = if is_given(arguments, "deep") { Depth::Deep } else { Depth::Structure };
    let diagnosis = decide::diagnose_to(tools, depth)?;
    let is_sound = diagnosis.condition == ClusterCondition::Sound && diagnosis.journal.is_none();
    if ui.is_json() {
        ui.json(&diagnosis)?;
    } else {
        ui.lines(&lines(&diagnosis, depth))?;
    }
    Ok(u8::from(!is_sound))
}

fn lines(diagnosis: &Diagnosis, depth: Depth) -> Vec<String> {
    let mut lines = Vec::new();
    for (severity, heading) in
        [(Severity::Error, "errors:"), (Severity::Warning, "warnings:"), (Severity::Notice, "notices:")]
    {
        let of_severity = diagnosis.findings.iter().filter(|finding| finding.severity == severity);
        let told: Vec<String> = of_severity.flat_map(finding_lines).collect();
        if !told.is_empty() {
            lines.push(heading.to_owned());
            lines.extend(told);
        }
    }
    if let Some(journal) = &diagnosis.journal {
        lines.push(format!("'{}' was cut short and is still to be finished", journal.operation));
    }
    lines.extend(presence_line(&diagnosis.presence, depth));
    lines.push(verdict(diagnosis));
    lines.push(extent(diagnosis, depth));
    lines
}

fn finding_lines(finding: &Finding) -> Vec<String> {
    let relation = finding.relation.as_ref().map(|relation| format!(" of {relation}")).unwrap_or_default();
    let mut lines = vec![
        format!("  {}: '{}'{relation}{}", finding.code, finding.place, blocks(finding)),
        format!("    found: {}", finding.evidence),
    ];
    if finding.remedy != Remedy::Nothing {
        lines.push(format!("    remedy: {}", finding.remedy));
    }
    lines
}

fn blocks(finding: &Finding) -> String {
    let listed: Vec<String> = finding.blocks.iter().take(MOST_BLOCKS).map(ToString::to_string).collect();
    let word = if finding.blocks.len() == 1 { "block" } else { "blocks" };
    match finding.blocks.len().saturating_sub(MOST_BLOCKS) {
        _ if listed.is_empty() => String::new(),
        0 => format!(", {word} {}", listed.join(", ")),
        more => format!(", {word} {} and {} more", listed.join(", "), count(more)),
    }
}

/// What cannot be judged while others write.
fn presence_line(presence: &Presence, depth: Depth) -> Option<String> {
    let user = match presence {
        Presence::Free => return None,
        Presence::Running { pid } => format!("a server runs (process {pid})"),
        Presence::Locked { holder: Some(holder) } => format!("it is in use by {holder}"),
        Presence::Locked { holder: None } => "it is in use".to_owned(),
        Presence::Elsewhere { server } => format!("it is in use by {server}"),
    };
    let unchecked = match depth {
        Depth::Owners | Depth::Structure | Depth::Catalogs => {
            "files that come and go were judged as after a crash"
        }
        Depth::Deep => {
            "files that come and go were judged as after a crash, and neither the age of the pages nor the rows of \
             the index entries were checked; stop it for a whole check"
        }
    };
    Some(format!("{user}: {unchecked}"))
}

fn verdict(diagnosis: &Diagnosis) -> String {
    let place = diagnosis.data_directory.display();
    match &diagnosis.condition {
        ClusterCondition::Absent => format!("'{place}' does not exist"),
        ClusterCondition::Empty => format!("'{place}' is empty"),
        ClusterCondition::InterruptedInitdb => {
            format!("'{place}' is what an interrupted initdb left; nothing was ever stored in it")
        }
        ClusterCondition::Sound => format!("'{place}' is sound"),
        ClusterCondition::Repairable => format!("'{place}' can be repaired in place"),
        ClusterCondition::Damaged => format!("'{place}' is damaged"),
        ClusterCondition::OtherMajorVersion { found, wanted: Some(wanted) } => {
            format!("'{place}' belongs to PostgreSQL {found}, and {wanted} was asked for")
        }
        ClusterCondition::OtherMajorVersion { found, wanted: None } => {
            format!("'{place}' belongs to PostgreSQL {found}, which is not installed")
        }
        ClusterCondition::UnknownVersion { control, catalog, .. } => format!(
            "'{place}' is of a version that this pgbox does not know: nothing was checked (pg_control version {control}, \
             catalog version {catalog})"
        ),
        ClusterCondition::NotPostgres { examples } => {
            format!("'{place}' is not PostgreSQL's: it holds {}", examples.join(", "))
        }
    }
}

fn extent(diagnosis: &Diagnosis, depth: Depth) -> String {
    let extent = &diagnosis.extent;
    let mut parts = vec![
        format!("{} in {}", counted(extent.relations, "relation"), counted(extent.databases, "database")),
        counted(extent.pages, "data page"),
    ];
    if depth == Depth::Deep {
        let entries = if extent.index_entries == 1 { "entry" } else { "entries" };
        parts.push(format!("{} index {entries}", count(extent.index_entries)));
        return format!("looked at {}", parts.join(", "));
    }
    format!("looked at {}; --deep looks at every page and index entry", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgbox::pg::{BlockNumber, Lsn};
    use pgbox::plan::{Extent, RelationName};

    fn diagnosis(findings: Vec<Finding>) -> Diagnosis {
        let blank = Diagnosis::blank("/data", ClusterCondition::Damaged, Presence::Free);
        let extent = Extent { databases: 3, relations: 1204, pages: 17_436, index_entries: 1 };
        Diagnosis { findings, extent, ..blank }
    }

    #[test]
    fn findings_are_told_worst_first_with_relation_evidence_and_remedy() {
        let relation = RelationName { database: "app".into(), schema: "public".into(), name: "rows".into() };
        let page = Finding::new("page-checksum", Severity::Error, "base/5/16384", "10 pages are bad")
            .of_relation(Some(relation))
            .at_blocks((3..13).map(BlockNumber).collect())
            .with_remedy(Remedy::ReplayFrom(Lsn(0x0300_0028)));
        let mode = Finding::new("mode-wrong", Severity::Warning, ".", "its mode is 0755");

        let text = lines(&diagnosis(vec![page, mode.with_remedy(Remedy::SetMode(0o700))]), Depth::Deep);

        let expected = [
            "errors:",
            "  page-checksum: 'base/5/16384' of app.public.rows, blocks 3, 4, 5, 6, 7, 8, 9, 10 and 2 more",
            "    found: 10 pages are bad",
            "    remedy: replay the WAL from the older checkpoint at 0/3000028, on a copy of the cluster",
            "warnings:",
            "  mode-wrong: '.'",
            "    found: its mode is 0755",
            "    remedy: set its mode to 0700",
            "'/data' is damaged",
            "looked at 1,204 relations in 3 databases, 17,436 data pages, 1 index entry",
        ];
        assert_eq!(text, expected);
    }

    #[test]
    fn beside_a_running_server_it_says_what_was_not_checked() {
        let mut sound = diagnosis(Vec::new());
        sound.condition = ClusterCondition::Sound;
        sound.presence = Presence::Running { pid: 412 };

        let text = lines(&sound, Depth::Deep);

        assert!(
            text[0].starts_with("a server runs (process 412): ") && text[0].contains("stop it"),
            "{text:?}"
        );
        assert_eq!(text[1], "'/data' is sound");
    }
}
