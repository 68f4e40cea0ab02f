//! Killed between any two steps of a plan and started again: the same end, with nothing lost and no hand needed.

use super::fault::{Expect, Found, judge_recovery, make};
use super::table::find;
use super::template::{Left, Template, template};
use crate::support::sandbox::Sandbox;
use crate::support::step_points::{self, has_step_points};
use crate::support::versions::USUAL;
use rstest::rstest;
use std::sync::Arc;

struct Scene {
    template: Arc<Template>,
    damage: &'static str,
    has_backup: bool,
}

impl Scene {
    fn sandbox(&self) -> Sandbox {
        let sandbox = self.template.copy();
        if !self.has_backup {
            sandbox.forget_backups();
        }
        make(self.damage, &sandbox.data());
        sandbox
    }

    /// The points that an undisturbed run comes to, in order.
    fn points(&self, arguments: &[&str]) -> Vec<String> {
        step_points::points(&self.sandbox(), arguments)
    }

    /// Runs a command up to a point, at which it is killed.
    fn kill_at(&self, number: usize, arguments: &[&str]) -> Sandbox {
        let sandbox = self.sandbox();
        step_points::kill_at(&sandbox, number, arguments);
        sandbox
    }
}

/// Kills a start at each of its points, starts again, and judges.
fn kill_everywhere(scene: &Scene, expect: Expect) {
    let arguments = ["init-postgresql", "--no-backup"];
    let points = scene.points(&arguments);
    assert!(!points.is_empty(), "there is no point to be killed at");
    for (number, name) in points.iter().enumerate() {
        eprintln!("killed at point {} of {}: {name}", number + 1, points.len());
        let sandbox = scene.kill_at(number + 1, &arguments);
        judge_recovery(&sandbox, &scene.template, Found::AtTheStart, expect);
    }
}

#[rstest]
#[case::directories("all_empty_directories_are_lost")]
#[case::owner_and_mode("files_of_root")]
#[case::configuration("all_configuration_is_lost")]
#[case::the_control_file("the_control_file_is_lost")]
#[case::relation_maps("all_relation_maps_are_lost")]
#[case::an_index_of_a_shared_catalog("the_index_of_database_names_is_lost")]
#[case::an_index_of_a_user("the_primary_key_is_lost")]
#[case::wal("all_wal_is_lost")]
#[case::the_wal_directory("the_wal_directory_is_lost")]
#[case::template0("the_directory_of_template0_is_lost")]
#[case::pages("a_page_is_garbage")]
#[case::salvage("a_table_is_lost")]
fn a_recovery_without_a_backup_that_is_killed_at_any_step_is_finished_by_the_next(#[case] name: &str) {
    if !has_step_points() {
        return;
    }
    let Some(template) = template(USUAL, Left::Clean) else { return };
    let fault = find(name);
    let scene = Scene { template, damage: fault.damage, has_backup: false };

    kill_everywhere(&scene, fault.expected(Left::Clean, super::fault::Backup::None));
}

#[rstest]
#[case::of_a_stopped_cluster("the_catalog_of_databases_is_lost", Left::Clean)]
#[case::of_a_killed_cluster("the_catalog_of_databases_is_lost", Left::Killed)]
fn a_restore_that_is_killed_at_any_step_is_finished_by_the_next_start(
    #[case] name: &str,
    #[case] left: Left,
) {
    if !has_step_points() {
        return;
    }
    let Some(template) = template(USUAL, left) else { return };
    let scene = Scene { template, damage: find(name).damage, has_backup: true };

    kill_everywhere(&scene, Expect::Lossless);
}

#[test]
fn a_first_start_that_is_killed_at_any_step_is_finished_by_the_next() {
    if !has_step_points() {
        return;
    }
    let Some(template) = template(USUAL, Left::Clean) else { return };
    let scene = Scene { template, damage: "rm -rf ../data ../backups; mkdir ../data", has_backup: true };
    let arguments = ["init-postgresql", "--no-backup"];
    for number in 1..=scene.points(&arguments).len() {
        let sandbox = scene.kill_at(number, &arguments);

        sandbox.succeed(&arguments);

        assert_eq!(sandbox.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'dbuser'"), "1");
    }
}

#[cfg(not(feature = "test-faults"))]
#[test]
fn a_binary_without_the_feature_cannot_be_killed_by_a_variable() {
    let Some(template) = template(USUAL, Left::Clean) else { return };
    let mut sandbox = template.copy();
    sandbox.set(step_points::KILL_AT, "1");
    make("rmdir pg_notify", &sandbox.data());

    sandbox.succeed(&["init-postgresql", "--no-backup"]);
}
