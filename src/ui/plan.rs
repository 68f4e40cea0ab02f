//! A plan as a person reads it, before anything is done.

use super::Ui;
use crate::plan::recovery::Plan;

impl Ui {
    /// Shows a plan on standard error, or as JSON on standard output.
    pub fn plan(&self, plan: &Plan) -> anyhow::Result<()> {
        if self.is_json() {
            return self.json(plan);
        }
        for line in plan.lines() {
            self.info(&line);
        }
        Ok(())
    }
}
