//! Settings that an owner made for their own sessions, and logins that are refused: neither changes what pgbox does.

mod proofs;
mod refused;
mod rescued;
mod settings;

use crate::support::sandbox::{Sandbox, run};

/// What an owner may set, by what it does to every session that does not set it again.
const READ_ONLY: &str = "default_transaction_read_only = on; default_transaction_isolation = 'serializable'";
const LIMITS: &str =
    "statement_timeout = '1ms'; lock_timeout = '1ms'; idle_in_transaction_session_timeout = '1ms'";
const LIBRARIES: &str = "session_preload_libraries = 'not_installed'; \
                         local_preload_libraries = 'not_installed_either'";
const NAMES: &str = "role = 'nobody'; search_path = 'shadow'; row_security = on";
const FORMATS: &str = "client_encoding = 'LATIN1'; DateStyle = 'German'; exit_on_error = on; array_nulls = off; \
                       bytea_output = 'escape'; lc_messages = 'C'; client_min_messages = 'error'";

/// Makes such settings for the superuser and for every database that it may connect to, in one session, since the next
/// one suffers from them.
fn make_settings(sandbox: &Sandbox, settings: &str) {
    let mut statements = vec![
        "CREATE ROLE nobody".to_owned(),
        "CREATE SCHEMA shadow".to_owned(),
        "CREATE TABLE shadow.pg_database ()".to_owned(),
        "CREATE FUNCTION shadow.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT ''0'''".to_owned(),
    ];
    for setting in settings.split("; ") {
        statements.push(format!("ALTER ROLE postgres SET {setting}"));
        if !setting.starts_with("role") {
            let databases = ["postgres", "template1", "dbuser"];
            statements.extend(databases.map(|database| format!("ALTER DATABASE {database} SET {setting}")));
        }
    }
    let mut psql = sandbox.psql();
    psql.args(["-v", "ON_ERROR_STOP=1"]);
    for statement in &statements {
        psql.args(["-c", statement]);
    }
    run(&mut psql);
}

/// Runs SQL whatever the settings are.
fn sql(sandbox: &Sandbox, database: &str, statement: &str) -> String {
    let options = "-c session_preload_libraries= -c local_preload_libraries= -c role=none -c search_path=public \
                   -c statement_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off \
                   -c exit_on_error=off -c array_nulls=on -c client_min_messages=warning";
    let mut psql = sandbox.psql();
    psql.env("PGOPTIONS", options).env("PGCLIENTENCODING", "SQL_ASCII");
    run(psql.args(["-d", database, "-v", "ON_ERROR_STOP=1", "-Atc", statement])).trim().to_owned()
}
