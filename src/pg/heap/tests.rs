use super::*;
use crate::pg::fixtures::{self, MAJORS};
use crate::pg::page::SIZE_BYTES;
use crate::pg::{MajorVersion, Oid};
use proptest::prelude::*;

/// Every transaction has the same status.
struct All(TransactionStatus);

impl Transactions for All {
    fn status(&self, _: u32) -> TransactionStatus {
        self.0
    }

    fn updater(&self, multixact: u32) -> Result<Option<u32>, MultixactUnreadable> {
        Ok(Some(multixact))
    }
}

const COMMITTED: All = All(TransactionStatus::Committed);
const ABORTED: All = All(TransactionStatus::Aborted);

fn tuple(infomask: u16, xmin: u32, xmax: u32) -> Tuple<'static> {
    Tuple { xmin, xmax, infomask, column_count: 0, bytes: &[], data: &[] }
}

fn live_tuples(pages: &[u8]) -> impl Iterator<Item = Tuple<'_>> {
    let tuples = pages.chunks(SIZE_BYTES).flat_map(tuples);
    tuples.filter(|tuple| tuple.visibility(&COMMITTED) != Visibility::Dead)
}

#[test]
fn the_databases_of_every_fixture_are_read() {
    for major in MAJORS {
        let pages = fixtures::read(major, "global_1262");
        let rows: Vec<_> = live_tuples(&pages).filter_map(|row| DatabaseRow::parse(&row, major)).collect();

        let template = rows.iter().find(|row| row.oid == Oid(1)).unwrap();
        assert_eq!(template.name, "template1", "version {major}");
        assert!(template.allows_connections && !template.is_invalid, "version {major}");
        assert_eq!(template.tablespace, Oid(1663), "version {major}");
        assert!(template.locale.collate.is_some() && template.locale.ctype.is_some(), "version {major}");
        assert!(rows.iter().any(|row| row.name == "template0" && !row.allows_connections), "version {major}");
    }
}

#[test]
fn pg_class_of_every_fixture_is_read() {
    for major in MAJORS {
        let pages = fixtures::read(major, "base1_1259");
        let tuples: Vec<_> = live_tuples(&pages).collect();
        let rows: Vec<_> = tuples.iter().filter_map(|row| ClassRow::parse(row, major)).collect();

        let pg_class = rows.iter().find(|row| row.oid == Oid(1259)).unwrap();
        assert_eq!((pg_class.name().as_str(), pg_class.kind, pg_class.relfilenode.0), ("pg_class", b'r', 0));
        let pg_database = rows.iter().find(|row| row.oid == Oid(1262)).unwrap();
        assert!(pg_database.is_shared && pg_database.persistence == b'p', "version {major}");
        assert!(rows.len() > 380, "version {major}: {}", rows.len());
    }
}

#[test]
fn a_row_without_hint_bits_counts_if_its_transaction_committed() {
    let row = tuple(0, 700, 0);
    assert_eq!(row.visibility(&COMMITTED), Visibility::Live);
    assert_eq!(row.visibility(&ABORTED), Visibility::Dead);
    assert_eq!(row.visibility(&All(TransactionStatus::Prepared)), Visibility::Live);
    assert_eq!(row.visibility(&All(TransactionStatus::Unknown)), Visibility::Uncertain);
}

#[test]
fn hint_bits_win_over_the_transaction_status() {
    assert_eq!(tuple(XMIN_COMMITTED, 700, 0).visibility(&ABORTED), Visibility::Live);
    assert_eq!(tuple(XMIN_INVALID, 700, 0).visibility(&COMMITTED), Visibility::Dead);
    assert_eq!(tuple(XMIN_COMMITTED | XMIN_INVALID, 700, 0).visibility(&ABORTED), Visibility::Live);
    assert_eq!(tuple(XMIN_COMMITTED | XMAX_INVALID, 700, 701).visibility(&COMMITTED), Visibility::Live);
    assert_eq!(tuple(XMIN_COMMITTED | XMAX_COMMITTED, 700, 701).visibility(&ABORTED), Visibility::Dead);
}

#[test]
fn a_row_whose_removal_was_cut_short_counts() {
    let row = tuple(XMIN_COMMITTED, 700, 701);
    assert_eq!(row.visibility(&ABORTED), Visibility::Live);
    assert!(row.has_failed_removal());
    assert_eq!(row.visibility(&COMMITTED), Visibility::Dead);
}

#[test]
fn what_a_prepared_transaction_made_and_removed_does_not_count() {
    let prepared = All(TransactionStatus::Prepared);
    assert_eq!(tuple(0, 700, 700).visibility(&prepared), Visibility::Dead);
    assert_eq!(tuple(XMIN_COMMITTED, 600, 700).visibility(&prepared), Visibility::Live);
}

#[test]
fn a_locked_row_counts_whatever_became_of_the_lock() {
    assert_eq!(tuple(XMIN_COMMITTED | LOCK_ONLY, 700, 701).visibility(&COMMITTED), Visibility::Live);
    assert_eq!(
        tuple(XMIN_COMMITTED | LOCK_ONLY | XMAX_IS_MULTI, 700, 5).visibility(&COMMITTED),
        Visibility::Live
    );
    assert_eq!(tuple(XMIN_COMMITTED | XMAX_IS_MULTI, 700, 5).visibility(&COMMITTED), Visibility::Dead);
}

proptest! {
    #[test]
    fn arbitrary_pages_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
        for row in tuples(&bytes) {
            row.visibility(&ABORTED);
            for major in [MajorVersion(13), MajorVersion(15), MajorVersion(16), MajorVersion(18)] {
                DatabaseRow::parse(&row, major);
                ClassRow::parse(&row, major).map(|row| row.name());
                IndexRow::parse(&row, major);
            }
            NameRow::parse(&row);
        }
    }

    #[test]
    fn a_flipped_byte_in_a_real_page_does_no_harm(offset in 0..SIZE_BYTES, value: u8) {
        for (major, name) in [(MajorVersion(15), "global_1262"), (MajorVersion(18), "base1_1259")] {
            let mut page = fixtures::read(major, name);
            page[offset] = value;
            for row in page.chunks(SIZE_BYTES).flat_map(tuples) {
                DatabaseRow::parse(&row, major);
                ClassRow::parse(&row, major);
            }
        }
    }
}
