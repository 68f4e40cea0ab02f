//! What the owner of a table wrote runs with the owner's rights while a salvage loads it, and with no more.

use super::cluster::{BEYOND_REPAIR, sandbox, shell};
use crate::support::sandbox::{Sandbox, has_postgresql, run};

/// Makes its owner a superuser and writes a file, if whoever runs it has, or can go back to, the rights for it.
const SEIZE: &str = "
CREATE FUNCTION seize() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    BEGIN RESET ROLE; EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN RESET SESSION AUTHORIZATION; EXCEPTION WHEN OTHERS THEN NULL; END;
    IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
        ALTER ROLE dbuser SUPERUSER;
        COPY (SELECT 1) TO PROGRAM 'cat > MARK';
    END IF;
    RETURN 1;
END $$;
CREATE FUNCTION fixed(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM public.seize(); RETURN $1; END $$;
CREATE FUNCTION ok(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM public.seize(); RETURN true; END $$;
";

/// Everything that runs a function of its owner when it is made, filled or checked.
const BAIT: &str = "
CREATE DOMAIN number AS int CHECK (public.ok(VALUE));
CREATE TABLE bait (
    x int CHECK (public.ok(x)), of_domain number, made int GENERATED ALWAYS AS (public.fixed(x)) STORED,
    given int DEFAULT public.seize());
CREATE INDEX ON bait (public.fixed(x));
INSERT INTO bait (x, of_domain) SELECT i, i FROM generate_series(1, 50) i;
CREATE TABLE parted (x number) PARTITION BY RANGE ((x + public.fixed(1)));
CREATE TABLE part PARTITION OF parted (CHECK (public.fixed(1) = 1)) FOR VALUES FROM (0) TO (1000);
INSERT INTO parted SELECT generate_series(1, 60);
CREATE TABLE by_domain (x number) PARTITION BY LIST (x);
CREATE TABLE by_domain_one PARTITION OF by_domain FOR VALUES IN (1);
INSERT INTO by_domain VALUES (1);
CREATE FUNCTION add(number, int) RETURNS number LANGUAGE sql AS 'SELECT ($1 + $2)::public.number';
CREATE AGGREGATE total(int) (SFUNC = add, STYPE = number, INITCOND = '0');
CREATE TYPE choice AS ENUM ('one');
CREATE FUNCTION chosen(choice) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT public.fixed(1)';
CREATE CAST (choice AS int) WITH FUNCTION chosen(choice) AS IMPLICIT;
CREATE TABLE numbered (id int PRIMARY KEY);
INSERT INTO numbered VALUES (1);
CREATE TABLE chosen (choice choice REFERENCES numbered);
INSERT INTO chosen VALUES ('one');
CREATE TABLE many_chosen (choice choice REFERENCES numbered) PARTITION BY LIST (choice);
CREATE TABLE many_chosen_one PARTITION OF many_chosen FOR VALUES IN ('one');
INSERT INTO many_chosen VALUES ('one');
CREATE TABLE closed (x int);
INSERT INTO closed VALUES (1);
REVOKE INSERT ON closed FROM dbuser;
CREATE MATERIALIZED VIEW viewed AS SELECT public.ok(1);
";

/// What must be there afterwards, as before.
const FACTS: [(&str, &str); 11] = [
    ("SELECT count(*), sum(made) FROM bait", "50|1275"),
    ("SELECT count(*) FROM parted", "60"),
    ("SELECT count(*) FROM by_domain", "1"),
    ("SELECT count(*) FROM chosen", "1"),
    ("SELECT count(*) FROM many_chosen", "1"),
    ("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conparentid = 0", "3"),
    ("SELECT count(*) FROM closed", "1"),
    ("SELECT count(*) FROM viewed", "1"),
    ("SELECT count(*) FROM pg_constraint WHERE oid >= 16384 AND NOT convalidated", "0"),
    ("SELECT count(*) FROM pg_proc WHERE oid >= 16384 AND prosecdef", "0"),
    ("SELECT has_table_privilege('dbuser', 'closed', 'INSERT')", "f"),
];

/// Asked as the superuser, some of it would run right then: an expression of a partition's key is planned.
fn as_application(sandbox: &Sandbox, statements: &str) -> String {
    let arguments = ["-U", "dbuser", "-d", "dbuser", "-v", "ON_ERROR_STOP=1", "-qAtc", statements];
    run(sandbox.psql().args(arguments)).trim().to_owned()
}

fn assert_all_is_there(sandbox: &Sandbox, told: &str) {
    for (query, expected) in FACTS {
        assert_eq!(as_application(sandbox, query), expected, "{query}: {told}");
    }
    let roles = "SELECT string_agg(rolname, ',' ORDER BY 1) FROM pg_roles WHERE oid >= 16384";
    assert_eq!(sandbox.sql(roles), "dbuser,reader", "{told}");
}

#[test]
fn what_the_owner_of_a_table_wrote_does_not_run_as_the_superuser_while_its_rows_are_loaded() {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    let mark = sandbox.path().join("log/seized");
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    as_application(&sandbox, &SEIZE.replace("MARK", &mark.display().to_string()));
    as_application(&sandbox, BAIT);
    assert_all_is_there(&sandbox, "before");
    sandbox.succeed(&["maintenance", "stop"]);
    shell(&sandbox, BEYOND_REPAIR);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert!(told.contains("salvaged"), "{told}");
    assert_all_is_there(&sandbox, &told);
    assert_eq!(sandbox.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'dbuser'"), "f", "{told}");
    assert!(!mark.exists(), "nothing ran as the server's user: {told}");
}

#[test]
fn rows_that_a_constraint_would_refuse_now_are_kept_and_the_constraint_is_named() {
    if !has_postgresql() {
        return;
    }
    let sandbox = sandbox();
    sandbox.succeed(&["init-postgresql", "--no-backup"]);
    as_application(
        &sandbox,
        "CREATE TABLE timely (x int CONSTRAINT of_today CHECK (pg_catalog.current_setting('port') <> '5432'));
         INSERT INTO timely VALUES (1), (2)",
    );
    sandbox.succeed(&["maintenance", "stop"]);
    shell(&sandbox, BEYOND_REPAIR);

    let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);

    assert_eq!(sandbox.sql("SELECT count(*) FROM timely"), "2", "{told}");
    assert!(told.contains("the constraint 'of_today' of 'public.timely'"), "{told}");
}
