//! Sessions that load the rows of a table with the rights of the table's owner, and have no way to more.
//!
//! While rows are loaded, expressions of the table's owner run: those of generated columns and of partition keys. In a
//! session of the superuser they would be the superuser's, and `SET ROLE` there does not bind: a function may `RESET ROLE`
//! (variable.c, `check_role()` asks the user who logged in). So each owner gets a *loader*: a role of our own that may
//! log in, is no superuser, and is a member of that one owner. What it can go back to is itself. The owner itself does
//! not log in, since it may not be allowed to: `NOLOGIN`, a limit of connections, a revoked `CONNECT`. Loaders are
//! dropped before anybody is let in.

use super::databases::failed;
use super::disarm::Disarmed;
use super::loss::{Salvaged, one_line};
use super::rows::Session;
use super::server::SalvageServer;
use crate::cluster::session::quote_identifier;
use anyhow::Context;
use std::collections::BTreeMap;

/// Rows may have to be loaded in any order, whatever triggers an extension's tables have. A loader may not say so itself:
/// the server's configuration does.
const PREPARE_SUPERUSER: &str = "SET session_replication_role = replica";

/// Who owns a table of the new cluster, and whether the owner may write to it: a privilege may be revoked from them, too.
const OWNER: &str = "
SELECT a.rolname::text, a.rolsuper,
    pg_catalog.has_table_privilege(a.oid, c.oid, 'INSERT') AND pg_catalog.has_schema_privilege(a.oid, n.oid, 'USAGE')
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_authid a ON a.oid = c.relowner
WHERE n.nspname = $1 AND c.relname = $2";

/// Who a session is opened as, and what it begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Writer {
    pub(super) user: String,
    pub(super) preparation: String,
}

/// A table, or anything else that an owner has, by its place in SQL.
pub(super) struct Place<'a> {
    pub(super) schema: &'a str,
    pub(super) name: &'a str,
}

impl Place<'_> {
    pub(super) fn quoted(&self) -> String {
        format!("{}.{}", quote_identifier(self.schema), quote_identifier(self.name))
    }
}

/// The owners in one database of the new cluster, and their loaders.
pub(super) struct Owners<'a> {
    server: &'a SalvageServer,
    database: &'a str,
    admin: Session<'a>,
    /// The loader of each owner, and whether it is a member of it.
    loaders: BTreeMap<String, Loader>,
    connection_limit: i32,
}

#[derive(Clone)]
struct Loader {
    name: String,
    is_member: bool,
}

impl<'a> Owners<'a> {
    /// Lets loaders into a database, whatever limit it has.
    ///
    /// # Errors
    /// When the database does not open.
    pub(super) fn new(server: &'a SalvageServer, database: &'a str) -> anyhow::Result<Self> {
        let mut admin = Session::open(server, database, superuser(server))?;
        let query = "SELECT datconnlimit FROM pg_catalog.pg_database WHERE datname = $1";
        let row = admin.client()?.query_one(query, &[&database]);
        let connection_limit =
            row.and_then(|row| row.try_get(0)).map_err(failed("ask for the limit of connections"))?;
        let mut owners = Self { server, database, admin, loaders: BTreeMap::new(), connection_limit };
        owners.limit_connections(-1)?;
        Ok(owners)
    }

    fn limit_connections(&mut self, limit: i32) -> anyhow::Result<()> {
        if self.connection_limit == -1 {
            return Ok(());
        }
        let statement =
            format!("ALTER DATABASE {} CONNECTION LIMIT {limit}", quote_identifier(self.database));
        self.execute(&statement, "set the limit of connections")
    }

    fn execute(&mut self, statement: &str, action: &str) -> anyhow::Result<()> {
        self.admin.client()?.batch_execute(statement).map_err(failed(action))
    }

    /// Whether a superuser owns a table: what it runs is trusted already.
    pub(super) fn is_superusers(&mut self, place: &Place) -> anyhow::Result<bool> {
        Ok(self.owner(place)?.is_none_or(|owner| owner.is_superuser))
    }

    /// Has functions run as they did.
    pub(super) fn release(&mut self, disarmed: &Disarmed) -> anyhow::Result<()> {
        disarmed.release_functions(self.admin.client()?)
    }

    fn owner(&mut self, place: &Place) -> anyhow::Result<Option<Owner>> {
        let rows = self.admin.client()?.query(OWNER, &[&place.schema, &place.name]);
        let rows = rows.map_err(failed("ask who owns a table"))?;
        rows.first().map(Owner::read).transpose().map_err(failed("ask who owns a table"))
    }

    /// Who loads the rows of a table.
    pub(super) fn writer(&mut self, place: &Place) -> anyhow::Result<Writer> {
        match self.owner(place)? {
            Some(owner) if !owner.is_superuser => {
                let loader = self.loader(&owner.name)?;
                if owner.may_write && loader.is_member {
                    return Ok(as_owner(&loader, &owner.name));
                }
                self.let_write(place, &loader)?;
                Ok(Writer { user: loader.name, preparation: String::new() })
            }
            // One that is not there is told by the COPY.
            _ => Ok(superuser(self.server)),
        }
    }

    /// Opens a session with the rights of an owner.
    pub(super) fn session_of(&mut self, owner: &str) -> anyhow::Result<Session<'a>> {
        let query = "SELECT rolsuper FROM pg_catalog.pg_authid WHERE rolname = $1";
        let row = self.admin.client()?.query_opt(query, &[&owner]).map_err(failed("look for a role"))?;
        // What belongs to a role that is lost belongs to the superuser now.
        let is_superuser = row.is_none_or(|row| row.get(0));
        let writer =
            if is_superuser { superuser(self.server) } else { as_owner(&self.loader(owner)?, owner) };
        Session::open(self.server, self.database, writer)
    }

    fn loader(&mut self, owner: &str) -> anyhow::Result<Loader> {
        if let Some(loader) = self.loaders.get(owner) {
            return Ok(loader.clone());
        }
        let name = new_name()?;
        let quoted = quote_identifier(&name);
        self.execute(&format!("CREATE ROLE {quoted} LOGIN INHERIT"), "make a role to load rows with")?;
        // Known before anything else is done with it, so that it is dropped whatever comes.
        self.loaders.insert(owner.to_owned(), Loader { name: name.clone(), is_member: false });
        self.let_connect(&name)?;
        // Of `pg_database_owner` nobody can be made a member.
        let grant = format!("GRANT {} TO {quoted}", quote_identifier(owner));
        let is_member = self.execute(&grant, "give a role the rights of an owner").is_ok();
        let loader = Loader { name, is_member };
        self.loaders.insert(owner.to_owned(), loader.clone());
        Ok(loader)
    }

    /// A grant that is not needed would leave the database with a list of privileges that it did not have.
    fn let_connect(&mut self, role: &str) -> anyhow::Result<()> {
        let query = "SELECT pg_catalog.has_database_privilege($1::text::name, $2::text, 'CONNECT')";
        let row = self.admin.client()?.query_one(query, &[&role, &self.database]);
        let may_connect: bool =
            row.and_then(|row| row.try_get(0)).map_err(failed("ask whether a role may connect"))?;
        if may_connect {
            return Ok(());
        }
        let (database, role) = (quote_identifier(self.database), quote_identifier(role));
        self.execute(&format!("GRANT CONNECT ON DATABASE {database} TO {role}"), "let a role connect")
    }

    /// Lets the loader itself write to a table whose owner may not.
    fn let_write(&mut self, place: &Place, loader: &Loader) -> anyhow::Result<()> {
        let (schema, role) = (quote_identifier(place.schema), quote_identifier(&loader.name));
        let statement = format!(
            "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT INSERT ON TABLE {} TO {role}",
            place.quoted()
        );
        self.execute(&statement, "let a role write to a table")
    }

    /// Drops the loaders, with every privilege that was given to them in this database.
    pub(super) fn remove(mut self, salvaged: &mut Salvaged) {
        for Loader { name, .. } in std::mem::take(&mut self.loaders).into_values() {
            let role = quote_identifier(&name);
            let statement = format!("DROP OWNED BY {role}; DROP ROLE {role}");
            let Err(error) = self.execute(&statement, "drop it") else { continue };
            let closed =
                self.execute(&format!("ALTER ROLE {role} NOLOGIN"), "keep anybody from logging in as it");
            let state = if closed.is_ok() { "nobody can log in as it" } else { "it may log in" };
            let reason = one_line(&format!("{error:#}"));
            salvaged.assume(format!(
                "the role '{name}', with which rows were loaded, is left, and {state}: {reason}"
            ));
        }
        let limit = self.connection_limit;
        if let Err(error) = self.limit_connections(limit) {
            salvaged.assume(format!(
                "the database '{}' has no limit of connections any more, which was {limit}: {error:#}",
                self.database
            ));
        }
    }
}

pub(super) fn superuser(server: &SalvageServer) -> Writer {
    Writer { user: server.superuser.clone(), preparation: PREPARE_SUPERUSER.to_owned() }
}

fn as_owner(loader: &Loader, owner: &str) -> Writer {
    Writer { user: loader.name.clone(), preparation: format!("SET ROLE {}", quote_identifier(owner)) }
}

/// A name that nobody could have taken beforehand, with rights of its own.
fn new_name() -> anyhow::Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).context("make a name")?;
    Ok(format!("pgbox_loader_{:016x}", u64::from_le_bytes(bytes)))
}

struct Owner {
    name: String,
    is_superuser: bool,
    may_write: bool,
}

impl Owner {
    fn read(row: &postgres::Row) -> Result<Self, postgres::Error> {
        Ok(Self { name: row.try_get(0)?, is_superuser: row.try_get(1)?, may_write: row.try_get(2)? })
    }
}
