//! A lost `template0`: it is made anew from `template1`, since nobody can connect to it, and so nothing is in it.

use super::Catalog;
use crate::cluster::inspect::maps::FIRST_NORMAL_OID;
use crate::plan::{Finding, Remedy};

/// The names that it can have: the second for a moment, while it is made anew.
const NAMES: [&str; 2] = ["template0", "pgbox_template0_lost"];

/// Gives the finding that its directory is gone the better remedy, where `template1` is as initdb made it, as far as
/// relations tell: what users put there would come to be in `template0`, too, and stand in the way of a dump's restore.
pub(super) fn consider(catalog: &Catalog, findings: &mut [Finding]) {
    let Some(pattern) = catalog.databases.iter().find(|database| database.name == "template1") else {
        return;
    };
    let is_users = |oid: crate::pg::Oid| oid.0 >= FIRST_NORMAL_OID;
    let is_changed =
        catalog.relations().any(|relation| relation.database == pattern.oid && is_users(relation.oid));
    if is_changed || pattern.is_invalid {
        return;
    }
    let lost = catalog
        .databases
        .iter()
        .filter(|database| NAMES.contains(&database.name.as_str()) && !database.allows_connections);
    for database in lost {
        let is_about_it = |finding: &&mut Finding| {
            finding.code == "database-directory-missing" && finding.place == database.directory
        };
        if let Some(finding) = findings.iter_mut().find(is_about_it) {
            finding.remedy = Remedy::RecreateTemplate0;
        }
    }
}
