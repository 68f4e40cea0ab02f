//! Salvage: what still reads of a cluster that nothing else can bring back, loaded into a new one.
//!
//! The present cluster is only read. A copy of it, in `.pgbox/salvage`, is opened with every tolerance that PostgreSQL
//! has; each database's definitions go through `pg_dump` and `pg_restore`, and its rows are streamed from server to
//! server. What does not read is told by relation and block. The new cluster is left in staging, stopped and on disk,
//! for the caller to inspect and put in place. Killed at any moment, it leaves nothing but `.pgbox/salvage` and
//! staging, and both are emptied by whoever comes next.

mod archive;
mod copying;
mod database_names;
mod databases;
mod disarm;
mod donor;
mod loss;
mod mending;
mod opening;
mod owners;
mod pages;
mod rebuilding;
mod reset;
mod rows;
mod server;
mod tables;
mod workplace;

pub(super) use loss::{Loss, Salvaged};
pub(super) use workplace::{COPY, SALVAGE};

use super::Tools;
use crate::cluster::session::{quote_identifier, quote_literal};
use crate::error::{Failure, Kind};
use crate::plan::Diagnosis;
use crate::sys::WriteRoot;
use anyhow::{Context, bail};
use archive::{Archive, Dumped, Section};
use databases::Database;
use disarm::Disarmed;
use donor::Donor;
use loss::one_line;
use owners::Owners;
use pages::PageReport;
use postgres::Client;
use rows::Stream;
use server::SalvageServer;
use tables::Table;
use workplace::Workplace;

/// What a salvage runs besides the server and initdb.
const PROGRAMS: [&str; 5] = ["pg_dump", "pg_dumpall", "pg_resetwal", "pg_restore", "psql"];

/// Builds a cluster in staging from all that reads of the present one, whole and on disk.
///
/// # Errors
/// When a program is missing, when there is no room for it, when no server starts on the copy, or when nothing in it could be read. Nothing of
/// the present cluster was changed.
pub(super) fn build_from_salvage(
    tools: &Tools,
    root: &WriteRoot,
    diagnosis: &Diagnosis,
) -> anyhow::Result<Salvaged> {
    ensure_programs(tools)?;
    root.discard(SALVAGE).context("clear what an earlier salvage left")?;
    let work = Workplace { tools, root };
    let salvaged = build(&work, diagnosis);
    let cleared = root.discard(SALVAGE).context("remove the copy");
    let salvaged = salvaged?;
    cleared?;
    root.sync_file_system().context("write the salvaged cluster to disk")?;
    Ok(salvaged)
}

/// Looks for the programs before anything is done: a database whose definitions no program reads would count as lost.
fn ensure_programs(tools: &Tools) -> anyhow::Result<()> {
    let programs = PROGRAMS.map(|name| tools.installation.program(name));
    let Some(missing) = programs.iter().find(|program| !program.is_file()) else { return Ok(()) };
    let message = format!("cannot salvage without '{}', which was not found", missing.display());
    let hint =
        "install all of PostgreSQL's programs of that version, then run it again. Nothing was changed.";
    Err(Failure::new(Kind::ProgramMissing, message).hint(hint).into())
}

fn build(work: &Workplace, diagnosis: &Diagnosis) -> anyhow::Result<Salvaged> {
    let mut salvaged = Salvaged::default();
    copying::copy_cluster(work, &mut salvaged)?;
    let control = work.control_file();
    mending::mend(work, diagnosis, &mut salvaged)?;
    let mut donor = Donor::new(*work, &work.tools.settings.superuser);
    let server =
        opening::open(work, &mut donor, &mut salvaged).context("open a copy of the damaged cluster")?;
    let pages = pages::read_pages(work, control.as_ref())?;
    let names = database_names::read(work);
    let mut session = open_any(work, &server, &mut donor, &mut salvaged)?;
    let databases = databases::prepare(work, &server, &names, &mut session, &mut salvaged)?;
    let wanted = databases::to_salvage(&databases, &mut session, &mut salvaged);
    let pattern = ["template0", "template1"]
        .iter()
        .find_map(|name| databases.iter().find(|database| database.name == *name));
    rebuilding::make(work, &server.superuser, pattern, control.as_ref(), &mut salvaged)?;
    let libraries = opening::with_libraries(&opening::preloaded_libraries(work));
    let target = rebuilding::start(work, &server.superuser, libraries)?;
    rebuilding::bring_shared(work, (&server, &target), &mut session, &mut salvaged)?;
    drop(session);
    let mut salvage = Salvage { work: *work, from: &server, to: &target, donor, pages: &pages, salvaged };
    for database in &wanted {
        salvage.bring_or_tell(database)?;
    }
    let Salvage { mut salvaged, .. } = salvage;
    if salvaged.databases.is_empty() {
        let losses: Vec<String> = salvaged.losses.iter().map(ToString::to_string).collect();
        bail!("nothing in it could be read: {}", losses.join("; "));
    }
    tell_findings(diagnosis, &mut salvaged);
    rebuilding::complete(work, &target, &mut salvaged)?;
    server.abandon()?;
    target.stop()?;
    rebuilding::bring_configuration(work, &mut salvaged)?;
    Ok(salvaged)
}

/// What an inspection knew of blocks, by means that are not tried here, such as the index entries that led to them.
fn tell_findings(diagnosis: &Diagnosis, salvaged: &mut Salvaged) {
    for finding in diagnosis.findings.iter().filter(|finding| !finding.blocks.is_empty()) {
        let Some(found) = &finding.relation else { continue };
        let is_told = |loss: &Loss| matches!(loss, Loss::Blocks { relation, .. } if relation == found);
        if !salvaged.losses.iter().any(is_told) {
            salvaged.assume(format!("rows of {found} may be lost or wrong: {}", finding.summary()));
        }
    }
}

/// Opens a database for what all of them share, with the indexes of the shared catalogs built anew.
fn open_any(
    work: &Workplace,
    server: &SalvageServer,
    donor: &mut Donor,
    salvaged: &mut Salvaged,
) -> anyhow::Result<Client> {
    let mut answer = None;
    for name in ["template1", "postgres", &work.tools.settings.database] {
        let mut replaced = Salvaged::default();
        match opening::open_database(server, donor, name, &mut replaced) {
            Ok(mut client) => {
                salvaged.losses.extend(replaced.losses);
                databases::reindex_system(&mut client, name, salvaged);
                return Ok(client);
            }
            Err(error) => answer = Some(error),
        }
    }
    Err(answer.unwrap_or_else(|| anyhow::anyhow!("there is none"))).context("open any database of the copy")
}

/// A salvage between two servers.
struct Salvage<'a> {
    work: Workplace<'a>,
    from: &'a SalvageServer,
    to: &'a SalvageServer,
    donor: Donor<'a>,
    pages: &'a PageReport,
    salvaged: Salvaged,
}

/// What is to come into a database, and its sessions.
struct Content<'a> {
    name: &'a str,
    tables: Vec<Table>,
    archive: Archive,
    disarmed: Disarmed,
    from: Client,
    to: Client,
}

impl Salvage<'_> {
    /// Brings a database over; one that cannot be is told, and keeps no other from it.
    ///
    /// # Errors
    /// When one of the servers is gone.
    fn bring_or_tell(&mut self, database: &Database) -> anyhow::Result<()> {
        self.work.tools.progress.begin(&format!("salvaging the database '{}'", database.name), None);
        let brought = self.bring(database);
        self.work.tools.progress.end();
        let Err(error) = brought else { return Ok(()) };
        let reason = one_line(&format!("{error:#}"));
        self.salvaged.lose(Loss::Database { name: database.name.clone(), reason });
        // Without the new cluster's server, no other database would fare better.
        self.to.connect("template1").map(|_| ()).context("load the other databases")
    }

    fn bring(&mut self, database: &Database) -> anyhow::Result<()> {
        let name = database.name.as_str();
        let mut client = self.open(name)?;
        databases::forget_half_known(&mut client, name, &mut self.salvaged);
        let are_indexes_sound = databases::reindex_system(&mut client, name, &mut self.salvaged);
        tables::tell_bad_blocks(&mut client, name, self.pages, &mut self.salvaged)?;
        let tables = tables::list(&mut client, name)?;
        let encoding = databases::server_encoding(&mut client)?;
        let disarmed = disarm::disarm(&mut client, name, &mut self.salvaged);
        let dumped = Dumped { server: self.from, name, encoding: &encoding, are_indexes_sound };
        let archive = Archive::dump(&self.work, &dumped, &mut self.salvaged)?;
        let is_there = self.has(name)?;
        self.load(&archive, Section::Definitions { is_there })?;
        let target = match self.to.connect(name) {
            Ok(target) => target,
            Err(_) => self.make_plain(database, &archive)?,
        };
        self.load(&archive, Section::Data)?;
        let mut owners = Owners::new(self.to, name).context("load the new cluster")?;
        let content = Content { name, tables, archive, disarmed, from: client, to: target };
        let filled = self.fill(content, &mut owners);
        owners.remove(&mut self.salvaged);
        filled?;
        if !database.allows_connections {
            self.close(name)?;
        }
        self.salvaged.databases.push(name.to_owned());
        Ok(())
    }

    /// Brings the rows, and what is made of rows, into a database that has its definitions.
    fn fill(&mut self, content: Content, owners: &mut Owners<'_>) -> anyhow::Result<()> {
        let Content { name, tables, archive, disarmed, mut from, mut to } = content;
        self.bring_tables(name, &tables, &disarmed, owners)?;
        archive::set_sequences(&mut from, &mut to, name, &mut self.salvaged)?;
        self.load(&archive, Section::Constraints)?;
        disarmed.validate(owners, name, &mut self.salvaged);
        archive::refresh_views(&mut from, &mut to, name, &mut self.salvaged)
    }

    /// Brings the rows of all tables. Those of superusers come first, while every function of others still runs with the
    /// rights of who wrote it: from the first session of an ordinary owner on, its definition may be another.
    fn bring_tables(
        &mut self,
        name: &str,
        tables: &[Table],
        disarmed: &Disarmed,
        owners: &mut Owners<'_>,
    ) -> anyhow::Result<()> {
        let version = self.work.tools.installation.version;
        let mut stream = Stream::open(self.from, self.to, name, version)?;
        let mut later = Vec::new();
        for table in tables {
            if owners.is_superusers(&table.place())? {
                stream.bring(table, owners, &mut self.salvaged)?;
            } else {
                later.push(table);
            }
        }
        owners.release(disarmed)?;
        for table in later {
            stream.bring(table, owners, &mut self.salvaged)?;
        }
        Ok(())
    }

    /// Opens a database of the copy; a lost catalog that can be replaced is.
    fn open(&mut self, name: &str) -> anyhow::Result<Client> {
        let mut client = opening::open_database(self.from, &mut self.donor, name, &mut self.salvaged)?;
        let mut is_changed = false;
        for path in databases::lost_catalogs(&mut client) {
            if self.donor.replace_lost(&path)? {
                opening::tell_replaced(name, &path, &mut self.salvaged);
                is_changed = true;
            }
        }
        // What the session has read of the catalogs until now is not what they say any more.
        if is_changed {
            opening::open_database(self.from, &mut self.donor, name, &mut self.salvaged)
        } else {
            Ok(client)
        }
    }

    /// A database that could not be made as it was, because its locale is not known here.
    fn make_plain(&mut self, database: &Database, archive: &Archive) -> anyhow::Result<Client> {
        let name = database.name.as_str();
        let mut client = self.to.connect("template1")?;
        let encoding = database.column("encoding_name").unwrap_or_else(|| "UTF8".to_owned());
        let statement = format!(
            "CREATE DATABASE {} TEMPLATE template0 LOCALE 'C' ENCODING {}",
            quote_identifier(name),
            quote_literal(&encoding)
        );
        client.batch_execute(&statement).map_err(databases::failed("make it in the new cluster"))?;
        self.salvaged
            .assume(format!("the locale of the database '{name}' is 'C' now, and its settings are lost"));
        self.load(archive, Section::DefinitionsAlone)?;
        self.to.connect(name).context("open it in the new cluster")
    }

    fn has(&self, name: &str) -> anyhow::Result<bool> {
        let mut client = self.to.connect("template1")?;
        let rows = client.query("SELECT FROM pg_catalog.pg_database WHERE datname = $1", &[&name]);
        Ok(!rows.map_err(databases::failed("list the new databases"))?.is_empty())
    }

    fn load(&mut self, archive: &Archive, section: Section) -> anyhow::Result<()> {
        archive.load(&self.work, self.to, section, &mut self.salvaged)
    }

    /// Keeps everybody from connecting, as it was.
    fn close(&self, name: &str) -> anyhow::Result<()> {
        let mut client = self.to.connect(if name == "postgres" { "template1" } else { "postgres" })?;
        let name = quote_identifier(name);
        client
            .batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
            .map_err(databases::failed("keep everybody from connecting"))
    }
}
