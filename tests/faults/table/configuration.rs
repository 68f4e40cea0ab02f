//! Files that people write: missing, empty, or with something in them that no server takes.

use crate::faults::fault::Expect::Refused;
use crate::faults::fault::fault;

super::faults! {
    postgresql_conf_is_lost = fault("rm postgresql.conf");
    postgresql_conf_is_empty = fault(": > postgresql.conf");
    postgresql_conf_is_broken = fault("echo 'this is = no [configuration' >> postgresql.conf");
    postgresql_conf_names_a_setting_that_does_not_exist = fault("echo 'no_such_setting = 1' >> postgresql.conf");
    postgresql_conf_has_a_value_out_of_range = fault("echo 'shared_buffers = 1kB' >> postgresql.conf");
    // Whether to install it or to do without it, only a person knows.
    postgresql_conf_names_a_library_that_is_not_there =
        fault("echo \"shared_preload_libraries = 'no_such_library'\" >> postgresql.conf").alone(Refused).with_backup(Refused);
    postgresql_conf_is_garbage = fault("head -c 3000 /dev/zero > postgresql.conf");
    pg_hba_conf_is_lost = fault("rm pg_hba.conf");
    pg_hba_conf_is_empty = fault(": > pg_hba.conf");
    pg_hba_conf_is_broken = fault("echo 'everyone may come in' > pg_hba.conf");
    pg_ident_conf_is_lost = fault("rm pg_ident.conf");
    pg_ident_conf_is_broken = fault("echo '\"' > pg_ident.conf");
    postgresql_auto_conf_is_lost = fault("rm postgresql.auto.conf");
    postgresql_auto_conf_is_broken = fault("echo 'half a li' >> postgresql.auto.conf");
    all_configuration_is_lost = fault("rm postgresql.conf postgresql.auto.conf pg_hba.conf pg_ident.conf");
}
