//! Databases whose locale a new image does not have.

use crate::support::sandbox::{Sandbox, has_postgresql, run};
use std::path::Path;
use std::process::Command;

/// A sandbox whose system has the locale `de_DE.UTF-8`, for as long as [`forget_locale`] was not called.
fn with_locale() -> Option<Sandbox> {
    if !has_postgresql() {
        return None;
    }
    if !Path::new("/usr/share/i18n/locales/de_DE").exists() {
        eprintln!("SKIPPED: the sources of locales are not installed");
        return None;
    }
    let mut sandbox = Sandbox::empty();
    let locales = sandbox.path().join("locales");
    std::fs::create_dir(&locales).unwrap();
    let mut localedef = Command::new("localedef");
    localedef.args(["-i", "de_DE", "-f", "UTF-8"]).arg(locales.join("de_DE.UTF-8"));
    // It warns, and ends with another status than 0, of what no database needs.
    localedef.output().unwrap();
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(&locales));
    sandbox.set("LOCPATH", format!("{}:/usr/lib/locale", locales.display()));
    Some(sandbox)
}

fn forget_locale(sandbox: &mut Sandbox) {
    sandbox.set("LOCPATH", "/usr/lib/locale");
}

#[test]
fn a_cluster_whose_locale_is_missing_is_left_as_it_is_until_it_is_there() {
    let Some(mut sandbox) = with_locale() else { return };
    sandbox.set("POSTGRES_INITDB_ARGS", "--locale=de_DE.UTF-8");
    sandbox.succeed(&["init-postgresql"]);
    sandbox.succeed(&["maintenance", "stop"]);
    let present = format!("{}:/usr/lib/locale", sandbox.path().join("locales").display());
    forget_locale(&mut sandbox);
    let before = sandbox.listing();

    let told = sandbox.expect_status(&["init-postgresql", "--no-backup"], 6);
    let health = sandbox.expect_status(&["maintenance", "health"], 1);

    for text in [told, health] {
        assert!(text.contains("locale-missing") && text.contains("de_DE.UTF-8"), "{text}");
    }
    assert_eq!(sandbox.listing(), before);
    sandbox.set("LOCPATH", present);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    assert_eq!(sandbox.sql("SHOW lc_messages"), "de_DE.UTF-8");
}

#[test]
fn a_database_whose_locale_is_missing_is_an_issue_by_name() {
    let Some(mut sandbox) = with_locale() else { return };
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    sandbox.sql("CREATE DATABASE shop TEMPLATE template0 LOCALE 'de_DE.UTF-8'");
    sandbox.succeed(&["maintenance", "stop"]);
    forget_locale(&mut sandbox);
    sandbox.succeed(&["init-postgresql", "--no-backup"]);

    let health = sandbox.expect_status(&["maintenance", "health"], 1);

    assert!(health.contains("the database 'shop' has the locale 'de_DE.UTF-8'"), "{health}");
}
