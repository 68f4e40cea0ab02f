//! Inspections of real clusters: real damage is found, and a sound cluster has no finding.

mod catalog;
mod pages;
mod sound;

use crate::support::sandbox::{Sandbox, printed};
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// The size of a data page.
const PAGE_BYTES: u64 = 8192;

/// What `maintenance check --json` says, and its exit status.
#[track_caller]
fn check(sandbox: &Sandbox, options: &[&str]) -> (i32, Value) {
    let output = sandbox.output(&[&["maintenance", "check", "--json"], options].concat());
    let text = printed(&output);
    let diagnosis = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {text}"));
    (output.status.code().unwrap(), diagnosis)
}

/// The findings of a check with every page and every index entry.
#[track_caller]
fn findings(sandbox: &Sandbox) -> Vec<Value> {
    let (status, diagnosis) = check(sandbox, &["--deep"]);
    let findings = diagnosis["findings"].as_array().unwrap().clone();
    let is_sound = findings.iter().all(|finding| finding["remedy"] == "nothing");
    assert_eq!(status, i32::from(!is_sound), "{diagnosis:#}");
    findings
}

/// The one finding with this code, about this place.
#[track_caller]
fn finding(findings: &[Value], code: &str, place: &str) -> Value {
    let found: Vec<&Value> =
        findings.iter().filter(|finding| finding["code"] == code && finding["place"] == place).collect();
    assert_eq!(found.len(), 1, "{code} of {place}: {findings:#?}");
    found[0].clone()
}

/// The main file of a relation, below the data directory. The server must run.
fn place_of(sandbox: &Sandbox, relation: &str) -> String {
    sandbox.sql(&format!("SELECT pg_relation_filepath('{relation}')"))
}

fn open(sandbox: &Sandbox, place: &str) -> File {
    File::options().read(true).write(true).open(path_of(sandbox, place)).unwrap()
}

fn path_of(sandbox: &Sandbox, place: &str) -> PathBuf {
    sandbox.data().join(place)
}

fn read_page(sandbox: &Sandbox, place: &str, block: u64) -> Vec<u8> {
    let mut page = vec![0; usize::try_from(PAGE_BYTES).unwrap()];
    open(sandbox, place).read_exact_at(&mut page, block * PAGE_BYTES).unwrap();
    page
}

fn write_page(sandbox: &Sandbox, place: &str, block: u64, page: &[u8]) {
    open(sandbox, place).write_all_at(page, block * PAGE_BYTES).unwrap();
}
