//! What the owners of a database wrote, kept from running with the superuser's rights while it is loaded.
//!
//! `pg_restore` runs as the superuser, and some definitions run what they are made of: a domain's CHECK runs where a
//! partition's bound or an aggregate's first state is of that domain, a CHECK where a partition is attached, a cast where
//! a foreign key is checked, and an immutable function with constants wherever an expression is planned. So the
//! definitions are changed *in the copy*, before they are dumped:
//!
//! - constraints that run something are `NOT VALID`, so that they come after the rows and nothing is checked by them;
//!   then their owners have them checked. Rows that do not fit are kept, and told. A foreign key of a partitioned table,
//!   which cannot be `NOT VALID` before 18, is left out of the dump and made by its owner.
//! - functions of ordinary roles are `SECURITY DEFINER` until the first session of an ordinary role begins: they run
//!   with the rights of their owners, who wrote them.

use super::databases::failed;
use super::loss::{Salvaged, one_line};
use super::owners::{Owners, Place};
use crate::cluster::session::{describe, quote_identifier};
use postgres::Client;

/// Constraints that run what a user wrote: every CHECK, and foreign keys between columns of which one is of a user's
/// type, which may have a cast. With the definition of those that are left out.
const CONSTRAINTS: &str = "
SELECT con.oid, con.contypid <> 0, n.nspname::text, coalesce(c.relname, t.typname)::text, con.conname::text,
    coalesce(a.rolname, '')::text, CASE WHEN con.contype = 'f' AND c.relkind = 'p' THEN pg_catalog.pg_get_constraintdef(con.oid) END
FROM pg_catalog.pg_constraint con
LEFT JOIN pg_catalog.pg_class c ON c.oid = con.conrelid
LEFT JOIN pg_catalog.pg_type t ON t.oid = con.contypid
JOIN pg_catalog.pg_namespace n ON n.oid = coalesce(c.relnamespace, t.typnamespace)
LEFT JOIN pg_catalog.pg_authid a ON a.oid = coalesce(c.relowner, t.typowner)
WHERE con.convalidated AND con.oid >= 16384
    AND (con.contype = 'c' OR con.contype = 'f' AND con.conparentid = 0 AND EXISTS (
        SELECT FROM pg_catalog.pg_attribute k WHERE k.atttypid >= 16384
        AND (k.attrelid = con.conrelid AND k.attnum = ANY (con.conkey)
             OR k.attrelid = con.confrelid AND k.attnum = ANY (con.confkey))))
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.deptype = 'e'
        AND d.objid = coalesce(c.oid, t.oid) AND d.classid = CASE WHEN c.oid IS NULL
            THEN 'pg_catalog.pg_type'::pg_catalog.regclass ELSE 'pg_catalog.pg_class'::pg_catalog.regclass END)
ORDER BY con.oid";

const INVALIDATE: &str =
    "UPDATE pg_catalog.pg_constraint SET convalidated = false WHERE oid = ANY ($1::pg_catalog.oid[])";

/// Functions that run with the rights of whoever calls them, and are not a superuser's or an extension's.
const FUNCTIONS: &str = "
SELECT p.oid, n.nspname::text, p.proname::text, pg_catalog.pg_get_function_identity_arguments(p.oid)
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
LEFT JOIN pg_catalog.pg_authid a ON a.oid = p.proowner
WHERE p.oid >= 16384 AND p.prokind IN ('f', 'w') AND NOT p.prosecdef AND NOT coalesce(a.rolsuper, false)
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.deptype = 'e' AND d.objid = p.oid
        AND d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass)
ORDER BY p.oid";

const BIND: &str = "UPDATE pg_catalog.pg_proc SET prosecdef = true WHERE oid = ANY ($1::pg_catalog.oid[])";

const RELEASE: &str = "
UPDATE pg_catalog.pg_proc p SET prosecdef = false FROM pg_catalog.pg_namespace n
WHERE n.oid = p.pronamespace AND n.nspname = $1 AND p.proname = $2
    AND pg_catalog.pg_get_function_identity_arguments(p.oid) = $3";

/// What was changed in the copy of a database, to be changed back in the new one.
#[derive(Default)]
pub(super) struct Disarmed {
    constraints: Vec<Constraint>,
    functions: Vec<[String; 3]>,
}

struct Constraint {
    oid: u32,
    is_domains: bool,
    schema: String,
    of: String,
    name: String,
    owner: String,
    /// Its definition, where it is left out of the dump.
    left_out: Option<String>,
}

/// Changes the definitions of a database of the copy, before they are dumped.
pub(super) fn disarm(copy: &mut Client, database: &str, salvaged: &mut Salvaged) -> Disarmed {
    let mut disarmed = Disarmed::default();
    let done = copy
        .batch_execute("SET default_transaction_read_only = off; SET allow_system_table_mods = on")
        .and_then(|()| disarm_constraints(copy, &mut disarmed))
        .and_then(|()| disarm_functions(copy, &mut disarmed));
    if let Err(error) = done {
        salvaged.assume(format!(
            "what the owners of '{database}' wrote may have run with the superuser's rights, since its catalogs could \
             not be changed: {}",
            one_line(&describe(&error))
        ));
    }
    disarmed
}

fn disarm_constraints(copy: &mut Client, disarmed: &mut Disarmed) -> Result<(), postgres::Error> {
    let rows = copy.query(CONSTRAINTS, &[])?;
    let constraints = rows.iter().map(Constraint::read).collect::<Result<Vec<_>, _>>()?;
    let (left_out, kept): (Vec<_>, Vec<_>) =
        constraints.iter().partition(|constraint| constraint.left_out.is_some());
    copy.execute(INVALIDATE, &[&kept.iter().map(|constraint| constraint.oid).collect::<Vec<_>>()])?;
    for constraint in left_out {
        copy.batch_execute(&constraint.statement("DROP CONSTRAINT"))?;
    }
    disarmed.constraints = constraints;
    Ok(())
}

fn disarm_functions(copy: &mut Client, disarmed: &mut Disarmed) -> Result<(), postgres::Error> {
    let rows = copy.query(FUNCTIONS, &[])?;
    let oids: Vec<u32> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    copy.execute(BIND, &[&oids])?;
    for row in &rows {
        disarmed.functions.push([row.try_get(1)?, row.try_get(2)?, row.try_get(3)?]);
    }
    Ok(())
}

impl Disarmed {
    /// Has the functions run as they did, in the new cluster.
    ///
    /// # Errors
    /// When its catalogs cannot be changed.
    pub(super) fn release_functions(&self, target: &mut Client) -> anyhow::Result<()> {
        for [schema, name, arguments] in &self.functions {
            target
                .execute(RELEASE, &[schema, name, arguments])
                .map_err(failed("have a function run as it did"))?;
        }
        Ok(())
    }

    /// Has the owners check the rows by their constraints. What does not fit stays, and is told.
    pub(super) fn validate(&self, owners: &mut Owners, database: &str, salvaged: &mut Salvaged) {
        for constraint in &self.constraints {
            if let Err(error) = constraint.validate(owners) {
                salvaged.assume(format!(
                    "{} of the database '{database}' does not hold for all rows: {}",
                    constraint.described(),
                    one_line(&format!("{error:#}"))
                ));
            }
        }
    }
}

impl Constraint {
    fn read(row: &postgres::Row) -> Result<Self, postgres::Error> {
        Ok(Self {
            oid: row.try_get(0)?,
            is_domains: row.try_get(1)?,
            schema: row.try_get(2)?,
            of: row.try_get(3)?,
            name: row.try_get(4)?,
            owner: row.try_get(5)?,
            left_out: row.try_get(6)?,
        })
    }

    fn described(&self) -> String {
        format!("the constraint '{}' of '{}.{}'", self.name, self.schema, self.of)
    }

    fn statement(&self, action: &str) -> String {
        let kind = if self.is_domains { "DOMAIN" } else { "TABLE" };
        let place = Place { schema: &self.schema, name: &self.of };
        format!("ALTER {kind} {} {action} {}", place.quoted(), quote_identifier(&self.name))
    }

    /// Has its owner check it, or make it.
    fn validate(&self, owners: &mut Owners) -> anyhow::Result<()> {
        let statement = match &self.left_out {
            Some(definition) => format!("{} {definition}", self.statement("ADD CONSTRAINT")),
            None => self.statement("VALIDATE CONSTRAINT"),
        };
        let mut session = owners.session_of(&self.owner)?;
        session.client()?.batch_execute(&statement).map_err(|error| anyhow::anyhow!(describe(&error)))
    }
}
