//! The scripts of `/docker-entrypoint-initdb.d`, run once, on a cluster that is still in staging.
//!
//! The rules are docker-library's (`docker_process_init_files`): in the order in which bash lists them, which is that of the
//! locale, and without those whose names begin with a dot, `*.sh` is run if it is executable and sourced by bash
//! otherwise, `*.sql`, `*.sql.gz`, `*.sql.xz` and `*.sql.zst` go to psql with `ON_ERROR_STOP`, others are passed over. A
//! sourced script finds the function `docker_process_sql` and the list `psql`, which many scripts use. Unlike there, a script that fails leaves nothing behind that the next start takes for a
//! cluster, and an `exit 0` in a sourced script ends that script alone.

use super::Tools;
use crate::cluster::session::ServerAddress;
use crate::error::{Failure, Kind};
use crate::sys::{
    Links, ReadRoot, Tool, Trust, find_other_writer, find_program, is_runnable, open_regular, path_of,
};
use anyhow::{Context, bail};
use flate2::read::MultiGzDecoder;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What is done with a file, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    Shell,
    Sql,
    SqlGzip,
    SqlXz,
    SqlZstd,
    Other,
}

fn kind_of(name: &str) -> Script {
    let ends_with = |ending: &str| name.ends_with(ending);
    match () {
        () if ends_with(".sh") => Script::Shell,
        () if ends_with(".sql") => Script::Sql,
        () if ends_with(".sql.gz") => Script::SqlGzip,
        () if ends_with(".sql.xz") => Script::SqlXz,
        () if ends_with(".sql.zst") => Script::SqlZstd,
        () => Script::Other,
    }
}

/// What a sourced script may use: psql as the scripts of SQL have it, by both of its names.
const PRELUDE: &str = r#"
docker_process_sql() {
    local options=(-v ON_ERROR_STOP=1 --no-password --no-psqlrc "--username=$POSTGRES_USER")
    [ -z "$POSTGRES_DB" ] || options+=("--dbname=$POSTGRES_DB")
    command psql "${options[@]}" "$@"
}
psql=(docker_process_sql)
set -Eeo pipefail
. "$0"
"#;

/// Runs all scripts on a server that nobody else can reach yet.
///
/// # Errors
/// The first script that fails, by name, with its own words.
pub(super) fn run_init_scripts(tools: &Tools, address: &ServerAddress, staging: &Path) -> anyhow::Result<()> {
    let directory = &tools.settings.init_scripts;
    let Ok(root) = ReadRoot::open(directory) else { return Ok(()) };
    refuse_what_others_wrote(directory)?;
    for name in names_in_order(&root).with_context(|| format!("list '{}'", directory.display()))? {
        let path = directory.join(path_of(Path::new(&name)));
        let kind = kind_of(&name);
        if kind == Script::Other {
            tools.progress.note(&format!("passed over '{}'", path.display()));
            continue;
        }
        refuse_what_others_wrote(&path)?;
        tools.progress.note(&format!("running '{}'", path.display()));
        // Kubernetes mounts a file as a link, whose own mode says nothing.
        let is_executable = is_runnable(&path);
        let runner = Runner { tools, address, staging };
        runner.run(kind, &path, is_executable).with_context(|| format!("run '{}'", path.display()))?;
    }
    Ok(())
}

/// Refuses a script, or the directory of the scripts, that others may write to: it runs as the server's user and as the
/// superuser. What belongs to a number that no user here has is taken: a container's host mounted it.
fn refuse_what_others_wrote(path: &Path) -> anyhow::Result<()> {
    let found = find_other_writer(path, Trust::OrNobodyHere);
    let Some(writer) = found.with_context(|| format!("look at '{}'", path.display()))? else { return Ok(()) };
    let message = format!("cannot run the scripts for a new cluster: {writer}");
    let hint = format!(
        "give it to root, and let nobody else write to it: `chown root:root {0} && chmod go-w {0}`, once you have seen what is \
         in it. No cluster was made.",
        writer.path.display()
    );
    Err(Failure::new(Kind::Refused, message).hint(hint).into())
}

/// Lists the names as bash's `*` does; in the order of their bytes, where there is no bash to ask.
fn names_in_order(root: &ReadRoot) -> anyhow::Result<Vec<String>> {
    let names = root.entries(".")?.into_iter().map(|entry| entry.name);
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    let Some(bash) = find_program("bash").filter(|_| names.len() > 1) else { return Ok(names) };
    let list = Tool::new(bash)
        .arguments(["-c", "cd -- \"$0\" && printf '%s\\0' *"])
        .argument(root.path())
        .without_variable("BASH_ENV");
    let listed = list.run()?.stdout;
    let place = |name: &String| listed.split('\0').position(|other| other == name);
    // One whose name is in another encoding is not found among them, and goes last.
    names.sort_by_key(|name| place(name).unwrap_or(usize::MAX));
    Ok(names)
}

struct Runner<'a> {
    tools: &'a Tools<'a>,
    address: &'a ServerAddress,
    staging: &'a Path,
}

impl Runner<'_> {
    fn run(&self, kind: Script, path: &Path, is_executable: bool) -> anyhow::Result<()> {
        match kind {
            Script::Shell if is_executable => self.prepared(Tool::new(path)).run_visibly()?,
            Script::Shell => {
                let bash = find_program("bash").context("find bash to source it with")?;
                let sourced = Tool::new(bash).arguments(["-c", PRELUDE]).argument(path);
                self.prepared(sourced).run_visibly()?;
            }
            Script::Sql => self.psql(Tool::new(self.psql_program()).argument("-f").argument(path))?,
            Script::SqlGzip => self.psql_reading(MultiGzDecoder::new(open_regular(path, Links::Follow)?))?,
            Script::SqlZstd => self.psql_reading(zstd::Decoder::new(open_regular(path, Links::Follow)?)?)?,
            Script::SqlXz => {
                let xzcat = find_program("xzcat").context("find xzcat to unpack it with")?;
                self.psql_reading(Tool::new(xzcat).argument(path).reader()?)?;
            }
            Script::Other => bail!("it is no script"),
        }
        Ok(())
    }

    fn psql_program(&self) -> PathBuf {
        self.tools.installation.program("psql")
    }

    fn psql_reading(&self, reader: impl Read + Send + 'static) -> anyhow::Result<()> {
        self.psql(Tool::new(self.psql_program()).input_from(reader)?)
    }

    fn psql(&self, tool: Tool) -> anyhow::Result<()> {
        let settings = self.tools.settings;
        let tool = tool
            .arguments(["-v", "ON_ERROR_STOP=1", "--no-password", "--no-psqlrc", "--quiet"])
            .argument(format!("--username={}", settings.superuser))
            .argument(format!("--dbname={}", settings.database));
        Ok(self.prepared(tool).run_visibly()?)
    }

    /// The search path with PostgreSQL's programs at its end, as docker-library's image has it: scripts call `pg_ctl`.
    fn search_path(&self) -> OsString {
        let given = std::env::var_os("PATH").unwrap_or_default();
        let programs = self.tools.installation.bin_directory.clone();
        // A directory with a colon in its name cannot be in a search path.
        std::env::join_paths(std::env::split_paths(&given).chain([programs])).unwrap_or(given)
    }

    /// The environment that docker-library's scripts rely on; the server is reached by its socket alone.
    fn prepared(&self, tool: Tool) -> Tool {
        let settings = self.tools.settings;
        let socket = self.address.socket_directory.clone().unwrap_or_default();
        let tool = tool
            .with_passwords()
            .variable("PATH", self.search_path())
            .variable("PGHOST", socket)
            .variable("PGPORT", self.address.port.to_string())
            .variable("PGUSER", &settings.superuser)
            .variable("PGDATABASE", &settings.database)
            .variable("PGDATA", self.staging)
            .variable("POSTGRES_USER", &settings.superuser)
            .variable("POSTGRES_DB", &settings.database)
            .without_variable("PGHOSTADDR");
        // For a script that connects to another address than this socket, which asks nobody.
        match &settings.superuser_password {
            Some(password) => tool
                .variable("POSTGRES_PASSWORD", password.reveal())
                .variable("PGPASSWORD", password.reveal()),
            None => tool.without_variable("POSTGRES_PASSWORD").without_variable("PGPASSWORD"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides_what_is_done_with_a_script() {
        assert_eq!(kind_of("10-schema.sql"), Script::Sql);
        assert_eq!(kind_of("20-data.sql.gz"), Script::SqlGzip);
        assert_eq!(kind_of("30.sql.xz"), Script::SqlXz);
        assert_eq!(kind_of("30.sql.zst"), Script::SqlZstd);
        assert_eq!(kind_of("setup.sh"), Script::Shell);
        assert_eq!(kind_of("README.md"), Script::Other);
    }
}
