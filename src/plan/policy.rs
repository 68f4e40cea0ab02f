//! How far recovery may go without asking a person.

use serde::Serialize;

/// How far recovery may go without asking a person. Each goes as far as those after it, and further.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RecoveryPolicy {
    /// To the end: repair in place, restore a backup, salvage, begin anew.
    #[default]
    Auto,
    /// Only what repairs in place, without loss.
    Repair,
    /// Nothing: a cluster that does not start as it is stays as it is.
    Never,
}

impl RecoveryPolicy {
    /// All of them, the boldest first.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Repair, Self::Never];

    /// The name that a person sets it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Repair => "repair",
            Self::Never => "never",
        }
    }

    /// The policy of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }
}

impl std::fmt::Display for RecoveryPolicy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}
