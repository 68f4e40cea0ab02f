//! Where the symbolic links of what is imported lead, once all of them are there.
//!
//! A link whose own text stays within the tree may leave it through another: `..` behind a link goes up from where that
//! leads (`path_resolution(7)`), not from where it is.

use std::collections::BTreeMap;

use crate::repository::{EntryContent, TableEntry};

/// How many links a path may lead through, as for the kernel.
const MOST_LINKS: usize = 40;

/// Returns the first link that leads out of the tree, with its target.
pub(super) fn first_that_leads_outside(entries: &[TableEntry]) -> Option<(&str, &str)> {
    let links: BTreeMap<&str, &str> = entries
        .iter()
        .filter_map(|entry| match &entry.content {
            EntryContent::Symlink { target } => Some((entry.path.as_str(), target.as_str())),
            _ => None,
        })
        .collect();
    links
        .iter()
        .find(|(path, target)| leads_outside(path, target, &links))
        .map(|(path, target)| (*path, *target))
}

/// Whether a link leads out of the tree, through the other links that are known. One that leads nowhere, since it
/// comes back to itself, counts too.
pub(super) fn leads_outside(path: &str, target: &str, links: &BTreeMap<&str, &str>) -> bool {
    let mut place: Vec<&str> = path.split('/').collect();
    place.pop();
    let mut rest: Vec<&str> = target.split('/').rev().collect();
    let mut followed_count = 0;
    if target.starts_with('/') {
        return true;
    }
    while let Some(name) = rest.pop() {
        match name {
            ".." if place.pop().is_none() => return true,
            "" | "." | ".." => continue,
            name => place.push(name),
        }
        let Some(next) = links.get(place.join("/").as_str()) else { continue };
        followed_count += 1;
        if next.starts_with('/') || followed_count > MOST_LINKS {
            return true;
        }
        place.pop();
        rest.extend(next.split('/').rev());
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_may_lead_to_another_place_in_the_tree_only() {
        for (path, target, is_outside) in [
            ("a", "b", false),
            ("base/a", "../b", false),
            ("base/a", "../../b", true),
            ("a", "..", true),
            ("a", "/etc/passwd", true),
            ("a", "b/../../c", true),
        ] {
            assert_eq!(leads_outside(path, target, &BTreeMap::new()), is_outside, "{path} -> {target}");
        }
    }

    #[test]
    fn a_link_may_not_leave_the_tree_through_another() {
        let links = BTreeMap::from([
            ("x/x/d", "../.."),
            ("up", "x/x/d/y"),
            ("out", "x/x/d/../etc"),
            ("a", "b"),
            ("b", "a"),
        ]);
        for (path, is_outside) in [("x/x/d", false), ("up", false), ("out", true), ("a", true)] {
            assert_eq!(leads_outside(path, links[path], &links), is_outside, "{path}");
        }
    }
}
