//! What a salvage could not bring over, as data with the words for it. Pure.

use crate::format::{count, counted};
use crate::pg::BlockNumber;
use crate::plan::RelationName;
use serde::Serialize;
use std::fmt;

/// How many blocks or rows are named one by one.
const NAMED: usize = 20;

/// What was brought over, what is lost, and what had to be assumed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(in crate::execute) struct Salvaged {
    /// The databases that were brought over, whole or in part.
    pub databases: Vec<String>,
    /// How many tables.
    pub table_count: u64,
    /// How many rows.
    pub row_count: u64,
    /// What is lost.
    pub losses: Vec<Loss>,
    /// What was assumed, or made anew, because what had said so was gone.
    pub approximations: Vec<String>,
}

/// Something that is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::execute) enum Loss {
    /// A whole database.
    Database {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// All rows of a table.
    Table {
        /// The table.
        relation: RelationName,
        /// How many rows it had, as the statistics have it.
        estimated_rows: Option<u64>,
        /// Why.
        reason: String,
    },
    /// What was in some blocks of a table, or of where its long values are kept.
    Blocks {
        /// The table.
        relation: RelationName,
        /// The blocks, counted over the whole relation.
        blocks: Vec<BlockNumber>,
        /// What is wrong with them.
        reason: String,
    },
    /// Single rows.
    Rows {
        /// The table.
        relation: RelationName,
        /// Where they were, as `ctid` has it.
        places: Vec<String>,
        /// What the server said of the first.
        reason: String,
    },
    /// Single values of rows that are there otherwise; they are null now.
    Values {
        /// The table.
        relation: RelationName,
        /// Where the rows were, each with its columns.
        places: Vec<String>,
        /// What the server said of the first.
        reason: String,
    },
    /// Something else in a database: a constraint, an index, a large object.
    Object {
        /// The database.
        database: String,
        /// What it is: `FK CONSTRAINT orders_customer_fkey`.
        object: String,
        /// Why.
        reason: String,
    },
    /// Something that belongs to no database: a role, a tablespace.
    Shared {
        /// What it is.
        object: String,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database { name, reason } => write!(formatter, "the database '{name}' is lost: {reason}"),
            Self::Table { relation, estimated_rows, reason } => {
                let rows = match estimated_rows {
                    Some(rows) => format!("all rows of {relation} (about {})", count(*rows)),
                    None => format!("all rows of {relation}"),
                };
                write!(formatter, "{rows} are lost: {reason}")
            }
            Self::Blocks { relation, blocks, reason } => {
                let numbers: Vec<String> = blocks.iter().map(ToString::to_string).collect();
                let blocks = named("block", &numbers);
                write!(formatter, "what was in {blocks} of {relation} is lost: {reason}")
            }
            Self::Rows { relation, places, reason } => {
                let verb = if places.len() == 1 { "is" } else { "are" };
                write!(formatter, "{} of {relation} {verb} lost: {reason}", named("row", places))
            }
            Self::Values { relation, places, reason } => {
                write!(formatter, "null stands in {} of {relation}: {reason}", named("row", places))
            }
            Self::Object { database, object, reason } => {
                write!(formatter, "{object} in the database '{database}' is lost: {reason}")
            }
            Self::Shared { object, reason } => write!(formatter, "{object} is lost: {reason}"),
        }
    }
}

/// `block 7`, `the 3 blocks 7, 9, 12`, and the first few of many.
pub(super) fn named(noun: &str, names: &[String]) -> String {
    let first: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
    let list = first.join(", ");
    match names.len() {
        1 => format!("{noun} {list}"),
        length if length <= NAMED => format!("the {} {list}", counted(length, noun)),
        length => format!("the {} {list} and others", counted(length, noun)),
    }
}

impl Salvaged {
    pub(super) fn lose(&mut self, loss: Loss) {
        self.losses.push(loss);
    }

    pub(super) fn assume(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.approximations.contains(&text) {
            self.approximations.push(text);
        }
    }

    pub(super) fn lose_object(
        &mut self,
        database: &str,
        object: impl Into<String>,
        reason: impl Into<String>,
    ) {
        self.lose(Loss::Object {
            database: database.to_owned(),
            object: object.into(),
            reason: one_line(&reason.into()),
        });
    }

    /// What a person is told, a line each: what came over, what is lost, what was assumed.
    pub(in crate::execute) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "salvaged {} in {} of {}",
            counted(self.row_count, "row"),
            counted(self.table_count, "table"),
            counted(self.databases.len(), "database"),
        )];
        lines.extend(self.losses.iter().map(ToString::to_string));
        lines.extend(self.approximations.iter().cloned());
        lines
    }
}

/// The first line of what a server said, which is all that fits.
pub(super) fn one_line(text: &str) -> String {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason was given").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation() -> RelationName {
        RelationName { database: "d".into(), schema: "public".into(), name: "t".into() }
    }

    #[test]
    fn a_loss_names_its_relation_and_blocks() {
        let loss = Loss::Blocks {
            relation: relation(),
            blocks: vec![BlockNumber(7), BlockNumber(9)],
            reason: "they are all zeros".into(),
        };

        assert_eq!(
            loss.to_string(),
            format!("what was in the 2 blocks 7, 9 of {} is lost: they are all zeros", relation())
        );
    }

    #[test]
    fn of_many_rows_the_first_are_named() {
        let places = (1..=100).map(|offset| format!("(0,{offset})")).collect();
        let loss = Loss::Rows { relation: relation(), places, reason: "damaged".into() };

        let text = loss.to_string();

        assert!(text.starts_with("the 100 rows (0,1), (0,2)"), "{text}");
        assert!(text.contains("(0,20) and others") && !text.contains("(0,21)"), "{text}");
    }

    #[test]
    fn an_assumption_is_said_once() {
        let mut salvaged = Salvaged::default();
        salvaged.assume("a");
        salvaged.assume("a");

        assert_eq!(salvaged.approximations, ["a"]);
    }
}
