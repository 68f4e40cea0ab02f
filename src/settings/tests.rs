use super::*;
use crate::error::Kind;

fn command() -> clap::Command {
    Settings::arguments(clap::Command::new("test").subcommand(clap::Command::new("sub")))
}

fn resolve(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Settings, Failure> {
    let matches = command().get_matches_from([&["test"], arguments].concat());
    let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
    Settings::resolve(&matches, &variable)
}

fn refusal(variables: &[(&str, &str)]) -> String {
    let failure = resolve(&[], variables).unwrap_err();
    assert_eq!(failure.kind(), Kind::Usage, "{failure}");
    failure.to_string()
}

fn file_with(content: &[u8]) -> tempfile::NamedTempFile {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

#[test]
fn without_anything_set_the_defaults_of_the_table_hold() {
    let settings = resolve(&[], &[]).unwrap();

    assert!(settings.data_directory.ends_with("postgresql-data"));
    assert_eq!(settings.port, 5432);
    assert_eq!(settings.postgres_version, None);
    assert_eq!(settings.superuser, "postgres");
    assert_eq!(settings.superuser_password, None);
    assert_eq!(settings.local_access, LocalAccess::Peer);
    assert_eq!((settings.application_role.as_str(), settings.database.as_str()), ("dbuser", "dbuser"));
    assert_eq!(settings.initdb_arguments, Vec::<String>::new());
    assert_eq!(settings.disabled_services, ["mongodb"]);
    assert_eq!((settings.max_backups, settings.start_retries), (7, 3));
    assert_eq!(settings.recovery, RecoveryPolicy::Auto);
    assert_eq!(settings.backup_interval, Some(Duration::from_hours(24)));
    assert_eq!(settings.stop_timeout, Duration::from_secs(8));
}

#[test]
fn a_flag_wins_over_the_environment_also_after_a_subcommand() {
    assert_eq!(resolve(&["--port", "1"], &[("PGPORT", "2")]).unwrap().port, 1);
    assert_eq!(resolve(&["sub", "--port", "1"], &[("PGPORT", "2")]).unwrap().port, 1);
    assert_eq!(resolve(&[], &[("PGPORT", "2")]).unwrap().port, 2);
}

#[test]
fn an_empty_variable_is_as_if_it_were_not_set_except_for_a_list() {
    let settings =
        resolve(&[], &[("PGPORT", ""), ("DATABASE_PASSWORD", ""), ("DISABLED_SERVICES", "")]).unwrap();

    assert_eq!(settings.port, 5432);
    assert_eq!(settings.application_password.reveal(), "password");
    assert_eq!(settings.disabled_services, Vec::<String>::new());
}

#[test]
fn an_empty_flag_is_refused() {
    assert_eq!(resolve(&["--port="], &[]).unwrap_err().to_string(), "--port must not be empty");
}

#[test]
fn a_value_that_makes_no_sense_says_what_it_must_be() {
    for value in ["0", "-1", "seven", "7.0", "+7", "10000", " 7"] {
        let expected = format!("MAX_BACKUPS must be a whole number from 1 to 9999, not '{value}'");
        assert_eq!(refusal(&[("MAX_BACKUPS", value)]), expected);
    }
    let rest = [
        ("PGPORT", "65536", "PGPORT must be a whole number from 0 to 65535, not '65536'"),
        (
            "POSTGRES_VERSION",
            "15.4",
            "POSTGRES_VERSION must be a major version of PostgreSQL, such as 15, not '15.4'",
        ),
        ("RECOVERY", "Auto", "RECOVERY must be auto, repair or never, not 'Auto'"),
        ("STOP_TIMEOUT", "x", "STOP_TIMEOUT must be a time from 1s to 1d, such as 30, 30s or 2m, not 'x'"),
        ("POSTGRES_DB", "a\nb", r"POSTGRES_DB must be one line of 1 to 63 bytes, not 'a\nb'"),
        ("PGDATA", "/", "PGDATA must be a directory below '/', not '/' itself"),
        ("PGDATA", "/a\nb", r"PGDATA must be one line of text, not '/a\nb'"),
    ];
    for (variable, value, expected) in rest {
        assert_eq!(refusal(&[(variable, value)]), expected);
    }
}

#[test]
fn the_message_names_the_flag_that_was_wrong() {
    let failure = resolve(&["--max-backups", "0"], &[]).unwrap_err();
    assert_eq!(failure.to_string(), "--max-backups must be a whole number from 1 to 9999, not '0'");
}

#[test]
fn a_file_gives_the_value_with_one_line_break_cut() {
    for (content, expected) in [("a'\"$x\n", "a'\"$x"), ("ä\r\n", "ä"), ("two\nlines\n\n", "two\nlines\n")]
    {
        let file = file_with(content.as_bytes());
        let path = file.path().to_str().unwrap();

        let settings = resolve(&[], &[("DATABASE_PASSWORD_FILE", path)]).unwrap();

        assert_eq!(settings.application_password.reveal(), expected);
    }
}

#[test]
fn a_variable_set_together_with_its_file_is_refused() {
    let message = refusal(&[("POSTGRES_USER", "a"), ("POSTGRES_USER_FILE", "/b")]);
    assert_eq!(message, "POSTGRES_USER and POSTGRES_USER_FILE are both set");
}

#[test]
fn a_file_that_is_missing_empty_or_not_text_is_refused() {
    let (empty, binary) = (file_with(b"\n"), file_with(b"\xff\n"));
    assert!(refusal(&[("POSTGRES_DB_FILE", "/nowhere")]).starts_with("could not read '/nowhere'"));
    assert!(refusal(&[("POSTGRES_DB_FILE", empty.path().to_str().unwrap())]).ends_with("is empty"));
    assert!(
        refusal(&[("POSTGRES_DB_FILE", binary.path().to_str().unwrap())]).ends_with("must be valid UTF-8")
    );
}

#[test]
fn the_database_is_named_after_an_explicit_superuser_else_after_the_application_role() {
    let database = |variables: &[(&str, &str)]| resolve(&[], variables).unwrap().database;

    assert_eq!(database(&[("DATABASE_USERNAME", "app")]), "app");
    assert_eq!(database(&[("DATABASE_USERNAME", "app"), ("POSTGRES_USER", "admin")]), "admin");
    assert_eq!(database(&[("POSTGRES_USER", "admin"), ("POSTGRES_DB", "shop")]), "shop");
}

#[test]
fn backups_and_logs_inside_the_data_directory_are_refused() {
    for variable in ["BACKUP_DIR", "LOG_DIR"] {
        let message = refusal(&[("PGDATA", "/absent/data"), (variable, "/absent/data/x")]);
        assert!(message.starts_with(&format!("{variable} must not lie in the data directory")), "{message}");
    }
}

#[test]
fn a_relative_directory_becomes_absolute() {
    let settings = resolve(&["--data-directory", "some where/data"], &[]).unwrap();
    let here = std::env::current_dir().unwrap().canonicalize().unwrap();
    assert_eq!(settings.data_directory, here.join("some where/data"));
}

#[test]
fn a_size_is_bytes_or_a_number_with_a_unit() {
    let limit =
        |text| resolve(&[], &[("WAL_QUEUE_LIMIT", text)]).map(|settings| settings.wal_queue_limit_bytes);
    for (text, bytes) in [("0", 0), ("5000", 5000), ("64K", 64 << 10), ("512M", 512 << 20), ("2T", 2 << 40)] {
        assert_eq!(limit(text).unwrap(), bytes);
    }
    for text in ["G", "-1", "1.5G", "1 G", "1g", "99999999T", "1GB", "ä"] {
        assert!(limit(text).is_err(), "{text}");
    }
    assert_eq!(resolve(&[], &[]).unwrap().wal_queue_limit_bytes, 1 << 30);
    assert_eq!(resolve(&[], &[]).unwrap().wal_archive_limit_bytes, None);
}

#[test]
fn a_password_is_not_shown_by_debug() {
    let settings =
        resolve(&["--superuser-password", "hunter2"], &[("DATABASE_PASSWORD", "hunter2")]).unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn every_setting_is_in_the_long_help_and_none_in_the_short() {
    let (short, long) = (command().render_help().to_string(), command().render_long_help().to_string());
    for setting in SETTINGS {
        assert!(
            long.contains(&format!("--{}", setting.flag)) && long.contains(setting.variable),
            "{}",
            setting.flag
        );
        assert!(!short.contains(&format!("--{} ", setting.flag)), "{}", setting.flag);
        assert!(!setting.help.is_empty() && contract_table().contains(setting.variable));
    }
}

#[test]
fn settings_given_as_flags_are_handed_on_as_flags() {
    let matches =
        command().get_matches_from(["test", "--port", "1", "--disabled-services", "", "--max-backups=3"]);
    let expected = ["--port=1", "--disabled-services=", "--max-backups=3"];
    assert_eq!(Settings::given_flags(&matches), expected.map(OsString::from));
}

#[test]
fn the_directory_of_the_wal_is_no_argument_of_every_initdb() {
    for given in [
        "-X /wal --wal-segsize=64",
        "--wal-segsize=64 --waldir=/wal",
        "--waldir /wal --wal-segsize=64",
        "-X/wal --wal-segsize=64",
    ] {
        let settings = resolve(&[], &[("POSTGRES_INITDB_ARGS", given)]).unwrap();
        assert_eq!(settings.initdb_waldir.as_deref(), Some(std::path::Path::new("/wal")), "{given}");
        assert_eq!(settings.initdb_arguments, ["--wal-segsize=64"], "{given}");
    }
    let settings = resolve(&[], &[("POSTGRES_INITDB_WALDIR", "/wal")]).unwrap();
    assert_eq!(settings.initdb_waldir.as_deref(), Some(std::path::Path::new("/wal")));
}
