//! Export and import with the servers of other major versions: what a label, a manifest and the WAL look like differs.

use crate::support::extent::is_all_wanted;
use crate::support::sandbox::Sandbox;
use crate::support::versions::programs;
use rstest::rstest;

#[rstest]
fn a_bundle_of_every_version_comes_in_again_and_is_restored(#[values(13, 14, 16, 17, 18, 19)] major: u32) {
    if !is_all_wanted() && !matches!(major, 13 | 18) {
        return;
    }
    let Some(programs) = programs(major) else { return };
    let mut sandbox = Sandbox::empty();
    sandbox.set("POSTGRES_BIN_DIR", programs.to_str().unwrap());
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE TABLE kept AS SELECT i, md5(i::text) AS t FROM generate_series(1, 20000) AS i");
    let judge = "SELECT count(*), sum(i), md5(string_agg(t, '' ORDER BY i)) FROM kept";
    let before = sandbox.sql(judge);
    sandbox.succeed(&["backup-postgresql", "create"]);
    let bundle = sandbox.path().join("bundle.tar.zst").to_str().unwrap().to_owned();
    sandbox.succeed(&["backup-postgresql", "export", "latest", &bundle]);
    sandbox.sql("DROP TABLE kept");

    let elsewhere = sandbox.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    crate::support::sandbox::run(std::process::Command::new("chown").arg("postgres").arg(&elsewhere));
    sandbox.set("BACKUP_DIR", elsewhere.to_str().unwrap());
    sandbox.succeed(&["backup-postgresql", "import", &bundle]);
    sandbox.succeed(&["backup-postgresql", "verify", "latest"]);
    sandbox.succeed(&["backup-postgresql", "restore", "latest", "--yes"]);

    assert_eq!(sandbox.sql(judge), before);
    assert!(sandbox.sql("SHOW server_version").starts_with(&major.to_string()));
}
